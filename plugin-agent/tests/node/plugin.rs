// SPDX-License-Identifier: Apache-2.0
//! The built plugin, loaded as SPIRE loads it.

use std::sync::{Arc, Mutex};

use go_plugin::host::{Launch, Plugin};
use spire_proto::agent_nodeattestor::node_attestor_client::NodeAttestorClient;
use spire_proto::agent_nodeattestor::payload_or_challenge_response::Data;
use spire_proto::agent_nodeattestor::{Challenge, PayloadOrChallengeResponse};
use spire_proto::config::config_client::ConfigClient;
use spire_proto::config::{ConfigureRequest, CoreConfiguration};
use spire_proto::init::{InitRequest, init_client::InitClient};
use spire_proto::metrics::metrics_server::{Metrics, MetricsServer};
use spire_proto::metrics::{
    AddSampleRequest, EmitKeyRequest, IncrCounterRequest, Label, MeasureSinceRequest, SetGaugeRequest,
};
use test_support::http::{Gate, Reply, Server};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tpm_wire::payload::{ChallengeResponse, Payload};

use crate::harness::{ID, NONCE, good, plain, version_1};

/// SPIRE's metrics service: writes down names and labels.
#[derive(Clone, Default)]
struct Telemetry {
    seen: Arc<Mutex<Vec<String>>>,
    came: Arc<Notify>,
}

impl Telemetry {
    fn take(&self, key: &[String], labels: &[Label]) -> Result<Response<()>, Status> {
        let labels: String = labels.iter().map(|label| format!(" {}={}", label.name, label.value)).collect();
        self.seen.lock().unwrap().push(format!("{}{labels}", key.join("_")));
        self.came.notify_one();
        Ok(Response::new(()))
    }

    /// Waits until this has come.
    async fn wait(&self, metric: &str) {
        while !self.seen.lock().unwrap().iter().any(|seen| seen == metric) {
            self.came.notified().await;
        }
    }
}

#[tonic::async_trait]
impl Metrics for Telemetry {
    async fn set_gauge(&self, request: Request<SetGaugeRequest>) -> Result<Response<()>, Status> {
        self.take(&request.get_ref().key, &request.get_ref().labels)
    }
    async fn emit_key(&self, _: Request<EmitKeyRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn incr_counter(&self, request: Request<IncrCounterRequest>) -> Result<Response<()>, Status> {
        self.take(&request.get_ref().key, &request.get_ref().labels)
    }
    async fn add_sample(&self, _: Request<AddSampleRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn measure_since(&self, request: Request<MeasureSinceRequest>) -> Result<Response<()>, Status> {
        self.take(&request.get_ref().key, &request.get_ref().labels)
    }
}

async fn start(telemetry: &Telemetry) -> Plugin {
    let routes = Routes::new(MetricsServer::new(telemetry.clone()));
    let plugin = Launch::new(env!("CARGO_BIN_EXE_keylime-attestor-agent"))
        .handshake(spire_plugin::handshake())
        .host_services(1, routes)
        .start()
        .await
        .unwrap();
    let host_service_names = vec![spire_plugin::metrics::SERVICE.to_owned()];
    InitClient::new(plugin.channel()).init(InitRequest { host_service_names }).await.unwrap();
    plugin
}

async fn configured(options: &str) -> (Plugin, Telemetry) {
    let telemetry = Telemetry::default();
    let plugin = start(&telemetry).await;
    let request = ConfigureRequest {
        core_configuration: Some(CoreConfiguration { trust_domain: "tower.example".to_owned() }),
        hcl_configuration: options.to_owned(),
    };
    ConfigClient::new(plugin.channel()).configure(request).await.unwrap();
    (plugin, telemetry)
}

/// One call of SPIRE.
struct Call {
    challenges: mpsc::Sender<Challenge>,
    said: Streaming<PayloadOrChallengeResponse>,
}

impl Call {
    async fn begin(plugin: &Plugin) -> Result<Self, Status> {
        let (challenges, from_us) = mpsc::channel(1);
        let said = NodeAttestorClient::new(plugin.channel()).aid_attestation(ReceiverStream::new(from_us)).await?;
        Ok(Self { challenges, said: said.into_inner() })
    }

    async fn next(&mut self) -> Result<Data, Status> {
        Ok(self.said.message().await?.and_then(|message| message.data).expect("the plugin ended the call"))
    }

    async fn payload(&mut self) -> Result<Payload, Status> {
        match self.next().await? {
            Data::Payload(json) => Ok(Payload::from_json(&json).unwrap()),
            Data::ChallengeResponse(_) => panic!("a response without a challenge"),
        }
    }

    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<ChallengeResponse, Status> {
        self.challenges.send(Challenge { challenge }).await.unwrap();
        match self.next().await? {
            Data::ChallengeResponse(json) => Ok(ChallengeResponse::from_json(&json, true).unwrap()),
            Data::Payload(_) => panic!("a second payload"),
        }
    }
}

async fn attest(plugin: &Plugin, challenge: Vec<u8>) -> Result<ChallengeResponse, Status> {
    let mut call = Call::begin(plugin).await?;
    assert_eq!(call.payload().await?.agent_id, ID);
    call.challenge(challenge).await
}

async fn is_well(plugin: &Plugin) {
    let response = attest(plugin, version_1()).await.unwrap();
    assert_eq!(response.quote, format!("identity nonce={NONCE}"));
}

fn said(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[tokio::test]
async fn before_it_is_configured_it_says_so() {
    let plugin = start(&Telemetry::default()).await;
    let refused = Call::begin(&plugin).await.err().unwrap();
    assert_eq!(said(&refused), (Code::FailedPrecondition, "not configured"));
    plugin.shutdown().await;
}

#[tokio::test]
async fn bad_challenges_end_one_attestation_each() {
    let server = Server::start(None, good).await;
    let (plugin, telemetry) = configured(&plain(&server)).await;
    is_well(&plugin).await;
    for (challenge, text) in [
        (
            b"<html>".to_vec(),
            "the SPIRE server's challenge is malformed: the challenge is malformed in line 1, column 1: it is not JSON: is \
             its node attestor a Keylime attestor?",
        ),
        (vec![b' '; 200 << 10], "the SPIRE server's challenge is too long: is its node attestor a Keylime attestor?"),
    ] {
        let refused = attest(&plugin, challenge).await.err().unwrap();
        assert_eq!(said(&refused), (Code::InvalidArgument, text));
        is_well(&plugin).await;
    }
    for name in [
        "latency hop=keylime_agent_info",
        "latency hop=keylime_agent_quote",
        "attestation result=Ok",
        "attestation result=InvalidArgument",
    ] {
        telemetry.wait(&format!("keylime_attestor_{name}")).await;
    }
    plugin.shutdown().await;
}

#[tokio::test]
async fn more_attestations_at_once_than_are_taken() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let server = Server::start(None, move |request| {
        if request.contains("/agent/info") {
            Reply::Gated(closed.clone(), Box::new(good(request)))
        } else {
            good(request)
        }
    })
    .await;
    let (plugin, telemetry) = configured(&plain(&server)).await;
    let mut calls = Vec::new();
    for _ in 0..256 {
        calls.push(Call::begin(&plugin).await.unwrap());
    }
    let refused = Call::begin(&plugin).await.err().unwrap();
    assert_eq!(
        said(&refused),
        (
            Code::ResourceExhausted,
            "256 attestations of this host are under way, and no more are taken: is something else calling?"
        )
    );
    telemetry.wait("keylime_attestor_attestation result=ResourceExhausted").await;
    // Those that SPIRE cancels make room, and those that go on get their answer.
    calls.truncate(8);
    gate.open();
    for mut call in calls {
        call.payload().await.unwrap();
    }
    loop {
        // Until the plugin has heard of a cancelled call its place is taken.
        match attest(&plugin, version_1()).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    }
    telemetry.wait("keylime_attestor_attestation result=Ok").await;
    plugin.shutdown().await;
}
