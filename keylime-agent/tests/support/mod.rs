// SPDX-License-Identifier: Apache-2.0
//! A running agent for tests, and curl to talk to it.
#![allow(dead_code, reason = "each test program uses its part of this")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

pub(crate) mod device;
pub(crate) mod mounts;
pub(crate) mod watch;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, require};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_keylime_agent");

/// Our agent, registering over TLS.
pub(crate) fn options() -> KeylimeAgentOptions {
    KeylimeAgentOptions { registrar_tls: true, ..KeylimeAgentOptions::new(BINARY) }
}

/// A TPM and Keylime's servers.
pub(crate) struct Lab {
    pub(crate) tpm: Swtpm,
    pub(crate) servers: KeylimeServers,
}

impl Lab {
    /// Starts both, or says that something is missing.
    pub(crate) fn start(options: KeylimeOptions) -> Option<Self> {
        require::swtpm()?;
        require::keylime()?;
        let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
        let servers = KeylimeServers::start(&KeylimeOptions {
            ek_ca_certs: tpm.ca_certs.clone(),
            quote_interval: 0.5,
            ..options
        });
        Some(Self { tpm, servers: servers.unwrap() })
    }

    pub(crate) fn agent(&self, options: &KeylimeAgentOptions) -> KeylimeAgent {
        KeylimeAgent::start(&self.tpm.tcti, &self.servers, options).unwrap()
    }

    /// Starts an agent that is expected to end by itself; its exit code and log.
    pub(crate) fn failing_agent(&self, options: &KeylimeAgentOptions) -> (Option<i32>, String) {
        let mut agent = KeylimeAgent::launch(&self.tpm.tcti, &self.servers, options).unwrap();
        let status = agent.part().wait_end(LIMIT).unwrap();
        (status.code(), agent.part().log())
    }

    /// As [`wait_quotes`].
    pub(crate) fn wait_quotes(&self, id: &str, more: u64) -> Value {
        wait_quotes(&self.servers, id, more)
    }

    /// A URL of the agent and curl's arguments for mTLS with the verifier's certificate.
    pub(crate) fn curl(&self, agent: &KeylimeAgent, path: &str, arguments: &[&str]) -> Answer {
        let (cert, key) = (self.servers.client_cert(), self.servers.client_key());
        let url = format!("https://127.0.0.1:{}{path}", agent.port);
        let tls = ["--insecure", "--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
        curl(&[&tls, arguments, &[&url]].concat())
    }
}

/// Waits until the verifier has counted `more` good quotes than now.
pub(crate) fn wait_quotes(servers: &KeylimeServers, id: &str, more: u64) -> Value {
    let before = servers.verifier_agent(id).unwrap().unwrap()["attestation_count"].as_u64().unwrap();
    let enough = |record: &Value| record["attestation_count"].as_u64() >= Some(before + more);
    servers.wait_agent(id, "more quotes", LIMIT, enough).unwrap()
}

/// What curl received.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Runs curl.
pub(crate) fn curl(arguments: &[&str]) -> Answer {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "20"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (headers, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{stderr}"));
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

/// A member of an answer's results as text.
pub(crate) fn text<'a>(results: &'a Value, member: &str) -> &'a str {
    results[member].as_str().unwrap_or_else(|| panic!("{member}: {results}"))
}

/// Writes an archive of these files.
pub(crate) fn zip(path: &Path, files: &[(&str, &str)]) {
    let script = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w') as z:\n \
                  for n, t in zip(sys.argv[2::2], sys.argv[3::2]): z.writestr(n, t)\n";
    let files = files.iter().flat_map(|(name, text)| [name, text]);
    let made = std::process::Command::new("python3").args(["-c", script]).arg(path).args(files).status();
    assert!(made.expect("python3 is installed").success());
}

/// Whether a file exists and has these permission bits.
pub(crate) fn has_mode(path: &Path, mode: u32) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o777 == mode)
}
