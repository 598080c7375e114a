// SPDX-License-Identifier: Apache-2.0
//! What a plugin survives, and how it ends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    pin::Pin,
    process::{Command, Stdio},
    task::Poll,
    time::{Duration, Instant},
};

use common::{
    Bare, PATIENCE, alive, command, files,
    kv::proto::{GetRequest, WatchRequest, kv_client::KvClient},
    launch, until,
    wire::{
        ConnInfo, Empty, grpc_broker_client::GrpcBrokerClient, grpc_controller_client::GrpcControllerClient,
        grpc_stdio_client::GrpcStdioClient,
    },
};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::{Mode, umask},
    },
    unistd::Pid,
};
use prost::bytes::Bytes;
use tokio::{net::UnixStream, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

async fn get(channel: &Channel, key: &str) -> Result<(), tonic::Status> {
    let request = GetRequest { key: key.into() };
    let mut client = KvClient::new(channel.clone());
    timeout(PATIENCE, client.get(request)).await.expect("an answer in time").map(|_| ())
}

async fn shut_down(channel: &Channel) {
    let mut controller = GrpcControllerClient::new(channel.clone());
    controller.shutdown(Empty {}).await.expect("the reply to Shutdown");
}

#[tokio::test]
async fn signals_to_the_hosts_group_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = launch("kv_plugin", dir.path()).start().await.unwrap();
    let pid = Pid::from_raw(plugin.pid().cast_signed());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPIPE] {
        kill(pid, signal).unwrap();
        assert!(plugin.healthy().await.unwrap(), "{signal}");
    }
    let report = plugin.shutdown().await;
    assert!(report.success(), "{report}");
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn only_the_handshake_line_reaches_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = Bare::start(command("faulty_plugin", dir.path()));
    assert!(plugin.line.starts_with("1|1|unix|"), "{}", plugin.line);
    let channel = plugin.connect().await;
    get(&channel, "print").await.unwrap();
    shut_down(&channel).await;
    assert!(plugin.wait().await.success());
    let mut rest = String::new();
    plugin.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn a_panic_ends_its_call_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = Bare::start(command("faulty_plugin", dir.path()));
    let channel = plugin.connect().await;
    let mut client = KvClient::new(channel.clone());

    // Another call of the same connection is in flight all the while.
    let watch = WatchRequest { key: "sleep".into() };
    let mut other = client.watch(watch).await.unwrap().into_inner();
    assert!(other.message().await.unwrap().is_some());

    let status = get(&channel, "panic").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "the handler failed"));

    let watch = WatchRequest { key: "panic".into() };
    let mut stream = client.watch(watch).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.value, b"first");
    let status = stream.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "the handler failed"));

    get(&channel, "anything").await.unwrap();
    let waiting = timeout(Duration::from_millis(50), other.message());
    assert!(waiting.await.is_err(), "the other call goes on");

    drop((other, client));
    shut_down(&channel).await;
    assert!(plugin.wait().await.success());
    let panics: Vec<serde_json::Value> = BufReader::new(plugin.child.stderr.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).expect("hclog only"))
        .filter(|line: &serde_json::Value| line["@level"] == "error")
        .collect();
    assert_eq!(panics.len(), 2);
    assert_eq!(panics[0]["@message"], "panicked: the call was asked to panic");
    assert_eq!(panics[0]["attempt"], "a-17");
    assert_eq!(panics[1]["@message"], "panicked: the stream was asked to panic");
    assert!(panics[1]["location"].as_str().unwrap().contains("faulty_plugin.rs"));
}

#[tokio::test]
async fn a_host_that_does_not_read_the_log_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = Bare::start(command("faulty_plugin", dir.path()));
    let channel = plugin.connect().await;
    // Five megabytes into a pipe that nobody reads.
    get(&channel, "flood").await.unwrap();
    get(&channel, "flood").await.unwrap();
    shut_down(&channel).await;
    assert!(plugin.wait().await.success());
}

#[tokio::test]
async fn a_dead_stderr_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = Bare::start(command("faulty_plugin", dir.path()));
    drop(plugin.child.stderr.take());
    let channel = plugin.connect().await;
    get(&channel, "flood").await.unwrap();
    assert_eq!(get(&channel, "panic").await.unwrap_err().code(), Code::Internal);
    get(&channel, "log").await.unwrap();
    shut_down(&channel).await;
    assert!(plugin.wait().await.success());
}

#[tokio::test]
async fn shutdown_under_load_is_quick_and_clean() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = Bare::start(command("faulty_plugin", dir.path()));
    let channel = plugin.connect().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let watch = WatchRequest { key: "sleep".into() };
        let mut client = KvClient::new(channel.clone());
        streams.push(client.watch(watch).await.unwrap().into_inner());
        let channel = channel.clone();
        tokio::spawn(async move { get(&channel, "sleep").await });
    }
    let start = Instant::now();
    shut_down(&channel).await;
    let replied = start.elapsed();
    let status = plugin.wait().await;
    let ended = start.elapsed();
    assert!(status.success(), "{status}");
    assert!(replied < Duration::from_millis(500), "reply after {replied:?}");
    assert!(ended < Duration::from_millis(1900), "end after {ended:?}");
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn shutdown_without_load_is_immediate_also_with_the_hosts_streams_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = Bare::start(command("kv_plugin", dir.path()));
    let channel = plugin.connect().await;
    let (_sender, announcements) = tokio::sync::mpsc::channel::<ConnInfo>(1);
    let mut broker = GrpcBrokerClient::new(channel.clone())
        .start_stream(ReceiverStream::new(announcements))
        .await
        .unwrap()
        .into_inner();
    let mut stdio = GrpcStdioClient::new(channel.clone()).stream_stdio(()).await.unwrap().into_inner();
    let silent = timeout(Duration::from_millis(50), stdio.message());
    assert!(silent.await.is_err(), "open and silent");
    let start = Instant::now();
    shut_down(&channel).await;
    assert!(broker.message().await.unwrap().is_none());
    assert!(stdio.message().await.unwrap().is_none());
    assert!(plugin.wait().await.success());
    assert!(start.elapsed() < Duration::from_millis(900));
}

#[tokio::test]
async fn health_is_as_in_go() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = Bare::start(command("kv_plugin", dir.path()));
    let mut health = HealthClient::new(plugin.connect().await);
    for service in ["plugin", ""] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service:?} is SERVING");
    }
    let request = HealthCheckRequest { service: "other".into() };
    let status = health.check(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let answer = watch.message().await.unwrap().unwrap();
    assert_eq!(answer.status, 3, "SERVICE_UNKNOWN");
}

/// An HTTP/2 connection whose frames go out when the test says so.
async fn by_hand(plugin: &Bare) -> (h2::client::SendRequest<Bytes>, h2::client::Connection<UnixStream, Bytes>) {
    let stream = UnixStream::connect(plugin.socket()).await.unwrap();
    h2::client::Builder::new().initial_max_send_streams(CANCELLED).handshake(stream).await.unwrap()
}

fn open(
    requests: &mut h2::client::SendRequest<Bytes>,
    path: &str,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let request = http::Request::post(format!("http://unused{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    requests.send_request(request, false).unwrap()
}

/// Writes what there is to write.
async fn flush(connection: &mut h2::client::Connection<UnixStream, Bytes>) {
    std::future::poll_fn(|cx| {
        assert!(Pin::new(&mut *connection).poll(cx).is_pending(), "the plugin ended the connection");
        Poll::Ready(())
    })
    .await;
}

/// Calls opened and cancelled while the plugin is busy.
const CANCELLED: usize = 1000;

#[tokio::test]
async fn calls_cancelled_while_the_plugin_is_busy_cost_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let plugin = Bare::start(command("faulty_plugin", dir.path()));
    let (mut requests, mut connection) = by_hand(&plugin).await;
    let (_broker, _announcements) = open(&mut requests, "/plugin.GRPCBroker/StartStream");
    flush(&mut connection).await;

    let other = plugin.connect().await;
    let key = format!("hold {}", mark.display());
    let held = tokio::spawn(async move { get(&other, &key).await });
    until("the plugin is busy", || mark.exists()).await;
    let mut calls: Vec<_> = (0..CANCELLED).map(|_| open(&mut requests, "/kv.Kv/Get")).collect();
    flush(&mut connection).await;
    for (_, call) in &mut calls {
        call.send_reset(h2::Reason::CANCEL);
    }
    flush(&mut connection).await;
    std::fs::remove_file(&mark).unwrap();
    held.await.unwrap().unwrap();

    let (answer, mut call) = open(&mut requests, "/kv.Kv/Get");
    // An empty message.
    call.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let answer = async {
        tokio::select! {
            ended = &mut connection => panic!("the plugin ended the connection: {ended:?}"),
            answer = answer => answer.unwrap(),
        }
    };
    assert_eq!(timeout(PATIENCE, answer).await.expect("an answer in time").status(), 200);
}

#[tokio::test]
async fn the_socket_is_the_owners_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mut command = command("kv_plugin", dir.path());
    // SAFETY: umask is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            umask(Mode::empty());
            Ok(())
        });
    }
    let plugin = Bare::start(command);
    let mode = plugin.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Not a test of its own: the host process that the tests below kill.
#[tokio::test]
async fn host_process() {
    let Some(dir) = std::env::var_os("TEST_HOST_SOCKET_DIR") else {
        return;
    };
    let key = std::env::var("TEST_HOST_CALL").unwrap();
    let plugin = launch("faulty_plugin", dir.as_ref()).start().await.unwrap();
    let channel = plugin.channel();
    tokio::spawn(async move { get(&channel, &key).await });
    println!("plugin {}", plugin.pid());
    std::future::pending().await
}

/// Starts a host that calls its plugin, kills it, and waits for the plugin's end.
async fn kill_the_host(stuck: bool) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let notes = tempfile::tempdir().unwrap();
    let mark = notes.path().join("mark");
    let key = if stuck { format!("block {}", mark.display()) } else { "sleep".into() };
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host_process", "--nocapture"])
        .env("TEST_HOST_SOCKET_DIR", dir.path())
        .env("TEST_HOST_CALL", key)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid: u32 = BufReader::new(host.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().split_once("plugin ")?.1.parse().ok())
        .expect("the host says its plugin's process ID");
    assert!(alive(pid));
    if stuck {
        until("the plugin is stuck", || mark.exists()).await;
    }
    let start = Instant::now();
    host.kill().unwrap();
    host.wait().unwrap();
    until("the plugin ends", || !alive(pid)).await;
    assert_eq!(files(dir.path()), [""; 0], "sockets left behind");
    start.elapsed()
}

#[tokio::test]
async fn the_plugin_ends_with_a_killed_host_and_leaves_no_socket() {
    kill_the_host(false).await;
}

#[tokio::test]
async fn a_plugin_that_is_stuck_ends_with_its_host_as_well() {
    let after = kill_the_host(true).await;
    assert!(after > Duration::from_millis(1500), "stuck, yet it ended at once");
}
