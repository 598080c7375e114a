// SPDX-License-Identifier: Apache-2.0
//! The plugin side: everything between `main` and the plugin's own services.
//!
//! [`run`] is all there is to call. What it does, in order:
//!
//! | Step | Detail |
//! |---|---|
//! | by hand | `--help` and `--version` are answered with exit status 0; without the host's cookie a person is told what the program is, with exit status 1 |
//! | log | `tracing` events become hclog lines on standard error, with the fields of the spans around them; panics too |
//! | signals | SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2, which reach the host's whole group, are ignored; child processes inherit that |
//! | stdout | leads nowhere from here on, for the handshake line alone goes to the host |
//! | socket | a Unix socket for the owner alone, or for `PLUGIN_UNIX_SOCKET_GROUP`, in `PLUGIN_UNIX_SOCKET_DIR` or the temporary folder |
//! | serve | the application's services with `grpc.health.v1.Health`, `plugin.GRPCController`, `plugin.GRPCBroker` and `plugin.GRPCStdio`, on one thread; a panic in a handler ends its call only |
//! | end | when the host asks (calls in flight get one second), dies, or leaves for good; the socket is removed, exit status 0 |
//!
//! All text for people goes to standard error, also that of `--help`: nothing but the handshake line is ever written
//! to standard output.
//!
//! `PLUGIN_LOG` selects what is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) and, separated by
//! commas, other levels for targets, such as `info,h2=debug`. The default is `debug`, with `warn` for the transport
//! libraries.

mod by_hand;
mod environment;
mod host_watch;
mod process;
mod services;

use std::{
    env,
    fs::File,
    io::{self, Write},
    path::Path,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tonic::service::Routes;

use crate::{
    Broker, Handshake, SocketError,
    handshake::{CORE_VERSION, GRPC, HandshakeLine},
    hclog,
    incoming::{Incoming, serve},
    socket::Sockets,
};
pub use by_hand::About;
use environment::Environment;
use services::Session;

/// What calls in flight get when the host asks the plugin to end. Hosts kill after 2 s.
const DRAIN: Duration = Duration::from_secs(1);
/// How long a host that closed its only connection may take to come back.
const RETURN: Duration = Duration::from_secs(5);

/// Why the plugin cannot start. The text goes to the host's log.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(
        "the host asks for AutoMTLS (PLUGIN_CLIENT_CERT is set), which this plugin does not support: switch it off in the host"
    )]
    ClientCertificate,
    #[error("cannot take over standard output")]
    Stdout(#[source] io::Error),
    #[error("cannot start the asynchronous runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot listen")]
    Socket(#[source] SocketError),
    #[error("cannot write the handshake line")]
    Handshake(#[source] io::Error),
}

/// Why a plugin ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Asked,
    HostDied,
    HostLeft,
    ServerFailed,
}

/// Runs the plugin until its host is done with it; the value is for `main` to return.
///
/// `build` makes the plugin's own services. It runs within the plugin's runtime (one thread), may keep a clone of the
/// [`Broker`] to reach services of the host, and may log; the host waits for it.
///
/// The exit status is 0 after a regular end, `--help` and `--version`, and 1 if the program was started by hand or
/// cannot start; the reason is then on standard error.
pub fn run<F>(handshake: Handshake, about: About, build: F) -> ExitCode
where
    F: FnOnce(&Broker) -> Routes,
{
    let argument = env::args_os().nth(1);
    let cookie = env::var_os(&*handshake.cookie_key);
    if let Some(reply) = by_hand::reply(&about, &handshake, argument.as_deref(), cookie.as_deref()) {
        // A closed terminal is no reason to panic.
        let _ = io::stderr().write_all(reply.text.as_bytes());
        return ExitCode::from(reply.status);
    }

    process::ignore_signals();
    // With standard error closed there is nobody to log to, and all else works.
    let _ = hclog::install();
    process::log_panics();
    // Kept open to the very end: a host takes the end of the pipe for the end of the plugin, and kills it, perhaps
    // before the line that says why has been written.
    let mut stdout = None;
    let result = process::take_stdout()
        .map_err(StartError::Stdout)
        .and_then(|file| start(&handshake, stdout.insert(file), build));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the plugin cannot start");
            ExitCode::FAILURE
        }
    }
}

/// Removes the sockets however [`start`] is left. The watching thread keeps them from being dropped.
struct Unlink(Arc<Sockets>);

impl Drop for Unlink {
    fn drop(&mut self) {
        self.0.unlink();
    }
}

/// Starts and serves; returns when the plugin is to end.
fn start<F>(handshake: &Handshake, stdout: &mut File, build: F) -> Result<(), StartError>
where
    F: FnOnce(&Broker) -> Routes,
{
    let parent = nix::unistd::getppid();
    let environment = Environment::read(|name| env::var_os(name));
    if environment.client_certificate {
        return Err(StartError::ClientCertificate);
    }
    environment.warn_of_version(handshake.protocol_version);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let entered = runtime.enter();
    let sockets = Arc::new(Sockets::new(environment.socket_dir.clone(), environment.socket_group.clone()));
    let unlink = Unlink(Arc::clone(&sockets));
    // Before there is a socket that could stay behind.
    let died = watch_host(parent, Arc::clone(&sockets));
    let (listener, path) = sockets.bind().map_err(StartError::Socket)?;
    let broker = Broker::new(Arc::clone(&sockets));
    let session = Session::new(broker.clone());
    let routes = session.add_to(build(&broker));

    let line = line(handshake, &environment, &path);
    stdout.write_all(format!("{line}\n").as_bytes()).map_err(StartError::Handshake)?;

    drop(entered);
    let end = runtime.block_on(serve_until_end(routes, Incoming::new(listener), &session, died, &sockets));
    broker.close();
    // Not waited for: a thread that the application left working must not keep the plugin alive.
    runtime.shutdown_background();
    drop(unlink);
    tracing::debug!(reason = ?end, "the plugin ends");
    Ok(())
}

fn line(handshake: &Handshake, environment: &Environment, path: &Path) -> HandshakeLine {
    HandshakeLine {
        core: CORE_VERSION.into(),
        app: handshake.protocol_version.to_string(),
        network: "unix".into(),
        address: path.to_string_lossy().into_owned(),
        protocol: Some(GRPC.into()),
        certificate: None,
        multiplex: environment.asks_for_multiplexing.then(|| "false".into()),
    }
}

/// Becomes true when the host dies. Should the runtime then be stuck, the process is ended for it.
fn watch_host(parent: nix::unistd::Pid, sockets: Arc<Sockets>) -> watch::Receiver<bool> {
    let died = watch::Sender::new(false);
    let receiver = died.subscribe();
    let watching = host_watch::start(
        parent,
        move || {
            died.send_replace(true);
        },
        move || sockets.unlink(),
    );
    if let Err(error) = watching {
        tracing::warn!(%error, "cannot watch the host process; its end is noticed by the lost connection only");
    }
    receiver
}

async fn serve_until_end(
    routes: Routes,
    incoming: Incoming,
    session: &Session,
    mut died: watch::Receiver<bool>,
    sockets: &Sockets,
) -> End {
    let open = incoming.open();
    let mut serving = pin!(serve(routes, incoming, session.ended()));
    let host_died = async {
        // The sender is gone if there is no watching thread.
        if died.wait_for(|died| *died).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let end = tokio::select! {
        biased;
        () = session.ended() => End::Asked,
        () = host_died => End::HostDied,
        () = host_left(open, session) => End::HostLeft,
        served = &mut serving => {
            if let Err(error) = served {
                tracing::error!(error = &error as &dyn std::error::Error, "the server failed");
            }
            End::ServerFailed
        }
    };
    session.end();
    sockets.unlink();
    if end == End::Asked && timeout(DRAIN, serving).await.is_err() {
        tracing::warn!("calls still in flight are cut off");
    }
    end
}

/// Resolves when the host has left: it had opened its broker stream, which hosts keep for their life, and for
/// [`RETURN`] there is no connection at all.
async fn host_left(mut open: watch::Receiver<usize>, session: &Session) {
    loop {
        session.streamed().await;
        if open.wait_for(|open| *open == 0).await.is_err() {
            return;
        }
        if timeout(RETURN, open.wait_for(|open| *open > 0)).await.is_err() {
            return;
        }
    }
}
