// SPDX-License-Identifier: Apache-2.0
//! What the tests share: the plugins they start, and a plain way to start one.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of this file")]

pub mod events;

#[path = "../../examples/kv/mod.rs"]
pub mod kv;

/// The protocol's own services, as a host that is not of this crate sees them.
#[allow(missing_docs)]
pub mod wire {
    include!("../../src/generated/plugin.rs");
}

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use go_plugin::host::Launch;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// How long anything that must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Path of an example of this crate. `cargo test` builds them all; a run of a single test file may have to.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("path of the test");
    let target = test.parent().and_then(Path::parent).expect("target folder of the test");
    let path = target.join("examples").join(name);
    if !path.exists() {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--package", env!("CARGO_PKG_NAME"), "--example"])
            .arg(name)
            .env("CARGO_TARGET_DIR", target.parent().expect("target folder"))
            .status()
            .expect("start cargo");
        assert!(status.success() && path.exists(), "no {}", path.display());
    }
    path
}

/// A launch of an example with its sockets in `dir`.
pub fn launch(name: &str, dir: &Path) -> Launch {
    Launch::new(example(name)).handshake(kv::handshake()).start_timeout(PATIENCE).socket_dir(dir)
}

/// A plugin started without the host side of this crate; killed when dropped.
pub struct Bare {
    pub child: Child,
    pub stdout: BufReader<ChildStdout>,
    pub line: String,
}

/// A command for an example with its sockets in `dir`, all three streams piped or closed.
pub fn command(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(example(name));
    command
        .env("KV_PLUGIN", &*kv::handshake().cookie_value)
        .env("PLUGIN_PROTOCOL_VERSIONS", "1")
        .env("PLUGIN_UNIX_SOCKET_DIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Bare {
    /// Starts the command and reads the first line.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("start the plugin");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("read the handshake");
        Self { child, stdout, line }
    }

    /// Path of the socket.
    pub fn socket(&self) -> PathBuf {
        self.line.split('|').nth(3).expect("an address").into()
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Channel {
        let path = self.socket();
        Endpoint::from_static("http://unused")
            .connect_with_connector(tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
            .expect("connect to the plugin")
    }

    /// Waits for the end and returns the exit status.
    pub async fn wait(&mut self) -> std::process::ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the plugin") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the plugin does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names of the files in a folder.
pub fn files(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .expect("list the folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into())
        .collect()
}

/// Whether a process is there and running, rather than waiting to be reaped.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z')))
        .unwrap_or(false)
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
