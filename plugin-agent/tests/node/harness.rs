// SPDX-License-Identifier: Apache-2.0
//! A Keylime agent that answers as told, and a SPIRE server that asks.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keylime_api::HttpSettings;
use keylime_attestor_agent::attestation::Introduce;
use keylime_attestor_agent::config::AgentConfig;
use keylime_attestor_agent::error::AidError;
use spire_plugin::{CoreConfig, Options, hcl};
use test_support::http::{Reply, Server, ok};
use tonic::Status;
use tpm_wire::nonce::Nonce;
use tpm_wire::payload::{Challenge, ChallengeResponse, Payload};

/// The Keylime agent's id.
pub(crate) const ID: &str = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000";

/// The SPIRE server's nonce.
pub(crate) const NONCE: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The plugin's own limits but for the time, which a busy machine needs.
pub(crate) const PATIENT: HttpSettings = HttpSettings {
    connect_timeout: Duration::from_secs(20),
    total_timeout: Duration::from_secs(20),
    max_body: 256 << 10,
};

/// For tests that wait until a call has taken too long.
pub(crate) const SHORT: HttpSettings = HttpSettings { total_timeout: Duration::from_secs(2), ..PATIENT };

/// A configuration of these options.
pub(crate) fn config(options: &str, limits: HttpSettings) -> Arc<AgentConfig> {
    let core = CoreConfig::new("tower.example".parse().unwrap());
    let mut options = Options::new(hcl::parse(options).unwrap());
    let config = AgentConfig::build_within(&core, &mut options, limits);
    assert_eq!(options.finish().into_texts(), [""; 0]);
    Arc::new(config.unwrap())
}

/// The options for a Keylime agent at this server, over plain HTTP.
pub(crate) fn plain(server: &Server) -> String {
    let at = server.at.to_string();
    let (host, port) = at.rsplit_once(':').unwrap();
    format!("keylime_agent_host = \"{host}\"\nkeylime_agent_port = \"{port}\"\n")
}

/// A Keylime agent as ours answers: quotes that name what was asked for.
pub(crate) fn good(request: &str) -> Reply {
    let (path, query) = request.split_once('?').unwrap_or((request, ""));
    match path {
        "GET /version" => ok(r#"{"supported_version": "2.5", "supported_versions": ["2.2", "2.5"]}"#),
        "GET /v2.5/agent/info" => ok(&format!(r#"{{"agent_uuid": "{ID}", "tpm_hash_alg": "sha256"}}"#)),
        "GET /v2.5/quotes/identity" => ok(&format!(r#"{{"quote": "identity {query}", "pubkey": "PEM\n"}}"#)),
        "GET /v2.5/quotes/integrity" => {
            ok(&format!(r#"{{"quote": "integrity {query}", "pubkey": "PEM\n", "mb_measurement_list": "/wAB"}}"#))
        }
        _ => Reply::error(404, "no such call"),
    }
}

/// A Keylime agent that is good, but for the calls whose path ends with `call` while it is ill.
pub(crate) async fn ill_at(
    call: &'static str,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> (Server, Arc<AtomicBool>) {
    let ill = Arc::new(AtomicBool::new(true));
    let is_ill = ill.clone();
    let server = Server::start(None, move |request| {
        let path = request.split('?').next().unwrap();
        if path.ends_with(call) && is_ill.load(Ordering::Relaxed) { reply() } else { good(request) }
    })
    .await;
    (server, ill)
}

/// A challenge of version 1, as the Go plugin sends it.
pub(crate) fn version_1() -> Vec<u8> {
    Challenge { nonce: NONCE.to_owned(), wanted: None }.to_json()
}

/// One attestation with one challenge.
pub(crate) async fn attest(config: &Arc<AgentConfig>, challenge: &[u8]) -> Result<ChallengeResponse, AidError> {
    Ok(attest_with_nonce(config, challenge).await?.1)
}

/// The same, with the nonce that the agent plugin chose.
pub(crate) async fn attest_with_nonce(
    config: &Arc<AgentConfig>,
    challenge: &[u8],
) -> Result<(Nonce, ChallengeResponse), AidError> {
    let (id, payload, waiting) = Introduce::new(config.clone()).payload().await?;
    let payload = Payload::from_json(&payload).unwrap();
    assert_eq!((id.as_str(), payload.agent_id.as_str(), payload.hash_alg.as_str()), (ID, ID, "sha256"));
    let (response, _) = waiting.challenge(challenge)?.quote().await?;
    Ok((payload.agent_nonce.unwrap(), ChallengeResponse::from_json(&response, true).unwrap()))
}

/// That an attestation goes well.
pub(crate) async fn is_well(config: &Arc<AgentConfig>) {
    let response = attest(config, &version_1()).await.unwrap();
    assert_eq!(response.quote, format!("identity nonce={NONCE}"));
}

/// Code and text of a status, without the address.
pub(crate) fn code_and_text(status: &Status, server: &Server) -> String {
    let text = status.message().replace(&server.at.to_string(), "HOST");
    format!("{:?}: {text}", status.code())
}

/// Log lines of this thread.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Collects all from now until the guard is dropped.
    pub(crate) fn collect(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || log.clone())
            .with_max_level(tracing::Level::TRACE)
            .without_time()
            .with_ansi(false)
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// The lines of warnings so far.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::trim).filter(|line| line.starts_with("WARN")).map(str::to_owned).collect()
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
