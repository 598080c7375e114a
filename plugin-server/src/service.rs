// SPDX-License-Identifier: Apache-2.0
//! SPIRE server's `NodeAttestor` service: carries messages between the stream and
//! [`crate::attestation`], bounds them in time and number, and logs each outcome once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use spire_plugin::exchange::{self, Answers, Exchange};
use spire_plugin::metrics::Outcome;
use spire_plugin::{AttemptId, ConfigStore, Metrics, SpiffeId, source};
use spire_proto::server_nodeattestor::attest_request::Request as Said;
use spire_proto::server_nodeattestor::attest_response::Response as Answer;
use spire_proto::server_nodeattestor::node_attestor_server::NodeAttestor;
use spire_proto::server_nodeattestor::{AgentAttributes, AttestRequest, AttestResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::field::Empty;
use tracing::{Span, info, info_span, warn};

use crate::attestation::{AwaitPayload, Identity};
use crate::config::ServerConfig;
use crate::error::Refusal;
use crate::hop;
use crate::sources::{Guest, Sources};
use crate::waiting::Waiting;

/// Bounds of attestations in time and number.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long SPIRE may take for the payload, which it has when it calls.
    pub payload: Duration,
    /// How long a node may take for its quote: a TPM needs well under a second, a busy host's queue
    /// and a slow line some more.
    pub quote: Duration,
    /// Attestations under way at once. SPIRE sets no bound of its own.
    pub attestations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload: Duration::from_secs(5), quote: Duration::from_secs(20), attestations: 512 }
    }
}

/// The service; clones share configuration and bounds.
#[derive(Clone, Debug)]
pub struct ServerAttestor {
    config: ConfigStore<ServerConfig>,
    metrics: Metrics,
    limits: Limits,
    slots: Slots,
    sources: Sources,
    waiting: Waiting,
}

impl ServerAttestor {
    /// A service that attests under whatever `config` holds when an attestation starts.
    #[must_use]
    pub fn new(config: ConfigStore<ServerConfig>, metrics: Metrics, limits: Limits) -> Self {
        Self {
            config,
            slots: Slots {
                free: Arc::new(Semaphore::new(limits.attestations)),
                limit: limits.attestations,
                metrics: metrics.clone(),
            },
            metrics,
            limits,
            sources: Sources::default(),
            waiting: Waiting::default(),
        }
    }

    /// A place for one attestation more, from `source` if SPIRE tells it.
    fn enter(&self, source: Option<IpAddr>, per_source: usize) -> Result<Slot, Refusal> {
        let limit = self.slots.limit;
        let permit = Arc::clone(&self.slots.free).try_acquire_owned().map_err(|_| Refusal::Busy { limit })?;
        let guest = match source {
            None => None,
            Some(address) => {
                Some(self.sources.enter(address, per_source).ok_or(Refusal::SourceBusy { limit: per_source })?)
            }
        };
        self.slots.tell();
        Ok(Slot { permit: Some(permit), slots: self.slots.clone(), _guest: guest })
    }
}

/// The places for attestations; clones share them.
#[derive(Clone, Debug)]
struct Slots {
    free: Arc<Semaphore>,
    limit: usize,
    metrics: Metrics,
}

impl Slots {
    /// Tells SPIRE's telemetry how many are taken.
    fn tell(&self) {
        let taken = self.limit - self.free.available_permits();
        self.metrics.gauge("attestations_under_way", taken as f32, &[]);
    }
}

/// The place of one attestation, until it ends.
struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    slots: Slots,
    _guest: Option<Guest>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.slots.tell();
    }
}

#[tonic::async_trait]
impl NodeAttestor for ServerAttestor {
    type AttestStream = Answers<AttestResponse>;

    async fn attest(&self, request: Request<Streaming<AttestRequest>>) -> Result<Response<Self::AttestStream>, Status> {
        let config = self.config.snapshot()?;
        let attempt = AttemptId::random();
        let source = source::address(request.metadata());
        let span = info_span!("attestation", attempt = %attempt, agent = Empty, source = Empty);
        if let Some(source) = source {
            span.record("source", tracing::field::display(source));
        }
        let mut outcome = Outcome::begin(self.metrics.clone());
        let slot = self.enter(source, config.maximum_attestations_per_source).map_err(|refusal| {
            outcome.is(refusal.code());
            span.in_scope(|| warn!(error = %refusal, code = ?refusal.code(), "Node attestation refused"));
            refusal.status(attempt)
        })?;
        let on_panic = Refusal::Panicked.status(attempt);
        let (metrics, limits, waiting) = (self.metrics.clone(), self.limits, self.waiting.clone());
        Ok(exchange::serve(request.into_inner(), span, on_panic, move |mut exchange| async move {
            let _slot = slot;
            let start = AwaitPayload::new(config, metrics.clone(), waiting);
            let attestation = attest(start, &metrics, limits, &mut exchange);
            match metrics.latency(hop::ATTESTATION, attestation).await {
                Ok(Identity { spiffe_id, selectors }) => {
                    outcome.is(Code::Ok);
                    if !selectors.left_out.is_empty() {
                        warn!(left_out = selectors.left_out.join("; "), "Some selectors could not be made");
                    }
                    info!(%spiffe_id, selectors = selectors.values.len(), "Node attested");
                    exchange.send(attributes(&spiffe_id, selectors.values)).await
                }
                Err(End::Refused(refusal)) => {
                    outcome.is(refusal.code());
                    warn!(error = %refusal, code = ?refusal.code(), "Node attestation refused");
                    Err(refusal.status(attempt))
                }
                Err(End::Stream(status)) => {
                    outcome.is(status.code());
                    Err(status)
                }
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
    start: AwaitPayload,
    metrics: &Metrics,
    limits: Limits,
    exchange: &mut Exchange<AttestRequest, AttestResponse>,
) -> Result<Identity, End> {
    let payload = match tokio::time::timeout(limits.payload, receive(exchange)).await {
        Ok(Ok(Said::Payload(payload))) => payload,
        Ok(Ok(Said::ChallengeResponse(_))) => {
            return Err(Refusal::OutOfTurn { expected: "attestation payload" }.into());
        }
        Ok(Err(end)) => return Err(end),
        Err(_) => return Err(Refusal::NoPayload { limit: limits.payload }.into()),
    };
    let (challenge, waiting) = start.payload(&payload)?;
    Span::current().record("agent", tracing::field::display(waiting.id()));
    exchange.send(message(Answer::Challenge(challenge))).await.map_err(End::Stream)?;

    let quote = metrics.latency(hop::NODE, async {
        match tokio::time::timeout(limits.quote, receive(exchange)).await {
            Err(_) => Err(Refusal::NodeTooSlow { limit: limits.quote }.into()),
            // Here and not after Keylime's answers: nobody unknown has us keep what is too long anyway.
            Ok(Ok(Said::ChallengeResponse(quote))) if quote.len() > waiting.longest_response() => {
                Err(Refusal::TooLong.into())
            }
            Ok(Ok(Said::ChallengeResponse(quote))) => Ok(quote),
            Ok(Ok(Said::Payload(_))) => Err(Refusal::OutOfTurn { expected: "challenge response" }.into()),
            Ok(Err(end)) => Err(end),
        }
    });
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

fn attributes(spiffe_id: &SpiffeId, selector_values: Vec<String>) -> AttestResponse {
    message(Answer::AgentAttributes(AgentAttributes {
        spiffe_id: spiffe_id.to_string(),
        selector_values,
        // Each attestation is a fresh TPM quote, so SPIRE may, and shall, ask again.
        can_reattest: true,
    }))
}
