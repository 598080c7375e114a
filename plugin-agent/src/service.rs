// SPDX-License-Identifier: Apache-2.0
//! SPIRE agent's `NodeAttestor` service: carries messages between the stream and
//! [`crate::attestation`], bounds them in number, and logs each outcome once.

use std::sync::Arc;

use spire_plugin::exchange::{self, Answers, Exchange};
use spire_plugin::metrics::Outcome;
use spire_plugin::{AttemptId, ConfigStore, Metrics};
use spire_proto::agent_nodeattestor::node_attestor_server::NodeAttestor;
use spire_proto::agent_nodeattestor::payload_or_challenge_response::Data;
use spire_proto::agent_nodeattestor::{Challenge, PayloadOrChallengeResponse};
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::field::{Empty, display};
use tracing::{Span, debug, info_span, warn};

use crate::attestation::Introduce;
use crate::config::AgentConfig;
use crate::error::AidError;
use crate::hop;

/// Attestations under way at once. A SPIRE agent runs one; more come only from a test of load, and wait for the TPM.
const MAX_ATTESTATIONS: usize = 256;

/// The service; clones share configuration and bounds.
#[derive(Clone, Debug)]
pub struct AgentAttestor {
    config: ConfigStore<AgentConfig>,
    metrics: Metrics,
    slots: Arc<Semaphore>,
}

impl AgentAttestor {
    /// A service that attests under whatever `config` holds when an attestation starts.
    #[must_use]
    pub fn new(config: ConfigStore<AgentConfig>, metrics: Metrics) -> Self {
        Self { config, metrics, slots: Arc::new(Semaphore::new(MAX_ATTESTATIONS)) }
    }
}

#[tonic::async_trait]
impl NodeAttestor for AgentAttestor {
    type AidAttestationStream = Answers<PayloadOrChallengeResponse>;

    async fn aid_attestation(
        &self,
        request: Request<Streaming<Challenge>>,
    ) -> Result<Response<Self::AidAttestationStream>, Status> {
        let config = self.config.snapshot()?;
        let span = info_span!("attestation", attempt = %AttemptId::random(), agent = Empty);
        let mut outcome = Outcome::begin(self.metrics.clone());
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            let error = AidError::Busy { limit: MAX_ATTESTATIONS };
            outcome.is(error.code());
            span.in_scope(|| warn!(%error, "Node attestation refused"));
            return Err(error.status());
        };
        let on_panic = AidError::Panicked.status();
        let metrics = self.metrics.clone();
        Ok(exchange::serve(request.into_inner(), span, on_panic, move |mut exchange| async move {
            let _slot = slot;
            aid(config, &metrics, &mut exchange, &mut outcome).await.map_err(|end| match end {
                End::Failed(error) => {
                    outcome.is(error.code());
                    warn!(%error, code = ?error.code(), "Node attestation cannot go on");
                    error.status()
                }
                End::Stream(status) => status,
            })
        }))
    }
}

/// An attestation that ended early.
enum End {
    /// By something on this host or a bad challenge.
    Failed(AidError),
    /// By the stream: SPIRE went away, which is how it always ends a call.
    Stream(Status),
}

impl From<AidError> for End {
    fn from(error: AidError) -> Self {
        Self::Failed(error)
    }
}

async fn aid(
    config: Arc<AgentConfig>,
    metrics: &Metrics,
    exchange: &mut Exchange<Challenge, PayloadOrChallengeResponse>,
    outcome: &mut Outcome,
) -> Result<(), End> {
    let (id, payload, mut waiting) = metrics.latency(hop::INFO, Introduce::new(config).payload()).await?;
    Span::current().record("agent", display(&id));
    send(exchange, Data::Payload(payload)).await?;
    debug!("Attestation payload sent");
    while let Some(message) = exchange.receive().await.map_err(broken)? {
        let quoting = waiting.challenge(&message.challenge)?;
        let response;
        (response, waiting) = metrics.latency(hop::QUOTE, quoting.quote()).await?;
        send(exchange, Data::ChallengeResponse(response)).await?;
        // All that can be done here: whether the quote is good is decided by the SPIRE server.
        outcome.is(Code::Ok);
        debug!("Challenge answered with a TPM quote");
    }
    Ok(())
}

/// Why the stream gave no message: one that is too long is the SPIRE server's fault, all else SPIRE's end of the call.
fn broken(status: Status) -> End {
    match status.code() {
        Code::OutOfRange => End::Failed(AidError::ChallengeTooLong),
        _ => End::Stream(status),
    }
}

async fn send(exchange: &Exchange<Challenge, PayloadOrChallengeResponse>, data: Data) -> Result<(), End> {
    exchange.send(PayloadOrChallengeResponse { data: Some(data) }).await.map_err(End::Stream)
}
