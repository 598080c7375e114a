// SPDX-License-Identifier: Apache-2.0
//! The node's side of the protocol as types that consume themselves: [`Introduce`] gives the
//! payload and becomes [`AwaitChallenge`], which answers a challenge. No gRPC in here.

use std::sync::Arc;

use keylime_api::AgentId;
use tpm_wire::nonce::Nonce;
use tpm_wire::payload::{Challenge, ChallengeResponse, Payload};

use crate::config::AgentConfig;
use crate::error::AidError;

/// Before anything was said.
#[derive(Debug)]
pub struct Introduce {
    config: Arc<AgentConfig>,
}

/// After the payload went out.
#[derive(Debug)]
pub struct AwaitChallenge {
    config: Arc<AgentConfig>,
}

impl Introduce {
    /// Starts an attestation under one snapshot of the configuration.
    #[must_use]
    pub fn new(config: Arc<AgentConfig>) -> Self {
        Self { config }
    }

    /// Asks the Keylime agent who it is, and gives its id and the attestation payload as JSON.
    ///
    /// # Errors
    /// [`AidError::Info`].
    pub async fn payload(self) -> Result<(AgentId, Vec<u8>, AwaitChallenge), AidError> {
        let info = self.config.client.info().await.map_err(AidError::Info)?;
        let payload = Payload {
            agent_id: info.agent_uuid.to_string(),
            hash_alg: info.tpm_hash_alg.name().to_owned(),
            agent_nonce: None,
        }
        .to_json();
        Ok((info.agent_uuid, payload, AwaitChallenge { config: self.config }))
    }
}

impl AwaitChallenge {
    /// Has the TPM quote the challenge's nonce, and gives the challenge response as JSON.
    ///
    /// # Errors
    /// [`AidError::Challenge`], [`AidError::Nonce`] or [`AidError::Quote`].
    pub async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, AidError> {
        let nonce: Nonce = Challenge::from_json(challenge)?.nonce.parse()?;
        let quoted = self.config.client.identity_quote(&nonce).await.map_err(AidError::Quote)?;
        Ok(ChallengeResponse { quote: quoted.quote, node_key: None, boot_log: None }.to_json())
    }
}
