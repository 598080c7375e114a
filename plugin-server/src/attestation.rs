// SPDX-License-Identifier: Apache-2.0
//! The attestation protocol as types that consume themselves: [`AwaitPayload`] becomes
//! [`AwaitQuote`] with a challenge, which becomes [`Identity`] with a quote. No gRPC in here.

use std::sync::Arc;
use std::time::SystemTime;

use keylime_api::pool::Vouched;
use keylime_api::registrar::RegistrarAgent;
use keylime_api::verifier::IdentityCheck;
use keylime_api::{AgentId, ClientError};
use spire_plugin::{Metrics, SpiffeId, random};
use tokio::time::Instant;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::{self, Nonce};
use tpm_wire::payload::{
    Challenge, ChallengeResponse, MAX_CHALLENGE_RESPONSE_LEN, MAX_CHALLENGE_RESPONSE_WITH_BOOT_LOG_LEN, Payload, Wanted,
};
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::{self, VerifiedQuote, verify_quote};

use crate::config::{QuoteVerification, ServerConfig};
use crate::error::{Neighbour, Refusal};
use crate::selectors::{Evidence, Selectors};
use crate::waiting::Waiting;
use crate::{hop, policy};

/// Before the first message of the node.
#[derive(Debug)]
pub struct AwaitPayload {
    config: Arc<ServerConfig>,
    metrics: Metrics,
    waiting: Waiting,
}

/// After the challenge went out.
#[derive(Debug)]
pub struct AwaitQuote {
    config: Arc<ServerConfig>,
    metrics: Metrics,
    waiting: Waiting,
    id: AgentId,
    bank: HashAlgorithm,
    /// What the TPM has to quote.
    nonce: Nonce,
    /// What the node was asked to send besides; `None` for a node of version 1.
    wanted: Option<Wanted>,
}

/// What Keylime answered about a host while the node made its quote; not judged yet.
#[derive(Debug)]
pub struct Records {
    verifier: Result<Vouched, Refusal>,
    /// `None` where nothing of it is needed.
    registrar: Option<Result<RegistrarAgent, Refusal>>,
}

/// The verifier's good answer from before the second question.
struct Before {
    vouched: Vouched,
    /// Whether the host had to wait for it.
    waited: bool,
}

/// The outcome: who the node is.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// `spiffe://<trust domain>/spire/agent/<segment>/<agent id>`.
    pub spiffe_id: SpiffeId,
    /// The selectors.
    pub selectors: Selectors,
}

impl AwaitPayload {
    /// Starts an attestation under one snapshot of the configuration.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, metrics: Metrics, waiting: Waiting) -> Self {
        Self { config, metrics, waiting }
    }

    /// Takes the attestation payload, and gives the challenge to send, as JSON.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::AgentId`], [`Refusal::HashAlgorithm`], [`Refusal::Random`].
    pub fn payload(self, bytes: &[u8]) -> Result<(Vec<u8>, AwaitQuote), Refusal> {
        let Self { config, metrics, waiting } = self;
        let payload = Payload::from_json(bytes)?;
        let id: AgentId = payload.agent_id.parse().map_err(Refusal::AgentId)?;
        let bank = policy::allowed_bank(&payload.hash_alg)?;
        let ours = Nonce::from_random(&random::bytes()?);
        let wanted = payload.agent_nonce.as_ref().map(|_| config.selection.wanted());
        let challenge = Challenge { nonce: ours.as_str().to_owned(), wanted }.to_json();
        let nonce = match &payload.agent_nonce {
            None => ours,
            Some(theirs) => nonce::bound(config.trust_domain.as_str(), id.as_str(), &ours, theirs),
        };
        Ok((challenge, AwaitQuote { config, metrics, waiting, id, bank, nonce, wanted }))
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
        let (verifier, registrar) = tokio::join!(self.ask_verifier(), self.ask_registrar());
        Records { verifier, registrar }
    }

    /// The longest challenge response that the node may send, in bytes.
    #[must_use]
    pub fn longest_response(&self) -> usize {
        match self.wanted {
            Some(Wanted { boot_log: true, .. }) => MAX_CHALLENGE_RESPONSE_WITH_BOOT_LOG_LEN,
            _ => MAX_CHALLENGE_RESPONSE_LEN,
        }
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
        let boot_log_wanted = self.wanted.is_some_and(|wanted| wanted.boot_log);
        let response = ChallengeResponse::from_json(bytes, boot_log_wanted)?;
        let quote: QuoteString = response.quote.parse()?;
        let registrar = records.registrar.transpose()?;
        let (verified, first) = match &registrar {
            Some(registrar) => (Some(self.verify(&quote, registrar, response.node_key.as_deref())?), records.verifier),
            // Nobody but the verifier looks at the quote, so it does before its verdict is told or waited for.
            None => {
                let first = records.verifier?;
                self.check_by_verifier(&first, &quote).await?;
                (None, Ok(first))
            }
        };
        let before = self.vouched(first).await?;
        let registrar = match registrar {
            Some(verified_with) if before.waited => Some(self.still_registered(verified_with).await?),
            registrar => registrar,
        };
        let now = match self.config.quote_verification {
            QuoteVerification::Both => {
                let (checked, now) = tokio::join!(
                    self.check_by_verifier(&before.vouched, &quote),
                    self.ask_verifier_again(&before.vouched)
                );
                checked?;
                now?
            }
            QuoteVerification::Local | QuoteVerification::InsecureVerifierOnly => {
                self.ask_verifier_again(&before.vouched).await?
            }
        };
        policy::check_verifier(&now, self.bank)?;
        if now.record.attestation_count < before.vouched.record.attestation_count {
            // Deleted and enrolled again meanwhile: the registrar's AK may be another's by now. (A count that has
            // caught up hides it; what then holds is that the verifier has accepted quotes of the new enrolment.)
            return Err(Refusal::EnrolledAgain);
        }
        let evidence = Evidence {
            id: &self.id,
            registrar: registrar.as_ref(),
            pcrs: verified.as_ref().map(|verified| &verified.pcrs),
            boot_log: response.boot_log.as_deref(),
            verifier: &now.record,
            now: SystemTime::now(),
        };
        let selectors = Selectors::of(&self.config.selection, &evidence);
        let spiffe_id = self
            .config
            .spiffe_id(self.id.as_str())
            .expect("an agent id is a legal path segment, and the configured one was checked with the longest");
        Ok(Identity { spiffe_id, selectors })
    }

    /// Verifies the quote with the registrar's AK.
    fn verify(
        &self,
        quote: &QuoteString,
        registrar: &RegistrarAgent,
        node_key: Option<&str>,
    ) -> Result<VerifiedQuote, Refusal> {
        let ak = policy::registered_ak(&self.id, &registrar.aik_tpm, registrar.ek_tpm.as_deref())?;
        let verified = verify_quote(quote, &ak, self.nonce.as_bytes(), self.bank)?;
        if let Some(node_key) = node_key
            && verify::node_key_matches(&verified.pcrs, node_key) != Some(true)
        {
            return Err(Refusal::NodeKey);
        }
        Ok(verified)
    }

    /// Has the verifier that knows the host check the quote too.
    async fn check_by_verifier(&self, vouched: &Vouched, quote: &QuoteString) -> Result<(), Refusal> {
        let verifiers = &self.config.verifiers;
        let check = verifiers.verify_identity(vouched, self.bank, &self.nonce, quote);
        match self.metrics.latency(hop::VERIFY_IDENTITY, check).await.map_err(not_enrolled_or_down)? {
            IdentityCheck::Valid => Ok(()),
            IdentityCheck::Invalid { reason } => Err(Refusal::QuoteAtVerifier { reason }),
        }
    }

    /// Holds the verifier's answer to "verified, recently, and still"; a host that is merely not verified yet may be
    /// waited for. Only a host whose quote was verified gets here.
    async fn vouched(&self, first: Result<Vouched, Refusal>) -> Result<Before, Refusal> {
        let deadline = Instant::now() + self.config.wait_for_verification;
        let mut counted: Option<(String, u64)> = None;
        let mut place = None;
        let mut answer = first;
        loop {
            if let Ok(vouched) = &answer {
                let count = vouched.record.attestation_count;
                // Each verifier counts by itself, and while waiting another one may be the first to vouch.
                match &counted {
                    Some((peer, before)) if peer == vouched.peer() && count < *before => {
                        return Err(Refusal::EnrolledAgain);
                    }
                    _ => counted = Some((vouched.peer().to_owned(), count)),
                }
            }
            let refusal = match answer {
                Ok(vouched) => match policy::check_verifier(&vouched, self.bank) {
                    Ok(()) => return Ok(Before { vouched, waited: place.is_some() }),
                    Err(refusal) => refusal,
                },
                Err(refusal) => refusal,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !refusal.may_pass_by_waiting() {
                return Err(refusal);
            }
            if place.is_none() {
                // Where too many wait already, this one is told at once what it would be told later.
                place = Some(self.waiting.place().ok_or(refusal)?);
            }
            tokio::time::sleep(self.waiting.pause().min(left)).await;
            answer = self.ask_verifier().await;
        }
    }

    /// Asks the registrar again after a wait: the quote was verified with an AK that may have been replaced since.
    async fn still_registered(&self, before: RegistrarAgent) -> Result<RegistrarAgent, Refusal> {
        match self.ask_registrar().await {
            Some(Ok(now)) if now == before => Ok(now),
            Some(Ok(_)) => Err(Refusal::EnrolledAgain),
            Some(Err(refusal)) => Err(refusal),
            None => Ok(before),
        }
    }

    async fn ask_verifier(&self) -> Result<Vouched, Refusal> {
        let asked = self.config.verifiers.ask(&self.id, self.config.maximum_attestation_interval);
        self.metrics.latency(hop::VERIFIER, asked).await.map_err(not_enrolled_or_down)
    }

    async fn ask_verifier_again(&self, before: &Vouched) -> Result<Vouched, Refusal> {
        let asked = self.config.verifiers.ask_again(before, self.config.maximum_attestation_interval);
        self.metrics.latency(hop::VERIFIER, asked).await.map_err(not_enrolled_or_down)
    }

    async fn ask_registrar(&self) -> Option<Result<RegistrarAgent, Refusal>> {
        if self.config.quote_verification == QuoteVerification::InsecureVerifierOnly {
            return None;
        }
        let asked = self.metrics.latency(hop::REGISTRAR, self.config.registrars.agent(&self.id)).await;
        Some(asked.map_err(|source| match source {
            source if source.is_not_found() => Refusal::NotRegistered,
            // The node wrote another host's id in other letters, and the registrar's database did not mind.
            source if source.is_other_agent() => Refusal::Registration { detail: source.to_string() },
            source => Refusal::Neighbour { neighbour: Neighbour::Registrar, source },
        }))
    }
}

fn not_enrolled_or_down(source: ClientError) -> Refusal {
    if source.is_not_found() {
        Refusal::NotEnrolled
    } else {
        Refusal::Neighbour { neighbour: Neighbour::Verifier, source }
    }
}
