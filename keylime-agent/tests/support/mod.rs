// SPDX-License-Identifier: Apache-2.0
//! A running agent for tests, and Keylime's servers beside it.
#![allow(dead_code, reason = "each test program uses its part of this")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

pub(crate) mod device;
pub(crate) mod mounts;
pub(crate) mod watch;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use test_support::keylime::HttpAnswer;
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, require};
use tpm_wire::public::{AkPublic, Public};

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

    /// Runs the tenant's command for an agent, with further arguments. It must succeed; what it printed.
    pub(crate) fn tenant(&self, agent: &KeylimeAgent, command: &str, arguments: &[&str]) -> String {
        let output = self.servers.tenant_for(command, &agent.id().unwrap(), agent.port, arguments).unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{command}: {text}");
        text
    }

    /// The AK that an agent has registered.
    pub(crate) fn registered_ak(&self, id: &str) -> AkPublic {
        Public::decode_2b(&self.servers.registered_ak(id).unwrap()).unwrap().try_into().unwrap()
    }

    /// Asks the agent as the verifier would, with further arguments of curl.
    pub(crate) fn curl(&self, agent: &KeylimeAgent, path: &str, arguments: &[&str]) -> HttpAnswer {
        agent.caller().call(path, arguments).unwrap()
    }
}

/// Waits until the verifier has counted `more` good quotes than now.
pub(crate) fn wait_quotes(servers: &KeylimeServers, id: &str, more: u64) -> Value {
    let before = servers.verifier_agent(id).unwrap().unwrap()["attestation_count"].as_u64().unwrap();
    let enough = |record: &Value| record["attestation_count"].as_u64() >= Some(before + more);
    // The verifier itself waits a minute for an answer.
    servers.wait_agent(id, "more quotes", 3 * LIMIT, enough).unwrap()
}

/// A member of an answer's results as text.
pub(crate) fn text<'a>(results: &'a Value, member: &str) -> &'a str {
    results[member].as_str().unwrap_or_else(|| panic!("{member}: {results}"))
}

/// Whether a file exists and has these permission bits.
pub(crate) fn has_mode(path: &Path, mode: u32) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o777 == mode)
}
