// SPDX-License-Identifier: Apache-2.0
use std::{fmt::Debug, sync::Mutex, time::Duration};

use spire_proto::{
    agent_nodeattestor::{
        Challenge, PayloadOrChallengeResponse,
        node_attestor_server::{NodeAttestor as AgentAttestor, NodeAttestorServer as AgentServer},
        payload_or_challenge_response::Data,
    },
    server_nodeattestor::{
        self, AttestRequest, AttestResponse, attest_request, attest_response,
        node_attestor_server::{NodeAttestor as ServerAttestor, NodeAttestorServer as ServerServer},
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming, codegen::BoxStream, service::Routes};

use super::{relay::Relay, *};
use crate::test_support::channel;

/// What a scripted plugin does.
enum Step<Out> {
    Say(Out),
    Hear,
    Fail(Status),
    Wait,
}

/// A plugin that follows a script, then ends the call with OK, and reports what it hears.
struct Scripted<Out> {
    script: Mutex<Vec<Step<Out>>>,
    heard: mpsc::UnboundedSender<String>,
}

impl<Out: Send + 'static> Scripted<Out> {
    fn play<In: Debug + Send + 'static>(&self, mut requests: Streaming<In>) -> BoxStream<Out> {
        let (answers, stream) = mpsc::channel(1);
        let script = std::mem::take(&mut *self.script.lock().unwrap());
        let heard = self.heard.clone();
        tokio::spawn(async move {
            for step in script {
                match step {
                    Step::Say(message) => drop(answers.send(Ok(message)).await),
                    Step::Fail(status) => return drop(answers.send(Err(status)).await),
                    Step::Hear | Step::Wait => {
                        let text = match requests.message().await {
                            Ok(Some(message)) => format!("{message:?}"),
                            // How tonic's server shows a cancelled call; the test of `call` looks at the frames.
                            Ok(None) => "cancelled".to_owned(),
                            Err(status) => format!("{:?}", status.code()),
                        };
                        let _ = heard.send(text);
                    }
                }
            }
        });
        Box::pin(ReceiverStream::new(stream))
    }
}

#[tonic::async_trait]
impl AgentAttestor for Scripted<PayloadOrChallengeResponse> {
    type AidAttestationStream = BoxStream<PayloadOrChallengeResponse>;

    async fn aid_attestation(
        &self,
        request: Request<Streaming<Challenge>>,
    ) -> Result<Response<Self::AidAttestationStream>, Status> {
        Ok(Response::new(self.play(request.into_inner())))
    }
}

#[tonic::async_trait]
impl ServerAttestor for Scripted<AttestResponse> {
    type AttestStream = BoxStream<AttestResponse>;

    async fn attest(&self, request: Request<Streaming<AttestRequest>>) -> Result<Response<Self::AttestStream>, Status> {
        Ok(Response::new(self.play(request.into_inner())))
    }
}

fn payload(bytes: &str) -> Step<PayloadOrChallengeResponse> {
    Step::Say(PayloadOrChallengeResponse { data: Some(Data::Payload(bytes.into())) })
}

fn answer(bytes: &str) -> Step<PayloadOrChallengeResponse> {
    Step::Say(PayloadOrChallengeResponse { data: Some(Data::ChallengeResponse(bytes.into())) })
}

fn challenge(bytes: &str) -> Step<AttestResponse> {
    Step::Say(AttestResponse { response: Some(attest_response::Response::Challenge(bytes.into())) })
}

fn attributes(spiffe_id: &str, selectors: &[&str]) -> Step<AttestResponse> {
    Step::Say(AttestResponse {
        response: Some(attest_response::Response::AgentAttributes(server_nodeattestor::AgentAttributes {
            spiffe_id: spiffe_id.to_owned(),
            selector_values: selectors.iter().map(|value| (*value).to_owned()).collect(),
            can_reattest: true,
        })),
    })
}

type Heard = mpsc::UnboundedReceiver<String>;

/// Relays one attestation between two scripted plugins.
async fn attest_within(
    limit: Duration,
    agent: Vec<Step<PayloadOrChallengeResponse>>,
    server: Vec<Step<AttestResponse>>,
) -> (Result<AgentAttributes, AttestError>, Heard, Heard) {
    let (heard, agent_heard) = mpsc::unbounded_channel();
    let agent = channel(Routes::new(AgentServer::new(Scripted { script: Mutex::new(agent), heard })));
    let (heard, server_heard) = mpsc::unbounded_channel();
    let server = channel(Routes::new(ServerServer::new(Scripted { script: Mutex::new(server), heard })));
    let trust_domain = "example.org".parse().unwrap();
    let relay = Relay { name: "keylime", trust_domain: &trust_domain, limit };
    (relay.attest(agent, server).await, agent_heard, server_heard)
}

async fn attest(
    agent: Vec<Step<PayloadOrChallengeResponse>>,
    server: Vec<Step<AttestResponse>>,
) -> Result<AgentAttributes, AttestError> {
    attest_within(Duration::from_secs(60), agent, server).await.0
}

const ID: &str = "spiffe://example.org/spire/agent/keylime/d432";

#[tokio::test]
async fn an_attestation_is_relayed_and_both_calls_are_cancelled() {
    let (result, mut agent, mut server) = attest_within(
        Duration::from_secs(60),
        vec![payload("P"), Step::Hear, answer("R1"), Step::Hear, answer("R2"), Step::Wait],
        vec![
            Step::Hear,
            challenge("C1"),
            Step::Hear,
            challenge(""),
            Step::Hear,
            attributes(ID, &["b", "a:1", "b"]),
            Step::Wait,
        ],
    )
    .await;
    let attributes = result.unwrap();
    assert_eq!(attributes.spiffe_id.to_string(), ID);
    assert_eq!(attributes.selector_values, ["a:1", "b"]);
    assert!(attributes.can_reattest);
    assert_eq!(attributes.warnings, Vec::<String>::new());

    let message = |bytes: &str| format!("{:?}", Challenge { challenge: bytes.into() });
    assert_eq!(agent.recv().await.unwrap(), message("C1"));
    assert_eq!(agent.recv().await.unwrap(), message(""));
    assert_eq!(agent.recv().await.unwrap(), "cancelled");
    let message = |request| format!("{:?}", AttestRequest { request: Some(request) });
    assert_eq!(server.recv().await.unwrap(), message(attest_request::Request::Payload("P".into())));
    assert_eq!(server.recv().await.unwrap(), message(attest_request::Request::ChallengeResponse("R1".into())));
    assert_eq!(server.recv().await.unwrap(), message(attest_request::Request::ChallengeResponse("R2".into())));
    assert_eq!(server.recv().await.unwrap(), "cancelled");
}

#[tokio::test]
async fn an_agent_plugin_that_fails_cancels_the_server_plugin() {
    let (result, _agent, mut server) = attest_within(
        Duration::from_secs(60),
        vec![payload("P"), Step::Hear, Step::Fail(Status::unavailable("no TPM"))],
        vec![Step::Hear, challenge("C"), Step::Wait],
    )
    .await;
    assert_eq!(result.unwrap_err().to_string(), "agent plugin: Unavailable: nodeattestor(keylime): no TPM");
    server.recv().await.unwrap();
    assert_eq!(server.recv().await.unwrap(), "cancelled");
}

type Row<'a> = (Vec<Step<PayloadOrChallengeResponse>>, Vec<Step<AttestResponse>>, Side, Code, &'a str);

#[tokio::test]
async fn each_failure_has_its_side_code_and_text() {
    use Side::{Agent, Server};
    let empty = || Step::Say(PayloadOrChallengeResponse { data: None });
    let denied = |text: &str| Step::Fail(Status::permission_denied(text));
    let rows: Vec<Row<'_>> = vec![
        (vec![], vec![], Agent, Code::Internal, "plugin closed stream before returning attestation data"),
        (vec![empty()], vec![], Agent, Code::Internal, "plugin response missing attestation payload"),
        (vec![payload("")], vec![], Agent, Code::Internal, "plugin response missing attestation payload"),
        (vec![answer("R")], vec![], Agent, Code::Internal, "plugin response missing attestation payload"),
        (
            vec![Step::Fail(Status::failed_precondition("not configured"))],
            vec![],
            Agent,
            Code::FailedPrecondition,
            "not configured",
        ),
        (vec![payload("P")], vec![], Server, Code::Internal, "plugin closed stream unexpectedly"),
        (
            vec![payload("P")],
            vec![Step::Say(AttestResponse { response: None })],
            Server,
            Code::Internal,
            "plugin response missing challenge or agent attributes",
        ),
        (vec![payload("P")], vec![denied("false quote")], Server, Code::PermissionDenied, "false quote"),
        (vec![payload("P")], vec![denied("keylime: false quote")], Server, Code::PermissionDenied, "false quote"),
        (
            vec![payload("P")],
            vec![denied("nodeattestor(keylime): false quote")],
            Server,
            Code::PermissionDenied,
            "false quote",
        ),
        (
            vec![payload("P")],
            vec![challenge("C"), Step::Wait],
            Agent,
            Code::Internal,
            "plugin closed stream before handling the challenge",
        ),
        (
            vec![payload("P"), Step::Hear, answer("")],
            vec![challenge("C"), Step::Wait],
            Agent,
            Code::Internal,
            "plugin response missing challenge response",
        ),
        (
            vec![payload("P"), Step::Hear, payload("P")],
            vec![challenge("C"), Step::Wait],
            Agent,
            Code::Internal,
            "plugin response missing challenge response",
        ),
        (vec![payload("P")], vec![attributes("", &[])], Server, Code::Internal, "plugin response missing agent ID"),
    ];
    for (agent, server, side, code, text) in rows {
        let error = attest(agent, server).await.unwrap_err();
        assert_eq!(error, AttestError { side, code, text: format!("nodeattestor(keylime): {text}") });
    }
}

#[tokio::test]
async fn the_agent_id_is_checked_as_spire_server_does() {
    for (id, text) in [
        ("keylime/d432", "invalid agent ID: scheme is missing or invalid"),
        (
            "spiffe://example.org/spire/agent/keylime/a:b",
            "invalid agent ID: path segment characters are limited to letters, numbers, dots, dashes, and underscores",
        ),
        ("spiffe://example.org/spire/server", "agent ID cannot collide with the server ID"),
        (
            "spiffe://other.org/spire/agent/keylime/d432",
            "failed to sign X509 SVID: invalid X509-SVID ID: \"spiffe://other.org/spire/agent/keylime/d432\" is not a \
             member of trust domain \"example.org\"",
        ),
        (
            "spiffe://example.org",
            "failed to sign X509 SVID: invalid X509-SVID ID: \"spiffe://example.org\" is not a member of trust domain \
             \"example.org\"; path is empty",
        ),
    ] {
        let error = attest(vec![payload("P")], vec![attributes(id, &[])]).await.unwrap_err();
        assert_eq!(error, AttestError { side: Side::Server, code: Code::Internal, text: text.to_owned() });
    }
}

#[tokio::test]
async fn what_spire_should_not_accept_is_a_warning() {
    let long = "x".repeat(256);
    for (id, selector, warning) in [
        (
            "spiffe://example.org/foo",
            "s",
            "\"spiffe://example.org/foo\" is not in the agent namespace for attestor \"keylime\"; future releases of \
             SPIRE refuse it",
        ),
        (ID, "", "a selector value is empty"),
        (ID, &long, "the ID or a selector value is longer than 255 characters"),
    ] {
        let attributes = attest(vec![payload("P")], vec![attributes(id, &[selector])]).await.unwrap();
        assert_eq!(attributes.warnings, [warning]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_plugin_is_given_up() {
    let text = "nodeattestor(keylime): the plugin has not answered; the whole attestation may take 3s";
    for (agent, server, side) in [
        (vec![Step::Wait], vec![], Side::Agent),
        (vec![payload("P"), Step::Wait], vec![Step::Hear, Step::Wait], Side::Server),
        (vec![payload("P"), Step::Hear, Step::Wait], vec![challenge("C"), Step::Wait], Side::Agent),
    ] {
        let (result, ..) = attest_within(Duration::from_secs(3), agent, server).await;
        let error = AttestError { side, code: Code::DeadlineExceeded, text: text.to_owned() };
        assert_eq!(result.unwrap_err(), error);
    }
}

#[test]
fn a_lost_connection_is_unavailable_whatever_tonic_calls_it() {
    let with_source = |code, source: h2::Error| {
        let mut status = Status::new(code, "transport error");
        status.set_source(std::sync::Arc::new(source));
        status
    };
    let lost = || h2::Error::from(h2::Reason::INTERNAL_ERROR);
    assert_eq!(code(&with_source(Code::Unknown, lost())), Code::Unavailable);
    assert_eq!(code(&with_source(Code::Cancelled, lost())), Code::Unavailable);
    assert_eq!(code(&Status::unknown("the plugin's own")), Code::Unknown);
    assert_eq!(code(&Status::cancelled("the plugin's own")), Code::Cancelled);
}
