// SPDX-License-Identifier: Apache-2.0
//! Whether a test can run on this machine.
//!
//! A test asks for what it needs first and returns when the answer is `None`. That is printed as
//! `SKIPPED: <what> (<why>)` and, since Cargo hides the output of tests that pass, also appended to the file named by
//! `SKIP_REPORT`, together with the test's name.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::bin;
use crate::keylime::Venv;
use crate::spire::SpireBinaries;

/// Names the file to which skipped tests are appended.
pub const REPORT_VARIABLE: &str = "SKIP_REPORT";

/// The software TPM and the TPM tools.
pub fn swtpm() -> Option<()> {
    let missing = ["swtpm", "swtpm_setup", "swtpm_localca", "tpm2_getcap"].map(|name| (name, bin::in_path(name)));
    match missing.iter().find(|(_, path)| path.is_none()) {
        Some((name, _)) => skip("software TPM", &format!("{name} is not in PATH")),
        None => Some(()),
    }
}

/// Keylime's verifier, registrar and tenant, in a Python environment.
pub fn keylime() -> Option<Venv> {
    Venv::find().or_else(|error| or_skip("Keylime", &error)).ok()
}

/// SPIRE server and agent of the first version that is there.
pub fn spire() -> Option<SpireBinaries> {
    SpireBinaries::find().or_else(|error| or_skip("SPIRE", &error)).ok()
}

/// SPIRE server and agent of this version, one of [`VERSIONS`](crate::spire::VERSIONS).
pub fn spire_version(version: &str) -> Option<SpireBinaries> {
    SpireBinaries::find_version(version).or_else(|error| or_skip("SPIRE", &error)).ok()
}

/// The Keylime plugin pair written in Go.
#[derive(Debug, Clone)]
pub struct GoPeers {
    /// The SPIRE agent's side.
    pub agent_plugin: PathBuf,
    /// The SPIRE server's side.
    pub server_plugin: PathBuf,
}

/// The Go plugin pair, named by `PEER_GO_AGENT_PLUGIN` and `PEER_GO_SERVER_PLUGIN`.
pub fn go_peers() -> Option<GoPeers> {
    let agent_plugin = named_by("the Go agent plugin", "PEER_GO_AGENT_PLUGIN")?;
    let server_plugin = named_by("the Go server plugin", "PEER_GO_SERVER_PLUGIN")?;
    Some(GoPeers { agent_plugin, server_plugin })
}

/// The stock Keylime agent, named by `PEER_KEYLIME_AGENT`.
pub fn stock_agent() -> Option<PathBuf> {
    named_by("the stock Keylime agent", "PEER_KEYLIME_AGENT")
}

/// The Go toolchain, to build the small conformance programs.
pub fn go() -> Option<PathBuf> {
    program("go")
}

/// Any other program in `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    bin::in_path(name).or_else(|| skip(name, "not in PATH"))
}

/// A shared library where the loader finds it by itself, such as `libefivar.so.1`.
pub fn library(name: &str) -> Option<()> {
    let paths = ["ldconfig", "/sbin/ldconfig"];
    let known = paths.iter().find_map(|ldconfig| Command::new(ldconfig).arg("-p").output().ok());
    let known = known.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let found = known.lines().any(|line| line.split_whitespace().next() == Some(name));
    if found { Some(()) } else { skip(name, "the dynamic loader does not know it") }
}

/// The rights of root.
pub fn root() -> Option<()> {
    if nix::unistd::geteuid().is_root() { Some(()) } else { skip("root", "run by an ordinary user") }
}

fn named_by(what: &str, variable: &str) -> Option<PathBuf> {
    let Some(path) = std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from) else {
        return skip(what, &format!("{variable} is not set"));
    };
    if bin::is_program(&path) {
        Some(path)
    } else {
        skip(what, &format!("{variable} names {}, which is no program", path.display()))
    }
}

fn or_skip<T>(what: &str, error: &anyhow::Error) -> Result<T, ()> {
    skip(what, &format!("{error:#}")).ok_or(())
}

/// Records that the calling test is skipped; answers `None`.
pub fn skip<T>(what: &str, why: &str) -> Option<T> {
    println!("SKIPPED: {what} ({why})");
    if let Some(path) = std::env::var_os(REPORT_VARIABLE) {
        let thread = std::thread::current();
        let line = format!("SKIPPED: {what} ({why}): {}\n", thread.name().unwrap_or("?"));
        // One write in append mode, so that lines of parallel tests do not mix. A report that cannot be written
        // must not pass silently.
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            panic!("cannot write {}: {error}", PathBuf::from(path).display());
        }
    }
    None
}
