// SPDX-License-Identifier: Apache-2.0
//! Judged by hashicorp's own Go library: a host in Go loads our plugin, our host loads a plugin in Go.
//!
//! The programs are in `tests/go` of the repository. Without Go, its modules or that folder (it is not part of the
//! published crate) the tests say so in a line that begins with `SKIPPED: `, which also goes to the file that the
//! variable `SKIP_REPORT` names.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use common::{
    PATIENCE, alive,
    events::Events,
    example,
    kv::{
        AUDIT_SERVICE, handshake,
        proto::{
            GetRequest, PutRequest, RecordRequest, RecordResponse,
            audit_server::{Audit, AuditServer},
            kv_client::KvClient,
        },
    },
    until,
};
use go_plugin::host::Launch;
use tonic::{Code, Request, Response, Status, service::Routes};
use tracing_subscriber::layer::SubscriberExt;

/// Says that a test does not run here.
fn skip(reason: &str) {
    let line = format!("SKIPPED: conformance of go-plugin with Go ({reason})");
    println!("{line}");
    if let Some(report) = std::env::var_os("SKIP_REPORT")
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(report)
    {
        let thread = std::thread::current();
        let _ = writeln!(file, "{line}: {}", thread.name().unwrap_or("?"));
    }
}

/// Builds the program in folder `name`, `None` if that cannot be done here.
fn build(name: &str, out: &Path) -> Option<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/go");
    if !module.join("go.mod").exists() {
        skip("the Go programs are not here");
        return None;
    }
    let go = |args: &[&str]| Command::new("go").args(args).current_dir(&module).stdin(Stdio::null()).output();
    match go(&["mod", "download"]) {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            skip(&format!("the Go modules cannot be had: {}", text.lines().last().unwrap_or_default()));
            return None;
        }
        Err(error) => {
            skip(&format!("no go command: {error}"));
            return None;
        }
    }
    let program = out.join(name);
    let output = go(&["build", "-mod=readonly", "-o", program.to_str().unwrap(), &format!("./{name}")]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

#[test]
fn a_host_in_go_loads_our_plugin() {
    let out = tempfile::tempdir().unwrap();
    let Some(host) = build("host", out.path()) else {
        return;
    };
    let sockets = tempfile::tempdir().unwrap();
    let output =
        Command::new(host).arg(example("kv_plugin")).env("TMPDIR", sockets.path()).stdin(Stdio::null()).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let proven: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("proven: ")).collect();
    assert_eq!(
        proven,
        [
            "started by checksum, protocol grpc version 1",
            "healthy",
            "unary calls",
            "stream",
            "broker",
            "log",
            "ended by itself, plugin gone",
            "multiplexing is refused",
            "AutoMTLS is refused",
            "another version is refused",
        ]
    );
}

/// The host's service.
struct Counter(AtomicU64);

#[tonic::async_trait]
impl Audit for Counter {
    async fn record(&self, _: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Response::new(RecordResponse { count }))
    }
}

#[tokio::test]
async fn our_host_loads_a_plugin_in_go() {
    let out = tempfile::tempdir().unwrap();
    let Some(program) = build("plugin", out.path()) else {
        return;
    };
    let events = Events::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(events.clone()));
    let sockets = tempfile::tempdir().unwrap();
    let audit = Arc::new(Counter(AtomicU64::new(0)));
    let plugin = Launch::new(program)
        .handshake(handshake())
        .start_timeout(PATIENCE)
        .socket_dir(sockets.path())
        .log_name("go")
        .host_services(AUDIT_SERVICE, Routes::new(AuditServer::from_arc(Arc::clone(&audit))))
        .start()
        .await
        .unwrap();
    assert!(plugin.healthy().await.unwrap());

    let mut kv = KvClient::new(plugin.channel());
    let get = |key: &str| GetRequest { key: key.into() };
    for audit in [true, true, false] {
        kv.put(PutRequest { key: "one".into(), value: b"value".to_vec(), audit }).await.unwrap();
    }
    assert_eq!(audit.0.load(Ordering::Relaxed), 2);
    assert_eq!(kv.get(get("one")).await.unwrap().into_inner().value, b"value");

    // What the plugin offers, the host dials.
    let missing = kv.get(get("offer")).await.unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "no such key"));
    let offered = plugin.broker().dial(7).await.unwrap();
    assert_eq!(KvClient::new(offered).get(get("one")).await.unwrap().into_inner().value, b"value");

    for key in ["print", "foreign"] {
        kv.get(get(key)).await.unwrap_err();
    }
    for line in [
        "INFO message=the host keeps a record plugin=\"go\" module=\"gokv\" fields=\"count=2 key=one\"",
        "DEBUG message=printed by Go plugin=\"go\" stream=\"stdout\"",
        "DEBUG message=foreign text plugin=\"go\"",
    ] {
        until(line, || events.seen().iter().any(|seen| seen == line)).await;
    }

    let pid = plugin.pid();
    let report = plugin.shutdown().await;
    assert_eq!(report.to_string(), "exit status 0");
    assert!(!alive(pid));
    // Our host's sockets, the plugin's main one, and the one that it offered through the broker.
    until("all sockets are gone", || common::files(sockets.path()).is_empty()).await;
}
