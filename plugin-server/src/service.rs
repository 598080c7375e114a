// SPDX-License-Identifier: Apache-2.0
//! SPIRE server's `NodeAttestor` service: carries messages between the stream and
//! [`crate::attestation`], bounds them in time and number, and logs each outcome once.

use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use spire_plugin::ConfigStore;
use spire_plugin::exchange::{self, Answers, Exchange};
use spire_proto::server_nodeattestor::attest_request::Request as Said;
use spire_proto::server_nodeattestor::attest_response::Response as Answer;
use spire_proto::server_nodeattestor::node_attestor_server::NodeAttestor;
use spire_proto::server_nodeattestor::{AgentAttributes, AttestRequest, AttestResponse};
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Span, info, info_span, warn};

use crate::attestation::{AwaitPayload, Identity};
use crate::config::ServerConfig;
use crate::error::{AttemptId, Refusal};

/// How long a node may take for its quote: a TPM needs well under a second, a busy host's queue
/// and a slow line some more.
const QUOTE_LIMIT: Duration = Duration::from_secs(20);

/// How long SPIRE may take for the payload, which it has when it calls.
const PAYLOAD_LIMIT: Duration = Duration::from_secs(5);

/// Attestations under way at once. SPIRE sets no bound of its own.
const MAX_ATTESTATIONS: usize = 512;

/// The service; clones share configuration and bounds.
#[derive(Clone, Debug)]
pub struct ServerAttestor {
    config: ConfigStore<ServerConfig>,
    slots: Arc<Semaphore>,
}

impl ServerAttestor {
    /// A service that attests under whatever `config` holds when an attestation starts.
    #[must_use]
    pub fn new(config: ConfigStore<ServerConfig>) -> Self {
        Self { config, slots: Arc::new(Semaphore::new(MAX_ATTESTATIONS)) }
    }
}

#[tonic::async_trait]
impl NodeAttestor for ServerAttestor {
    type AttestStream = Answers<AttestResponse>;

    async fn attest(&self, request: Request<Streaming<AttestRequest>>) -> Result<Response<Self::AttestStream>, Status> {
        let config = self.config.snapshot()?;
        let attempt = attempt_id();
        let span = info_span!("attestation", attempt = %attempt, agent = tracing::field::Empty);
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            let refusal = Refusal::Busy { limit: MAX_ATTESTATIONS };
            span.in_scope(|| warn!(error = %refusal, "Node attestation refused"));
            return Err(refusal.status(attempt));
        };
        let on_panic = Refusal::Panicked.status(attempt);
        Ok(exchange::serve(request.into_inner(), span, on_panic, move |mut exchange| async move {
            let _slot = slot;
            match attest(config, &mut exchange).await {
                Ok(identity) => {
                    info!(spiffe_id = %identity.spiffe_id, "Node attested");
                    exchange.send(attributes(identity)).await
                }
                Err(End::Refused(refusal)) => {
                    warn!(error = %refusal, code = ?refusal.code(), "Node attestation refused");
                    Err(refusal.status(attempt))
                }
                Err(End::Stream(status)) => Err(status),
            }
        }))
    }
}

/// An attestation that gave no identity.
enum End {
    /// By our decision.
    Refused(Refusal),
    /// By the stream: SPIRE or the node went away.
    Stream(Status),
}

impl<R: Into<Refusal>> From<R> for End {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

async fn attest(
    config: Arc<ServerConfig>,
    exchange: &mut Exchange<AttestRequest, AttestResponse>,
) -> Result<Identity, End> {
    let payload = match tokio::time::timeout(PAYLOAD_LIMIT, receive(exchange)).await {
        Ok(Ok(Said::Payload(payload))) => payload,
        Ok(Ok(Said::ChallengeResponse(_))) => {
            return Err(Refusal::OutOfTurn { expected: "attestation payload" }.into());
        }
        Ok(Err(end)) => return Err(end),
        Err(_) => return Err(Refusal::NoPayload { limit: PAYLOAD_LIMIT }.into()),
    };
    let (challenge, waiting) = AwaitPayload::new(config).payload(&payload)?;
    Span::current().record("agent", tracing::field::display(waiting.id()));
    exchange.send(message(Answer::Challenge(challenge))).await.map_err(End::Stream)?;

    let quote = async {
        match tokio::time::timeout(QUOTE_LIMIT, receive(exchange)).await {
            Err(_) => Err(Refusal::NodeTooSlow { limit: QUOTE_LIMIT }.into()),
            Ok(Ok(Said::ChallengeResponse(quote))) => Ok(quote),
            Ok(Ok(Said::Payload(_))) => Err(Refusal::OutOfTurn { expected: "challenge response" }.into()),
            Ok(Err(end)) => Err(end),
        }
    };
    // Both to their end, also where Keylime refuses at once: SPIRE passes a status on only while it listens, and until
    // the node has answered the challenge it does not (it would report that the plugin closed the stream).
    let (records, quote) = tokio::join!(waiting.records(), quote);
    Ok(waiting.quote(records, &quote?).await?)
}

async fn receive(exchange: &mut Exchange<AttestRequest, AttestResponse>) -> Result<Said, End> {
    let message = exchange.receive().await.map_err(|status| match status.code() {
        Code::OutOfRange => End::Refused(Refusal::TooLong),
        _ => End::Stream(status),
    })?;
    // SPIRE never ends its side of the stream, and each of its messages has one of the two members.
    message
        .and_then(|message| message.request)
        .ok_or_else(|| End::Stream(Status::cancelled("SPIRE ended the attestation")))
}

fn message(answer: Answer) -> AttestResponse {
    AttestResponse { response: Some(answer) }
}

fn attributes(identity: Identity) -> AttestResponse {
    message(Answer::AgentAttributes(AgentAttributes {
        spiffe_id: identity.spiffe_id.to_string(),
        selector_values: Vec::new(),
        // Each attestation is a fresh TPM quote, so SPIRE may, and shall, ask again.
        can_reattest: true,
    }))
}

/// A random attempt id. Without random numbers it is zero: the attestation itself then fails
/// where it needs its nonce.
fn attempt_id() -> AttemptId {
    let mut bytes = [0_u8; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => AttemptId::new(u32::from_be_bytes(bytes)),
        Err(_) => AttemptId::new(0),
    }
}
