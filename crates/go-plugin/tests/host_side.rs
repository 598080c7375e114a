// SPDX-License-Identifier: Apache-2.0
//! What a host gets from a plugin, good or bad.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{
    alive,
    events::Events,
    example, files,
    kv::{
        AUDIT_SERVICE, handshake,
        proto::{
            GetRequest, PutRequest, RecordRequest, RecordResponse,
            audit_server::{Audit, AuditServer},
            kv_client::KvClient,
        },
    },
    launch, until,
};
use go_plugin::{
    Handshake,
    host::{Launch, LaunchError, Sha256},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ring::digest;
use tonic::{Code, Request, Response, Status, service::Routes};
use tracing_subscriber::layer::SubscriberExt;

/// An executable script in `dir`.
fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("script");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&path).unwrap();
    file.write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    path
}

fn sha256(path: &Path) -> Sha256 {
    let digest = digest::digest(&digest::SHA256, &fs::read(path).unwrap());
    Sha256(digest.as_ref().try_into().unwrap())
}

async fn failure(program: &Path) -> LaunchError {
    // A script file may still be open for writing in another test's child between its fork and its exec.
    loop {
        let error =
            Launch::new(program).handshake(handshake()).start_timeout(common::PATIENCE).start().await.unwrap_err();
        match error {
            LaunchError::Execute { source, .. } if source.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            error => return error,
        }
    }
}

#[tokio::test]
async fn each_failure_to_start_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    for (text, message) in [
        ("exit 3", "plugin exited before we could connect: exit status 3"),
        ("kill -9 $$", "plugin exited before we could connect: signal 9"),
        ("echo hello; sleep 60", "unrecognized remote plugin message: \"hello\""),
        ("echo; sleep 60", "unrecognized remote plugin message: \"\""),
        ("echo '2|1|unix|/s|grpc|'", "incompatible core API version with plugin. Plugin version: 2, Core version: 1"),
        ("echo '1|2|unix|/s|grpc|'", "incompatible API version with plugin. Plugin version: 2, Client versions: [1]"),
        ("echo '1|1|pipe|/s|grpc|'", "unknown address type: pipe \"/s\""),
        ("echo '1|1|unix|/s|netrpc|'", "unsupported plugin protocol \"netrpc\". Supported: [grpc]"),
        ("echo '1|1|unix|/nowhere|grpc|'", "cannot connect to the plugin at \"/nowhere\""),
    ] {
        let error = failure(&script(dir.path(), text)).await;
        assert_eq!(error.to_string(), message, "{text}");
    }
    let missing = dir.path().join("missing");
    let error = failure(&missing).await;
    assert_eq!(error.to_string(), format!("cannot execute {}", missing.display()));
}

#[tokio::test]
async fn a_first_line_without_end_is_cut_at_64_kib() {
    let dir = tempfile::tempdir().unwrap();
    let error = failure(&script(dir.path(), "head -c 100000 /dev/zero | tr '\\0' x; sleep 60")).await;
    let LaunchError::Unrecognized { line } = error else {
        panic!("{error}");
    };
    assert_eq!(line, "x".repeat(200));
}

#[tokio::test]
async fn a_silent_plugin_times_out_and_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("pid");
    let program = script(dir.path(), &format!("echo $$ > {}; exec sleep 600", note.display()));
    let pid = || {
        let text = fs::read_to_string(&note).ok()?;
        text.strip_suffix('\n')?.parse::<u32>().ok()
    };
    let mut timeout = Duration::from_millis(100);
    let pid = loop {
        let error = Launch::new(&program).handshake(handshake()).start_timeout(timeout).start().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("timeout while waiting for plugin to start ({} ms)", timeout.as_millis())
        );
        // On a busy machine the script may not have come far enough to be looked for.
        match pid() {
            Some(pid) => break pid,
            None => timeout *= 2,
        }
    };
    until("the plugin is killed", || !alive(pid)).await;
}

#[tokio::test]
async fn a_wrong_checksum_executes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let program = script(dir.path(), &format!("touch {}; echo hello", mark.display()));
    let actual = sha256(&program);
    let expected = Sha256([7; 32]);
    let start = |checksum| Launch::new(&program).handshake(handshake()).checksum(checksum).start();
    assert_eq!(
        start(expected).await.unwrap_err().to_string(),
        format!("checksums did not match: {} has {actual}, expected {expected}", program.display())
    );
    assert!(!mark.exists());

    // The right one does, scripts included.
    let error = start(actual).await.unwrap_err();
    assert_eq!(error.to_string(), "unrecognized remote plugin message: \"hello\"");
    until("the script ran", || mark.exists()).await;

    let folder = Launch::new(dir.path()).handshake(handshake()).checksum(expected).start();
    assert_eq!(
        folder.await.unwrap_err().to_string(),
        format!("error verifying checksum: cannot read {}", dir.path().display())
    );
}

#[tokio::test]
async fn a_right_checksum_runs_the_plugin_also_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("plugin");
    symlink(example("kv_plugin"), &link).unwrap();
    let plugin = Launch::new(&link)
        .handshake(handshake())
        .start_timeout(common::PATIENCE)
        .checksum(sha256(&link))
        .start()
        .await
        .unwrap();
    assert!(plugin.healthy().await.unwrap());
    assert!(plugin.shutdown().await.success());
}

#[tokio::test]
async fn a_plugin_for_another_host_is_no_plugin_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let error =
        launch("kv_plugin", dir.path()).handshake(Handshake::new("OTHER", "cookie", 1)).start().await.unwrap_err();
    assert_eq!(error.to_string(), "plugin exited before we could connect: exit status 1");
    let error = launch("kv_plugin", dir.path())
        .handshake(Handshake { protocol_version: 9, ..handshake() })
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "incompatible API version with plugin. Plugin version: 1, Client versions: [9]");
}

/// The host's service: counts, or panics.
#[derive(Default)]
struct Counter(Mutex<Vec<String>>);

#[tonic::async_trait]
impl Audit for Arc<Counter> {
    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        let key = request.into_inner().key;
        assert!(key != "panic", "asked to");
        let mut keys = self.0.lock().unwrap();
        keys.push(key);
        let count = keys.len().try_into().unwrap();
        Ok(Response::new(RecordResponse { count }))
    }
}

#[tokio::test]
async fn the_plugin_reaches_the_hosts_services_and_the_host_the_plugins() {
    let dir = tempfile::tempdir().unwrap();
    let counter = Arc::new(Counter::default());
    let plugin = launch("kv_plugin", dir.path())
        .host_services(AUDIT_SERVICE, Routes::new(AuditServer::new(Arc::clone(&counter))))
        .start()
        .await
        .unwrap();
    let mut kv = KvClient::new(plugin.channel());
    let put = |key: &str| PutRequest { key: key.into(), value: b"value".to_vec(), audit: true };
    kv.put(put("one")).await.unwrap();
    let status = kv.put(put("panic")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "a panic of the host's handler");
    kv.put(put("two")).await.unwrap();
    assert_eq!(*counter.0.lock().unwrap(), ["one", "two"]);
    let value = kv.get(GetRequest { key: "two".into() }).await.unwrap();
    assert_eq!(value.into_inner().value, b"value");
    let report = plugin.shutdown().await;
    assert_eq!(report.to_string(), "exit status 0");
    until("all sockets are gone", || files(dir.path()).is_empty()).await;

    let plugin = launch("faulty_plugin", dir.path()).start().await.unwrap();
    let offered = plugin.broker().dial(7).await.unwrap();
    let request = GetRequest { key: "x".into() };
    KvClient::new(offered).get(request).await.unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    drop(plugin);
    until("the sockets of a killed plugin are removed for it", || files(dir.path()).is_empty()).await;
}

#[tokio::test]
async fn a_stuck_plugin_is_killed_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let grace = Duration::from_millis(300);
    let plugin = launch("faulty_plugin", dir.path()).grace(grace).start().await.unwrap();
    let mark = dir.path().join("mark");
    let mut kv = KvClient::new(plugin.channel());
    let key = format!("block {}", mark.display());
    tokio::spawn(async move { kv.get(GetRequest { key }).await });
    until("the plugin is stuck", || mark.exists()).await;
    assert_eq!(plugin.healthy().await.unwrap_err().code(), Code::DeadlineExceeded);
    let pid = plugin.pid();
    let start = Instant::now();
    let report = plugin.shutdown().await;
    assert!(start.elapsed() >= grace);
    assert!(report.killed());
    assert_eq!(report.to_string(), "signal 9 (killed after the grace period)");
    assert!(!alive(pid));
}

#[tokio::test]
async fn dropping_kills_and_a_death_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = launch("kv_plugin", dir.path()).start().await.unwrap();
    let pid = plugin.pid();
    assert!(alive(pid));
    drop(plugin);
    until("the plugin is killed", || !alive(pid)).await;
    until("its socket is removed for it", || files(dir.path()).is_empty()).await;

    let plugin = launch("kv_plugin", dir.path()).start().await.unwrap();
    kill(Pid::from_raw(plugin.pid().cast_signed()), Signal::SIGKILL).unwrap();
    let report = plugin.exited().await;
    assert_eq!(report.to_string(), "signal 9");
    assert!(files(dir.path()).is_empty());
    plugin.healthy().await.unwrap_err();
    assert!(!plugin.shutdown().await.killed());
}

#[tokio::test]
async fn the_plugins_log_comes_back_into_tracing() {
    let events = Events::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(events.clone()));
    let dir = tempfile::tempdir().unwrap();
    let plugin = launch("faulty_plugin", dir.path())
        .log_name("faulty")
        // A backtrace would come before the location.
        .env("RUST_BACKTRACE", "0")
        .start()
        .await
        .unwrap();
    let mut kv = KvClient::new(plugin.channel());
    for key in ["log", "panic"] {
        let _ = kv.get(GetRequest { key: key.into() }).await;
    }
    let expected = [
        "WARN message=one line plugin=\"faulty\" module=\"faulty_plugin\" fields=\"attempt=a-18 field_level=3 size=70000000\"",
        "ERROR message=panicked: the call was asked to panic plugin=\"faulty\" module=\"go_plugin::plugin::process\" fields=\"attempt=a-17 location=",
    ];
    until("the log lines arrive", || {
        let seen = events.seen();
        expected.iter().all(|text| seen.iter().any(|line| line.starts_with(text)))
    })
    .await;
    plugin.shutdown().await;
}

#[tokio::test]
async fn foreign_text_on_stderr_is_logged_raw() {
    let events = Events::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(events.clone()));
    let dir = tempfile::tempdir().unwrap();
    let program = script(
        dir.path(),
        "echo plain >&2; echo 'panic: oops' >&2; echo 'goroutine 1' >&2; head -c 70000 /dev/zero | tr '\\0' x >&2; echo >&2; echo x",
    );
    failure(&program).await;
    until("the last line arrives", || events.seen().len() >= 5).await;
    let seen = events.seen();
    assert_eq!(
        seen[..3],
        [
            "DEBUG message=plain plugin=\"script\"",
            "ERROR message=panic: oops plugin=\"script\"",
            "ERROR message=goroutine 1 plugin=\"script\"",
        ]
    );
    let long: usize = seen[3..].iter().map(|line| line.matches('x').count()).sum();
    assert_eq!(long, 70_000);
    assert!(seen[3..].iter().all(|line| line.starts_with("DEBUG message=x")));
}
