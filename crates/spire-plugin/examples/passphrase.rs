// SPDX-License-Identifier: Apache-2.0
//! A pair of node attestor plugins in one program: a node is what it says it is if it knows the passphrase.
//!
//! ```text
//! NodeAttestor "passphrase" {
//!     plugin_cmd = "/opt/spire/plugins/passphrase"
//!     plugin_args = ["server"]                        # "agent" in the SPIRE agent's configuration
//!     plugin_data { passphrase = "open sesame" }      # the agent has `node = "n1"` besides
//! }
//! ```
//!
//! It shows how a plugin is put together. It proves nothing about a machine, so use it for nothing else.

use std::{process::ExitCode, time::Instant};

use go_plugin::plugin::{self, About};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use spire_plugin::{
    ConfigStore, CoreConfig, Metrics, Options, PluginConfig, SpiffeId, TrustDomain,
    exchange::{self, Answers, Exchange},
    service::{agent_routes, server_routes},
};
use spire_proto::{
    agent_nodeattestor::{self as agent, Challenge, PayloadOrChallengeResponse, payload_or_challenge_response::Data},
    server_nodeattestor::{
        self as server, AgentAttributes, AttestRequest, AttestResponse, attest_request::Request as In,
        attest_response::Response as Out,
    },
};
use tonic::{Request, Response, Status, Streaming};

fn main() -> ExitCode {
    let about = About {
        name: "passphrase",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Example of a SPIRE node attestor, for agent and server.",
        usage: "Set `plugin_cmd` to this program and `plugin_args` to [\"agent\"] or [\"server\"].",
    };
    let is_agent = std::env::args().nth(1).as_deref() == Some("agent");
    plugin::run(spire_plugin::handshake(), about, move |broker| {
        let metrics = Metrics::new(broker);
        if is_agent {
            let store = ConfigStore::new();
            agent_routes(store.clone(), AgentAttestor(store), &metrics)
        } else {
            let store = ConfigStore::new();
            server_routes(store.clone(), ServerAttestor { store, metrics: metrics.clone() }, &metrics)
        }
    })
}

/// The key that the passphrase stands for.
fn key(options: &mut Options) -> Option<hmac::Key> {
    let passphrase = options.optional_string("passphrase");
    if passphrase.is_none() && options.ok() {
        options.problem("`passphrase`: not given, allowed is any text");
    }
    passphrase.map(|text| hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
}

/// What is signed: the server's random bytes and the name of the node.
fn message(challenge: &[u8], node: &[u8]) -> Vec<u8> {
    [challenge, node].concat()
}

struct AgentConfig {
    key: hmac::Key,
    node: String,
}

impl PluginConfig for AgentConfig {
    fn build(_: &CoreConfig, options: &mut Options) -> Option<Self> {
        let key = key(options);
        let node = options.string("node", "n0");
        Some(Self { key: key?, node })
    }
}

struct AgentAttestor(ConfigStore<AgentConfig>);

#[tonic::async_trait]
impl agent::node_attestor_server::NodeAttestor for AgentAttestor {
    type AidAttestationStream = Answers<PayloadOrChallengeResponse>;

    async fn aid_attestation(
        &self,
        request: Request<Streaming<Challenge>>,
    ) -> Result<Response<Self::AidAttestationStream>, Status> {
        let config = self.0.snapshot()?;
        let span = tracing::info_span!("attestation");
        Ok(exchange::serve(
            request.into_inner(),
            span,
            Status::internal("internal error"),
            move |mut exchange: Exchange<Challenge, _>| async move {
                let payload = Data::Payload(config.node.clone().into_bytes());
                exchange.send(PayloadOrChallengeResponse { data: Some(payload) }).await?;
                while let Some(Challenge { challenge }) = exchange.receive().await? {
                    let answer = hmac::sign(&config.key, &message(&challenge, config.node.as_bytes()));
                    let answer = Data::ChallengeResponse(answer.as_ref().to_vec());
                    exchange.send(PayloadOrChallengeResponse { data: Some(answer) }).await?;
                }
                Ok(())
            },
        ))
    }
}

struct ServerConfig {
    key: hmac::Key,
    trust_domain: TrustDomain,
}

impl PluginConfig for ServerConfig {
    fn build(core: &CoreConfig, options: &mut Options) -> Option<Self> {
        Some(Self { key: key(options)?, trust_domain: core.trust_domain.clone() })
    }
}

struct ServerAttestor {
    store: ConfigStore<ServerConfig>,
    metrics: Metrics,
}

#[tonic::async_trait]
impl server::node_attestor_server::NodeAttestor for ServerAttestor {
    type AttestStream = Answers<AttestResponse>;

    async fn attest(&self, request: Request<Streaming<AttestRequest>>) -> Result<Response<Self::AttestStream>, Status> {
        let config = self.store.snapshot()?;
        let (metrics, start) = (self.metrics.clone(), Instant::now());
        metrics.count("attestations", &[("step", "started")]);
        let span = tracing::info_span!("attestation");
        Ok(exchange::serve(
            request.into_inner(),
            span,
            Status::internal("internal error"),
            move |mut exchange: Exchange<AttestRequest, _>| async move {
                let Some(AttestRequest { request: Some(In::Payload(node)) }) = exchange.receive().await? else {
                    return Err(Status::invalid_argument("expected a payload"));
                };
                let id = std::str::from_utf8(&node)
                    .ok()
                    .and_then(|node| {
                        SpiffeId::from_segments(&config.trust_domain, &["spire", "agent", "passphrase", node]).ok()
                    })
                    .ok_or_else(|| Status::invalid_argument("the payload is no path segment"))?;

                let mut challenge = vec![0; 32];
                SystemRandom::new().fill(&mut challenge).map_err(|_| Status::internal("no randomness"))?;
                exchange.send(AttestResponse { response: Some(Out::Challenge(challenge.clone())) }).await?;
                let Some(AttestRequest { request: Some(In::ChallengeResponse(answer)) }) = exchange.receive().await?
                else {
                    return Err(Status::invalid_argument("expected a challenge response"));
                };
                hmac::verify(&config.key, &message(&challenge, &node), &answer)
                    .map_err(|_| Status::permission_denied("the node does not know the passphrase"))?;
                let attributes = AgentAttributes {
                    spiffe_id: id.to_string(),
                    selector_values: vec!["knows:passphrase".to_owned()],
                    can_reattest: true,
                };
                exchange.send(AttestResponse { response: Some(Out::AgentAttributes(attributes)) }).await?;
                metrics.count("attestations", &[("step", "attested")]);
                metrics.measure("attestation", start.elapsed(), &[]);
                Ok(())
            },
        ))
    }
}
