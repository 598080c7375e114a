// SPDX-License-Identifier: Apache-2.0
//! The attestation protocol as types that consume themselves: [`AwaitPayload`] becomes
//! [`AwaitQuote`] with a challenge, which becomes [`Identity`] with a quote. No gRPC in here.

use std::sync::Arc;

use keylime_api::registrar::RegistrarAgent;
use keylime_api::verifier::VerifierAgent;
use keylime_api::{AgentId, ClientError};
use ring::rand::{SecureRandom, SystemRandom};
use spire_plugin::SpiffeId;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::payload::{Challenge, ChallengeResponse, Payload};
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::verify_quote;

use crate::config::ServerConfig;
use crate::error::{Neighbour, Refusal};
use crate::policy;

/// Before the first message of the node.
#[derive(Debug)]
pub struct AwaitPayload {
    config: Arc<ServerConfig>,
}

/// After the challenge went out.
#[derive(Debug)]
pub struct AwaitQuote {
    config: Arc<ServerConfig>,
    id: AgentId,
    bank: HashAlgorithm,
    nonce: Nonce,
}

/// What Keylime answered about a host while the node made its quote; not judged yet.
#[derive(Debug)]
pub struct Records {
    verifier: Result<VerifierAgent, Refusal>,
    registrar: Result<RegistrarAgent, Refusal>,
}

/// The outcome: who the node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `spiffe://<trust domain>/spire/agent/keylime/<agent id>`.
    pub spiffe_id: SpiffeId,
}

impl AwaitPayload {
    /// Starts an attestation under one snapshot of the configuration.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self { config }
    }

    /// Takes the attestation payload, and gives the challenge to send, as JSON.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::AgentId`], [`Refusal::HashAlgorithm`], [`Refusal::Random`].
    pub fn payload(self, bytes: &[u8]) -> Result<(Vec<u8>, AwaitQuote), Refusal> {
        let payload = Payload::from_json(bytes)?;
        let id: AgentId = payload.agent_id.parse().map_err(Refusal::AgentId)?;
        let bank = policy::allowed_bank(&payload.hash_alg)?;
        let nonce = fresh_nonce()?;
        let challenge = Challenge { nonce: nonce.as_str().to_owned() }.to_json();
        Ok((challenge, AwaitQuote { config: self.config, id, bank, nonce }))
    }
}

impl AwaitQuote {
    /// The Keylime agent id that the node claims.
    #[must_use]
    pub fn id(&self) -> &AgentId {
        &self.id
    }

    /// Asks the verifier and the registrar for the host, both at once. Meant to run while the node
    /// makes its quote.
    pub async fn records(&self) -> Records {
        let (verifier, registrar) = tokio::join!(self.ask_verifier(), self.config.registrar.agent(&self.id));
        let registrar = registrar.map_err(|source| match source {
            source if source.is_not_found() => Refusal::NotRegistered,
            source => Refusal::Neighbour { neighbour: Neighbour::Registrar, source },
        });
        Records { verifier, registrar }
    }

    /// Takes the challenge response and decides.
    ///
    /// The quote comes first: what the verifier thinks of a host is told to nobody but that host.
    /// The verifier is asked once more after the quote arrived, so that a host which failed in
    /// between is not let in on an answer from before.
    ///
    /// # Errors
    /// Any [`Refusal`] but those of the first message.
    pub async fn quote(self, records: Records, bytes: &[u8]) -> Result<Identity, Refusal> {
        let response = ChallengeResponse::from_json(bytes)?;
        let quote: QuoteString = response.quote.parse()?;
        let registrar = records.registrar?;
        let ak = policy::registered_ak(&self.id, &registrar.aik_tpm, registrar.ek_tpm.as_deref())?;
        verify_quote(&quote, &ak, self.nonce.as_bytes(), self.bank)?;
        let before = records.verifier?;
        let now = self.ask_verifier().await?;
        if now.attestation_count < before.attestation_count {
            // Deleted and enrolled again meanwhile: the registrar's AK may be another's by now. (A count that has
            // caught up hides it; what then holds is that the verifier has accepted quotes of the new enrolment.)
            return Err(Refusal::EnrolledAgain);
        }
        let segments = ["spire", "agent", "keylime", self.id.as_str()];
        let spiffe_id = SpiffeId::from_segments(&self.config.trust_domain, &segments)
            .expect("an agent id is a legal path segment, and far below the limit of an id's length");
        Ok(Identity { spiffe_id })
    }

    async fn ask_verifier(&self) -> Result<VerifierAgent, Refusal> {
        let record = self.config.verifier.agent(&self.id).await.map_err(not_enrolled_or_down)?;
        policy::check_verifier(&record, self.config.maximum_attestation_interval, self.bank)?;
        Ok(record)
    }
}

fn not_enrolled_or_down(source: ClientError) -> Refusal {
    if source.is_not_found() {
        Refusal::NotEnrolled
    } else {
        Refusal::Neighbour { neighbour: Neighbour::Verifier, source }
    }
}

fn fresh_nonce() -> Result<Nonce, Refusal> {
    let mut random = [0_u8; 20];
    SystemRandom::new().fill(&mut random).map_err(|_| Refusal::Random)?;
    Ok(Nonce::from_random(&random))
}
