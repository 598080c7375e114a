// SPDX-License-Identifier: Apache-2.0
//! The answers of a Keylime 7.14 that behaves.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Agents, base64};
use crate::http::{Reply, Request};

/// What both servers know of an agent.
#[derive(Debug, Clone)]
pub struct FakeAgent {
    /// TPM2B_PUBLIC of the AK; `None` if the registrar does not know the agent.
    pub aik_tpm: Option<Vec<u8>>,
    /// TPM2B_PUBLIC of the EK.
    pub ek_tpm: Option<Vec<u8>>,
    /// The operational state; `None` if the verifier does not know the agent.
    pub state: Option<i64>,
    /// Quotes accepted so far.
    pub attestation_count: u64,
    /// How long ago the last quote was accepted.
    pub age: Duration,
    /// Hash algorithm of the last quote.
    pub hash_alg: String,
    /// Members of the verifier's record to set or replace.
    pub more: Vec<(&'static str, Value)>,
    /// Answer of the verifier's identity check: the member `valid`, and the reason.
    pub valid: (Value, Option<String>),
}

impl FakeAgent {
    /// An agent that is registered, enrolled, and was verified a second ago.
    #[must_use]
    pub fn verified(aik_tpm: Vec<u8>, ek_tpm: Option<Vec<u8>>) -> Self {
        Self {
            aik_tpm: Some(aik_tpm),
            ek_tpm,
            state: Some(3),
            attestation_count: 27,
            age: Duration::from_secs(1),
            hash_alg: "sha256".to_owned(),
            more: Vec::new(),
            valid: (json!(1), None),
        }
    }

    /// The verifier's record.
    fn record(&self, state: i64) -> Value {
        let last = (SystemTime::now() - self.age).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut record = json!({
            "operational_state": state, "v": null, "ip": "127.0.0.1", "port": 9002,
            "tpm_policy": "{\"mask\": \"0x0\"}", "meta_data": "{}", "has_mb_refstate": 0, "has_runtime_policy": 0,
            "accept_tpm_hash_algs": ["sha512", "sha384", "sha256"], "accept_tpm_encryption_algs": ["ecc", "rsa"],
            "accept_tpm_signing_algs": ["ecdsa", "rsassa"], "hash_alg": self.hash_alg, "enc_alg": "ecc256",
            "sign_alg": "ecdsa", "verifier_id": "default", "verifier_ip": "127.0.0.1", "verifier_port": 8881,
            "severity_level": null, "last_event_id": null, "attestation_count": self.attestation_count,
            "last_received_quote": last, "last_successful_attestation": last, "attestation_period": "2s",
            "maximum_attestation_interval": "10s", "attestation_status": "PASS"
        });
        if let Some(members) = record.as_object_mut() {
            members.extend(self.more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        }
        record
    }
}

/// `GET /version` of both.
fn versions() -> Reply {
    Reply::ok(&json!({
        "current_version": "2.6",
        "supported_versions": ["1.0", "2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.0"]
    }))
}

fn no_route() -> Reply {
    Reply::error(404, "Not Found")
}

/// The path below `/v2.N/`.
fn below_version(path: &str) -> Option<&str> {
    let (minor, rest) = path.strip_prefix("/v2.")?.split_once('/')?;
    minor.parse::<u8>().ok().filter(|minor| *minor <= 6)?;
    Some(rest)
}

pub(super) fn verifier(agents: &Agents, request: &Request) -> Reply {
    let unknown = || Reply::error(404, "agent id not found");
    let Some(path) = below_version(&request.path) else {
        return if request.path == "/version" { versions() } else { no_route() };
    };
    if path == "verify/identity" {
        for name in ["agent_uuid", "hash_alg", "nonce", "quote"] {
            if request.parameter(name).is_none() {
                return Reply::error(400, &format!("missing query parameter '{name}'"));
            }
        }
        let agent = request.parameter("agent_uuid").and_then(|id| agents.find(id));
        let Some(FakeAgent { state: Some(_), valid: (valid, reason), .. }) = agent else { return unknown() };
        return Reply::ok(&match reason {
            Some(reason) => json!({"valid": valid, "reason": reason}),
            None => json!({"valid": valid}),
        });
    }
    let Some(id) = path.strip_prefix("agents/") else { return no_route() };
    let agent = agents.find(id);
    match agent.as_ref().and_then(|agent| agent.state.map(|state| agent.record(state))) {
        Some(record) => Reply::ok(&record),
        None => unknown(),
    }
}

pub(super) fn registrar(agents: &Agents, request: &Request) -> Reply {
    let Some(path) = below_version(&request.path) else {
        return if request.path == "/version" { versions() } else { no_route() };
    };
    let Some(id) = path.strip_prefix("agents/") else { return no_route() };
    let Some(FakeAgent { aik_tpm: Some(aik_tpm), ek_tpm, .. }) = agents.find(id) else {
        return Reply::error(404, &format!("agent {id} not found"));
    };
    Reply::ok(&json!({
        "agent_id": id, "aik_tpm": base64(&aik_tpm), "ek_tpm": ek_tpm.as_deref().map(base64), "ekcert": null, "mtls_cert": "disabled",
        "ip": "127.0.0.1", "port": 9002, "regcount": 1
    }))
}
