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
//! | end | when the host asks (calls in flight get one second), or dies; a lost connection alone is none; the socket is removed, exit status 0 |
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
/// How long a thread that did blocking work waits for more.
const KEEP_THREAD: Duration = Duration::from_millis(100);

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

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Plugins block now and then, to look at a file or a name: a thread that waits for the next time is memory.
        .thread_keep_alive(KEEP_THREAD)
        .build()
        .map_err(StartError::Runtime)?;
    let entered = runtime.enter();
    let sockets = Arc::new(Sockets::new(environment.socket_dir.clone(), environment.socket_group.clone()));
    let unlink = Unlink(Arc::clone(&sockets));
    // Before there is a socket that could stay behind.
    let died = host_died(parent, Arc::clone(&sockets));
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

/// Resolves when the host dies. Should the runtime then be stuck, the process is ended for it.
fn host_died(parent: nix::unistd::Pid, sockets: Arc<Sockets>) -> impl Future<Output = ()> {
    let died = watch::Sender::new(false);
    let mut receiver = died.subscribe();
    let watching = host_watch::start(
        parent,
        move || {
            died.send_replace(true);
        },
        move || sockets.unlink(),
    );
    if let Err(error) = watching {
        tracing::warn!(%error, "cannot watch the host process with a thread; a plugin that is stuck may outlive it");
    }
    async move {
        // The sender is gone if there is no watching thread.
        if receiver.wait_for(|died| *died).await.is_err() {
            host_watch::poll_parent(parent).await;
        }
    }
}

/// Serves until the host asks for the end or has died. A host that has lost its connection, or closed it, may come
/// back: as long as its process lives the plugin is its own to end.
async fn serve_until_end(
    routes: Routes,
    incoming: Incoming,
    session: &Session,
    host_died: impl Future<Output = ()>,
    sockets: &Sockets,
) -> End {
    let mut serving = pin!(serve(routes, incoming, session.ended()));
    let end = tokio::select! {
        biased;
        () = session.ended() => End::Asked,
        () = host_died => End::HostDied,
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

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::{
        broker,
        proto::{ConnInfo, grpc_broker_client::GrpcBrokerClient},
    };

    #[tokio::test(start_paused = true)]
    async fn a_host_that_lives_is_waited_for_however_long_it_is_without_a_connection() {
        let dir = tempfile::tempdir().expect("a folder");
        let sockets = Arc::new(Sockets::new(Some(dir.path().into()), None));
        let (listener, path) = sockets.bind().expect("a socket");
        let session = Session::new(Broker::new(Arc::clone(&sockets)));
        let routes = session.add_to(Routes::default());
        let gone = async {
            for _ in 0..2 {
                let channel = broker::connect("unix", &path.to_string_lossy()).await.expect("a connection");
                // As hosts do for as long as they are there.
                let (announcements, stream) = tokio::sync::mpsc::channel::<ConnInfo>(1);
                let mut client = GrpcBrokerClient::new(channel);
                let stream = client.start_stream(ReceiverStream::new(stream)).await.expect("the broker stream");
                drop((announcements, stream, client));
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            UnixStream::connect(&path).await.expect("the plugin listens");
        };
        let served = serve_until_end(routes, Incoming::new(listener), &session, std::future::pending(), &sockets);
        tokio::select! {
            end = served => panic!("{end:?}"),
            () = gone => {}
        }
    }
}
