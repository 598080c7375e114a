// SPDX-License-Identifier: Apache-2.0
//! Starting a plugin: what to start, and the way to a connection.

use std::{ffi::OsString, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe::Receiver,
    time::{Instant, timeout_at},
};
use tonic::service::Routes;

use super::{
    ExitReport, LaunchError, Plugin, Sha256,
    child::{Child, Spec, Started},
    connection::Streams,
    log,
};
use crate::{
    Broker, Handshake,
    broker::{ConnectError, connect},
    handshake::{
        CORE_VERSION, ENV_CLIENT_CERT, ENV_MAX_PORT, ENV_MIN_PORT, ENV_MULTIPLEX, ENV_SOCKET_DIR, ENV_SOCKET_GROUP,
        ENV_VERSIONS, GRPC, HandshakeLine,
    },
    hclog::MAX_LINE,
    socket::Sockets,
};

/// Time from the start of the process to the connection.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time from the request to end to the kill.
const GRACE: Duration = Duration::from_secs(2);
/// As much of a foreign first line as an error shows.
const SHOWN: usize = 200;

/// What to start, and how. Each method but [`Launch::start`] sets one thing and returns the rest unchanged.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    checksum: Option<Sha256>,
    handshake: Option<Handshake>,
    start_timeout: Duration,
    grace: Duration,
    log_name: Option<String>,
    socket_dir: Option<PathBuf>,
    host_services: Vec<(u32, Routes)>,
}

impl Launch {
    /// `program` is a path, taken from the working directory if relative; `PATH` is not searched.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            checksum: None,
            handshake: None,
            start_timeout: START_TIMEOUT,
            grace: GRACE,
            log_name: None,
            socket_dir: None,
            host_services: Vec::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds one variable to the environment that the plugin inherits. Those of the protocol cannot be changed so.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    /// Executes the file only if its content has this digest.
    ///
    /// The file is opened once, hashed, and executed by that descriptor, so exchanging it in between has no effect.
    /// Whoever may write into the very file still could; keep it writable to its owner only. Needs `/proc`.
    #[must_use]
    pub fn checksum(mut self, expected: Sha256) -> Self {
        self.checksum = Some(expected);
        self
    }

    /// Cookie and protocol version; required.
    #[must_use]
    pub fn handshake(mut self, handshake: Handshake) -> Self {
        self.handshake = Some(handshake);
        self
    }

    /// How long the plugin may take from its start to the connection, 60 s by default.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long the plugin may take to end when asked, 2 s by default.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Name of the plugin in the host's log, by default the file name of the program.
    #[must_use]
    pub fn log_name(mut self, name: impl Into<String>) -> Self {
        self.log_name = Some(name.into());
        self
    }

    /// Folder of the sockets of both sides, the temporary folder by default. The path must be short (107 bytes with
    /// the socket's name).
    #[must_use]
    pub fn socket_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.socket_dir = Some(dir.into());
        self
    }

    /// Offers `routes` to the plugin as service `service_id` of the broker. May be called for several services.
    ///
    /// A plugin in Go has to dial within 5 s of its start, and once: its broker then forgets the announcement.
    #[must_use]
    pub fn host_services(mut self, service_id: u32, routes: Routes) -> Self {
        self.host_services.push((service_id, routes));
        self
    }

    /// Starts the plugin and connects to it. Must be called within a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// See [`LaunchError`]. The process is killed, also if the future is dropped.
    pub async fn start(self) -> Result<Plugin, LaunchError> {
        let after = self.start_timeout;
        let deadline = Instant::now() + after;
        match timeout_at(deadline, self.start_unlimited()).await {
            Ok(result) => result,
            Err(_) => Err(LaunchError::Timeout { after }),
        }
    }

    async fn start_unlimited(mut self) -> Result<Plugin, LaunchError> {
        let program = self.program.clone();
        let Some(handshake) = self.handshake.take() else {
            return Err(LaunchError::NoHandshake { program });
        };
        let program = std::path::absolute(&program).map_err(|source| LaunchError::Execute { program, source })?;
        let name = self.log_name.take().unwrap_or_else(|| {
            let file_name = program.file_name().unwrap_or(program.as_os_str());
            file_name.to_string_lossy().into_owned()
        });

        let broker = Broker::new(Arc::new(Sockets::new(self.socket_dir.clone(), None)));
        for (service_id, routes) in std::mem::take(&mut self.host_services) {
            broker.serve(service_id, routes).map_err(LaunchError::HostService)?;
        }
        let spec = self.spec(program, &handshake);
        let Started { child, stdout, stderr } = Child::spawn(spec).await?;
        tokio::spawn(log::forward(pipe(stderr)?, name.clone()));
        let mut stdout = BufReader::new(pipe(stdout)?);

        let line = first_line(&mut stdout, &child).await?;
        // Drained, lest a plugin that prints more be held up by a full pipe.
        tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
        let line = check(&line, handshake.protocol_version)?;
        if line.network == "unix" {
            child.owns_socket(line.address.as_str().into());
        }
        let channel = match connect(&line.network, &line.address).await {
            Ok(channel) => channel,
            Err(ConnectError::Network) => {
                return Err(LaunchError::Network { network: line.network, address: line.address });
            }
            Err(ConnectError::Transport(source)) => {
                return Err(LaunchError::Connect { address: line.address, source });
            }
        };
        let streams = Streams::open(&channel, &broker, child.leavings(), &name);
        Ok(Plugin { name, grace: self.grace, channel, broker, streams, child })
    }

    fn spec(&self, program: PathBuf, handshake: &Handshake) -> Spec {
        let mut env = self.env.clone();
        let mut set = |name: &str, value: Option<OsString>| env.push((name.into(), value));
        set(&handshake.cookie_key, Some(handshake.cookie_value.to_string().into()));
        set(ENV_VERSIONS, Some(handshake.protocol_version.to_string().into()));
        set(ENV_MIN_PORT, Some("10000".into()));
        set(ENV_MAX_PORT, Some("25000".into()));
        if let Some(dir) = &self.socket_dir {
            set(ENV_SOCKET_DIR, Some(dir.into()));
        }
        // A host that is itself a plugin must not pass on what its own host asked for.
        for name in [ENV_CLIENT_CERT, ENV_MULTIPLEX, ENV_SOCKET_GROUP] {
            if !self.env.iter().any(|(own, _)| own == name) {
                set(name, None);
            }
        }
        Spec { program, args: self.args.clone(), env, checksum: self.checksum }
    }
}

fn pipe(fd: OwnedFd) -> Result<Receiver, LaunchError> {
    Receiver::from_owned_fd(fd).map_err(LaunchError::Stdout)
}

/// The first line of standard output, of which at most 64 KiB are read.
async fn first_line(stdout: &mut BufReader<Receiver>, child: &Child) -> Result<String, LaunchError> {
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    stdout.take(limit).read_until(b'\n', &mut line).await.map_err(LaunchError::Stdout)?;
    if line.is_empty() {
        // The pipe is closed. If the process lives on, the time-out ends the wait.
        let report = ExitReport { status: child.exited().await, killed: false };
        return Err(LaunchError::Exited { report });
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Checks the handshake line, field by field as a Go host does.
fn check(line: &str, offered: u32) -> Result<HandshakeLine, LaunchError> {
    let Some(fields) = HandshakeLine::parse(line) else {
        let shown = line.trim().chars().take(SHOWN).collect();
        return Err(LaunchError::Unrecognized { line: shown });
    };
    if fields.core != CORE_VERSION {
        return Err(LaunchError::CoreVersion { plugin: shorten(fields.core) });
    }
    if fields.app.parse() != Ok(offered) {
        return Err(LaunchError::AppVersion { plugin: shorten(fields.app), offered });
    }
    if !matches!(fields.network.as_str(), "unix" | "tcp") {
        return Err(LaunchError::Network { network: shorten(fields.network), address: shorten(fields.address) });
    }
    match fields.protocol.as_deref() {
        Some(GRPC) => {}
        other => {
            return Err(LaunchError::Protocol { plugin: shorten(other.unwrap_or("netrpc").to_owned()) });
        }
    }
    if fields.certificate.is_some() {
        return Err(LaunchError::Certificate);
    }
    Ok(fields)
}

fn shorten(text: String) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_the_line_is_checked() {
        let certificate = format!("1|1|unix|/s|grpc|{}", "M".repeat(60));
        let long = format!("{}|x", "y".repeat(1000));
        let shown = format!("unrecognized remote plugin message: \"{}\"", "y".repeat(200));
        for (line, text) in [
            ("\n", "unrecognized remote plugin message: \"\""),
            ("hello\n", "unrecognized remote plugin message: \"hello\""),
            (&long, &shown),
            ("2|1|unix|/s|grpc|", "incompatible core API version with plugin. Plugin version: 2, Core version: 1"),
            ("x|1|unix|/s|grpc|", "incompatible core API version with plugin. Plugin version: x, Core version: 1"),
            ("1|2|unix|/s|grpc|", "incompatible API version with plugin. Plugin version: 2, Client versions: [1]"),
            ("1|1|pipe|/s|grpc|", "unknown address type: pipe \"/s\""),
            ("1|1|unix|/s", "unsupported plugin protocol \"netrpc\". Supported: [grpc]"),
            ("1|1|unix|/s|netrpc|", "unsupported plugin protocol \"netrpc\". Supported: [grpc]"),
            (&certificate, "the plugin sent a server certificate, but AutoMTLS is not in use"),
        ] {
            assert_eq!(check(line, 1).unwrap_err().to_string(), text, "{line}");
        }
        for line in ["1|1|unix|/s|grpc|\n", "1|1|unix|/s|grpc", "1|1|tcp|127.0.0.1:9|grpc||false"] {
            check(line, 1).unwrap();
        }
    }

    #[tokio::test]
    async fn a_launch_without_handshake_starts_nothing() {
        let error = Launch::new("/bin/true").start().await.unwrap_err();
        assert_eq!(error.to_string(), "no handshake was set for /bin/true");
    }
}
