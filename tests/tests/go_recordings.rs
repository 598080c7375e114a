// SPDX-License-Identifier: Apache-2.0
//! What the Go plugins say, recorded from a run of the real ones, so that where they cannot be had our plugins are still
//! held to it. Where they can, the recording's form is held to what they say now; `UPDATE_RECORDINGS=1` writes it anew.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::{Host, keylime_options};
use go_plugin::host::{Launch, Plugin};
use serde_json::Value;
use spire_proto::agent_nodeattestor::node_attestor_client::NodeAttestorClient as AgentSide;
use spire_proto::agent_nodeattestor::payload_or_challenge_response::Data;
use spire_proto::agent_nodeattestor::{Challenge as AgentChallenge, PayloadOrChallengeResponse};
use spire_proto::config::config_client::ConfigClient;
use spire_proto::config::{ConfigureRequest, CoreConfiguration};
use spire_proto::init::InitRequest;
use spire_proto::init::init_client::InitClient;
use spire_proto::server_nodeattestor::AttestRequest;
use spire_proto::server_nodeattestor::attest_request::Request;
use spire_proto::server_nodeattestor::attest_response::Response;
use spire_proto::server_nodeattestor::node_attestor_client::NodeAttestorClient as ServerSide;
use test_support::{KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, require};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::payload::{Challenge, ChallengeResponse, Payload};
use tpm_wire::pcr::NODE_KEY_PCR;
use tpm_wire::public::{AkPublic, Public};
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::verify_quote;

/// One attestation of the Go pair: payload and response by the agent's plugin, challenge by the server's.
struct Recording {
    payload: Vec<u8>,
    challenge: Vec<u8>,
    response: Vec<u8>,
    /// TPM2B_PUBLIC of the AK, from the registrar.
    ak: Vec<u8>,
}

impl Recording {
    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/go-plugins")
    }

    fn load() -> Self {
        let file = |name: &str| fs::read(Self::folder().join(name)).unwrap();
        Self {
            payload: file("payload.json"),
            challenge: file("challenge.json"),
            response: file("response.json"),
            ak: file("ak.tpm2b-public"),
        }
    }

    fn save(&self) {
        fs::create_dir_all(Self::folder()).unwrap();
        let file = |name: &str, bytes: &[u8]| fs::write(Self::folder().join(name), bytes).unwrap();
        file("payload.json", &self.payload);
        file("challenge.json", &self.challenge);
        file("response.json", &self.response);
        file("ak.tpm2b-public", &self.ak);
    }

    /// Goes through it as our plugins do, and answers the Keylime agent's id.
    fn replay(&self) -> String {
        let payload = Payload::from_json(&self.payload).unwrap();
        assert!(payload.agent_id.parse::<keylime_api::AgentId>().unwrap().is_ek_hash());
        let bank: HashAlgorithm = payload.hash_alg.parse().unwrap();
        let nonce: Nonce = Challenge::from_json(&self.challenge).unwrap().nonce.parse().unwrap();
        assert_eq!(nonce.as_str().len(), 32);
        let quote: QuoteString = ChallengeResponse::from_json(&self.response, false).unwrap().quote.parse().unwrap();
        let ak = AkPublic::try_from(Public::decode_2b(&self.ak).unwrap()).unwrap();
        assert!(verify_quote(&quote, &ak, nonce.as_bytes(), bank).unwrap().pcrs.mask().contains(NODE_KEY_PCR));
        payload.agent_id
    }

    /// The members of each message. What our plugins write must have the same.
    fn members(&self) -> [BTreeSet<String>; 3] {
        [&self.payload, &self.challenge, &self.response].map(|json| members(json))
    }
}

fn members(json: &[u8]) -> BTreeSet<String> {
    let value: Value = serde_json::from_slice(json).unwrap();
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn our_plugins_read_what_the_go_plugins_say_and_write_the_same_members() {
    let recording = Recording::load();
    let id = recording.replay();
    let ours = [
        Payload { agent_id: id, hash_alg: "sha256".to_owned(), agent_nonce: None }.to_json(),
        Challenge { nonce: "A".repeat(32), wanted: None }.to_json(),
        ChallengeResponse { quote: "r".to_owned(), node_key: None, boot_log: None }.to_json(),
    ];
    assert_eq!(ours.each_ref().map(|json| members(json)), recording.members());
    // The recorded payload and challenge come out of our encoders byte for byte.
    let payload = Payload::from_json(&recording.payload).unwrap();
    assert_eq!(payload.to_json(), recording.payload);
    let challenge = Challenge::from_json(&recording.challenge).unwrap();
    assert_eq!(challenge.to_json(), recording.challenge);
}

#[tokio::test]
async fn the_recording_is_what_the_go_plugins_say_today() {
    let (Some(()), Some(_), Some(go)) = (require::swtpm(), require::keylime(), require::go_peers()) else { return };
    let (Some(stock), Some(())) = (require::stock_agent(), require::root()) else { return };
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let servers = KeylimeServers::start(&KeylimeOptions { agent_mtls: false, ..keylime_options(&tpm) }).unwrap();
    let options = KeylimeAgentOptions { mtls: false, ..KeylimeAgentOptions::new(stock) };
    let host = Host::with(tpm, servers, options).unwrap();
    host.enrol().unwrap();

    let agent = load(&go.agent_plugin, &format!("keylime_agent_port = \"{}\"", host.agent.port)).await;
    let server = load(&go.server_plugin, &host.server_data()).await;
    let (challenges, from_us) = mpsc::channel(1);
    let mut said =
        AgentSide::new(agent.channel()).aid_attestation(ReceiverStream::new(from_us)).await.unwrap().into_inner();
    let Some(PayloadOrChallengeResponse { data: Some(Data::Payload(payload)) }) = said.message().await.unwrap() else {
        panic!("no payload")
    };
    let (requests, from_us) = mpsc::channel(1);
    requests.send(AttestRequest { request: Some(Request::Payload(payload.clone())) }).await.unwrap();
    let mut answers =
        ServerSide::new(server.channel()).attest(ReceiverStream::new(from_us)).await.unwrap().into_inner();
    let Some(Response::Challenge(challenge)) = answers.message().await.unwrap().unwrap().response else {
        panic!("no challenge")
    };
    challenges.send(AgentChallenge { challenge: challenge.clone() }).await.unwrap();
    let Some(PayloadOrChallengeResponse { data: Some(Data::ChallengeResponse(response)) }) =
        said.message().await.unwrap()
    else {
        panic!("no response")
    };
    let known = host.servers.registrar_agent(&host.id).unwrap().unwrap();
    let ak = STANDARD.decode(known.get("aik_tpm").and_then(Value::as_str).unwrap()).unwrap();
    let today = Recording { payload, challenge, response, ak };
    assert_eq!(today.replay(), host.id);
    if std::env::var_os("UPDATE_RECORDINGS").is_some() {
        today.save();
    }
    assert_eq!(today.members(), Recording::load().members());
    agent.shutdown().await;
    server.shutdown().await;
}

async fn load(binary: &Path, data: &str) -> Plugin {
    let plugin = Launch::new(binary).handshake(spire_plugin::handshake()).start().await.unwrap();
    let request = ConfigureRequest {
        core_configuration: Some(CoreConfiguration { trust_domain: "tower.example".to_owned() }),
        hcl_configuration: data.to_owned(),
    };
    InitClient::new(plugin.channel()).init(InitRequest { host_service_names: Vec::new() }).await.unwrap();
    ConfigClient::new(plugin.channel()).configure(request).await.unwrap();
    plugin
}
