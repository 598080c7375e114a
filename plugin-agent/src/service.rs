// SPDX-License-Identifier: Apache-2.0
//! SPIRE agent's `NodeAttestor` service: carries messages between the stream and
//! [`crate::attestation`], and logs each outcome once.

use std::sync::Arc;

use spire_plugin::ConfigStore;
use spire_plugin::exchange::{self, Answers, Exchange};
use spire_proto::agent_nodeattestor::node_attestor_server::NodeAttestor;
use spire_proto::agent_nodeattestor::payload_or_challenge_response::Data;
use spire_proto::agent_nodeattestor::{Challenge, PayloadOrChallengeResponse};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Span, debug, info_span, warn};

use crate::attestation::Introduce;
use crate::config::AgentConfig;
use crate::error::AidError;

/// The service; clones share the configuration.
#[derive(Clone, Debug)]
pub struct AgentAttestor {
    config: ConfigStore<AgentConfig>,
}

impl AgentAttestor {
    /// A service that attests under whatever `config` holds when an attestation starts.
    #[must_use]
    pub fn new(config: ConfigStore<AgentConfig>) -> Self {
        Self { config }
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
        let span = info_span!("attestation", agent = tracing::field::Empty);
        let on_panic = Status::internal("internal error in the plugin, see the log");
        Ok(exchange::serve(request.into_inner(), span, on_panic, move |mut exchange| async move {
            aid(config, &mut exchange).await.map_err(|end| match end {
                End::Failed(error) => {
                    warn!(%error, "Node attestation cannot go on");
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
    exchange: &mut Exchange<Challenge, PayloadOrChallengeResponse>,
) -> Result<(), End> {
    let (id, payload, waiting) = Introduce::new(config).payload().await?;
    Span::current().record("agent", tracing::field::display(&id));
    send(exchange, Data::Payload(payload)).await?;
    debug!("Attestation payload sent");
    while let Some(message) = exchange.receive().await.map_err(broken)? {
        let response = waiting.respond(&message.challenge).await?;
        send(exchange, Data::ChallengeResponse(response)).await?;
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
