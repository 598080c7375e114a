// SPDX-License-Identifier: Apache-2.0
//! A Keylime agent: ours or the stock one, which take the same settings.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};

use super::http::{self, ClientFiles, HttpAnswer};
use super::servers::KeylimeServers;
use crate::ports::{self, Port};
use crate::process::{Part, Program};
use crate::scratch::Scratch;

/// Limit for registration and start.
const LIMIT: Duration = Duration::from_secs(60);

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct KeylimeAgentOptions {
    /// The program.
    pub binary: PathBuf,
    /// Option `uuid`: an id, `hash_ek` or `generate`.
    pub uuid: String,
    /// Option `enable_agent_mtls`; must be that of the servers.
    pub mtls: bool,
    /// Registers over TLS, which the stock agent cannot.
    pub registrar_tls: bool,
    /// Option `keylime_dir`; a new folder when there is none. With the folder of an agent that has been stopped the
    /// new one takes over from it.
    pub folder: Option<PathBuf>,
    /// `RUST_LOG`.
    pub log: String,
    /// Further variables, such as `KEYLIME_AGENT_TPM_SIGNING_ALG`; they have the last word.
    pub env: Vec<(String, String)>,
}

impl KeylimeAgentOptions {
    /// The options that suit most tests: mTLS on, plain registration, id from the EK.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            uuid: "hash_ek".to_owned(),
            mtls: true,
            registrar_tls: false,
            folder: None,
            log: "keylime_agent=debug,keylime=debug,info".to_owned(),
            env: Vec::new(),
        }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }
}

/// A running Keylime agent.
#[derive(Debug)]
pub struct KeylimeAgent {
    /// Its REST port.
    pub port: u16,
    /// Its `keylime_dir`.
    pub folder: PathBuf,
    mtls: bool,
    program: Program,
    part: Part,
    client: (PathBuf, PathBuf),
    scratch: Scratch,
    _port: Port,
}

impl KeylimeAgent {
    /// Starts an agent on the TPM behind `tcti` and waits until it is registered and listens.
    ///
    /// # Errors
    /// When it ends early or does not listen within a minute; with the end of its log.
    pub fn start(tcti: &str, servers: &KeylimeServers, options: &KeylimeAgentOptions) -> Result<Self> {
        ports::retry(|| {
            let mut agent = Self::launch(tcti, servers, options)?;
            agent.wait_listening()?;
            Ok(agent)
        })
    }

    /// Starts an agent and does not wait for anything, for tests of what happens at the start.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn launch(tcti: &str, servers: &KeylimeServers, options: &KeylimeAgentOptions) -> Result<Self> {
        let scratch = Scratch::new("agent")?;
        let folder = match &options.folder {
            Some(folder) => folder.clone(),
            None => scratch.folder("keylime")?,
        };
        let port_guard = ports::reserve()?;
        let port = port_guard.number();
        // Not the machine's own configuration.
        let config = scratch.write("agent.conf", "[agent]\n")?;
        let mut program = Program::new(&options.binary)
            .private_mounts()
            .folder(scratch.path())
            .env("TCTI", tcti)
            .env("TSS2_LOG", "all+ERROR")
            .env("RUST_LOG", &options.log)
            .env("KEYLIME_AGENT_CONFIG", config)
            .env("KEYLIME_AGENT_KEYLIME_DIR", &folder)
            .env("KEYLIME_AGENT_UUID", &options.uuid)
            .env("KEYLIME_AGENT_IP", "127.0.0.1")
            .env("KEYLIME_AGENT_PORT", port.to_string())
            .env("KEYLIME_AGENT_CONTACT_IP", "127.0.0.1")
            .env("KEYLIME_AGENT_CONTACT_PORT", port.to_string())
            .env("KEYLIME_AGENT_REGISTRAR_IP", "127.0.0.1")
            .env("KEYLIME_AGENT_REGISTRAR_PORT", servers.registrar_port.to_string())
            .env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", servers.ca_cert())
            .env("KEYLIME_AGENT_ENABLE_AGENT_MTLS", options.mtls.to_string())
            .env("KEYLIME_AGENT_ENABLE_REVOCATION_NOTIFICATIONS", "false")
            .env("KEYLIME_AGENT_RUN_AS", "");
        if !options.mtls {
            // An agent without mTLS refuses to run payload scripts.
            program = program.env("KEYLIME_AGENT_PAYLOAD_SCRIPT", "");
        }
        if options.registrar_tls {
            program = program
                .env("KEYLIME_AGENT_REGISTRAR_TLS_ENABLED", "true")
                .env("KEYLIME_AGENT_REGISTRAR_TLS_PORT", servers.registrar_tls_port.to_string())
                .env("KEYLIME_AGENT_REGISTRAR_TLS_CA_CERT", servers.ca_cert());
        }
        for (name, value) in &options.env {
            program = program.env(name, value);
        }
        let part = program.start("keylime_agent", &scratch.join("agent.log"))?;
        let client = (servers.client_cert(), servers.client_key());
        Ok(Self { port, folder, mtls: options.mtls, program, part, client, scratch, _port: port_guard })
    }

    /// Waits until the agent listens, which it does once it is registered.
    ///
    /// # Errors
    /// When it ends or a minute passes; with the end of its log.
    pub fn wait_listening(&mut self) -> Result<()> {
        let port = self.port;
        self.part.ready("listening", LIMIT, |_| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())).map(drop)
    }

    /// The id it registered under, from its log.
    ///
    /// # Errors
    /// When the log does not say.
    pub fn id(&self) -> Result<String> {
        let log = self.part.log();
        let (_, rest) = log.split_once("Agent UUID: ").context("the log names no agent id")?;
        Ok(rest.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// Its process.
    pub fn part(&mut self) -> &mut Part {
        &mut self.part
    }

    /// The folder of log and configuration.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Asks the agent's REST API, as the verifier would (its client certificate, the agent's certificate unchecked).
    ///
    /// # Errors
    /// When there is no HTTP answer; a status is no error.
    pub fn get(&self, path: &str) -> Result<HttpAnswer> {
        self.caller().get(path)
    }

    /// What asks the agent's REST API, for another thread.
    #[must_use]
    pub fn caller(&self) -> AgentCaller {
        AgentCaller { port: self.port, client: self.mtls.then(|| self.client.clone()) }
    }

    /// Ends the agent as a service manager does.
    ///
    /// # Errors
    /// When it does not end within 15 s; it is killed then.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.part.terminate(Duration::from_secs(15))
    }

    /// Starts it again, and kills it (`SIGKILL`) a while later, wherever it is by then.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_and_kill_after(&mut self, moment: Duration) -> Result<()> {
        self.part.kill();
        self.part = self.program.start("keylime_agent", &self.scratch.join("agent.log"))?;
        std::thread::sleep(moment);
        self.part.kill();
        Ok(())
    }

    /// Starts it again, at the same port, with the same data; kills it first if it runs.
    ///
    /// # Errors
    /// As [`KeylimeAgent::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.part.kill();
        self.part = self.program.start("keylime_agent", &self.scratch.join("agent.log"))?;
        self.wait_listening()
    }
}

/// Asks a Keylime agent's REST API; see [`KeylimeAgent::get`].
#[derive(Debug, Clone)]
pub struct AgentCaller {
    port: u16,
    /// Client certificate and key, where mTLS is on.
    client: Option<(PathBuf, PathBuf)>,
}

impl AgentCaller {
    /// As [`KeylimeAgent::get`].
    ///
    /// # Errors
    /// When there is no HTTP answer; a status is no error.
    pub fn get(&self, path: &str) -> Result<HttpAnswer> {
        self.call(path, &[])
    }

    /// Asks with further arguments of curl.
    ///
    /// # Errors
    /// When there is no HTTP answer; a status is no error.
    pub fn call(&self, path: &str, args: &[&str]) -> Result<HttpAnswer> {
        let scheme = if self.client.is_some() { "https" } else { "http" };
        let files = self.client.as_ref().map(|(cert, key)| ClientFiles { ca: None, cert, key });
        http::call(&format!("{scheme}://127.0.0.1:{}{path}", self.port), files, args)
    }
}
