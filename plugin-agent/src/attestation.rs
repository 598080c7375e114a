// SPDX-License-Identifier: Apache-2.0
//! The node's side of the protocol as types that consume themselves: [`Introduce`] gives the
//! payload and becomes [`AwaitChallenge`], which with a challenge becomes [`Quoting`], which gives the
//! response and becomes [`AwaitChallenge`] again. No gRPC in here.

use std::sync::Arc;

use keylime_api::{AgentId, ClientError};
use spire_plugin::random;
use tpm_wire::nonce::{self, Nonce};
use tpm_wire::payload::{Challenge, ChallengeResponse, MAX_BOOT_LOG_LEN, MAX_NODE_KEY_LEN, Payload, Wanted};
use tpm_wire::pcr::PcrMask;
use tracing::warn;

use crate::config::AgentConfig;
use crate::error::AidError;

/// Challenges answered in one attestation. Our server plugin and the Go one send one.
pub const MAX_CHALLENGES: u8 = 4;

/// The PCR whose presence in the mask makes a Keylime agent send the boot log.
const BOOT_LOG_PCR: u8 = 0;

/// Before anything was said.
#[derive(Debug)]
pub struct Introduce {
    config: Arc<AgentConfig>,
}

/// After the payload went out.
#[derive(Debug)]
pub struct AwaitChallenge {
    config: Arc<AgentConfig>,
    id: AgentId,
    nonce: Nonce,
    answered: u8,
}

/// After a challenge came in that will be answered.
#[derive(Debug)]
pub struct Quoting {
    waiting: AwaitChallenge,
    /// What the TPM is to quote.
    nonce: Nonce,
    /// Present for a challenge of version 2.
    wanted: Option<Wanted>,
}

impl Introduce {
    /// Starts an attestation under one snapshot of the configuration.
    #[must_use]
    pub fn new(config: Arc<AgentConfig>) -> Self {
        Self { config }
    }

    /// Asks the Keylime agent who it is, and gives its id and the attestation payload as JSON, of
    /// version 2 with a fresh nonce of our own.
    ///
    /// # Errors
    /// [`AidError::Info`], [`AidError::Random`].
    pub async fn payload(self) -> Result<(AgentId, Vec<u8>, AwaitChallenge), AidError> {
        let info = self.config.client.info().await.map_err(AidError::Info)?;
        let nonce = Nonce::from_random(&random::bytes()?);
        let payload = Payload {
            agent_id: info.agent_uuid.to_string(),
            hash_alg: info.tpm_hash_alg.name().to_owned(),
            agent_nonce: Some(nonce.clone()),
        };
        let waiting = AwaitChallenge { config: self.config, id: info.agent_uuid.clone(), nonce, answered: 0 };
        Ok((info.agent_uuid, payload.to_json(), waiting))
    }
}

impl AwaitChallenge {
    /// Takes a challenge and settles what the TPM is to quote: to a challenge of version 2 the nonce that
    /// both sides have chosen, to one of version 1 the server's alone.
    ///
    /// # Errors
    /// [`AidError::TooManyChallenges`], [`AidError::Challenge`], [`AidError::Nonce`],
    /// [`AidError::NonceOfServerAlone`].
    pub fn challenge(self, json: &[u8]) -> Result<Quoting, AidError> {
        if self.answered >= MAX_CHALLENGES {
            return Err(AidError::TooManyChallenges);
        }
        let challenge = Challenge::from_json(json)?;
        let server: Nonce = challenge.nonce.parse()?;
        let nonce = match challenge.wanted {
            Some(_) => nonce::bound(self.config.trust_domain.as_str(), self.id.as_str(), &server, &self.nonce),
            None if self.config.require_agent_nonce => return Err(AidError::NonceOfServerAlone),
            None => server,
        };
        Ok(Quoting { waiting: self, nonce, wanted: challenge.wanted })
    }
}

impl Quoting {
    /// Has the TPM quote, and gives the challenge response as JSON. What the server wants besides the
    /// quote of PCR 16 is left out where it cannot be had, with a line in the log.
    ///
    /// # Errors
    /// [`AidError::Quote`].
    pub async fn quote(self) -> Result<(Vec<u8>, AwaitChallenge), AidError> {
        let response = match self.wanted {
            None => ChallengeResponse { node_key: None, ..self.identity().await? },
            Some(wanted) if wanted.pcrs.is_empty() && !wanted.boot_log => self.identity().await?,
            Some(wanted) => self.integrity(wanted).await?,
        };
        let answered = self.waiting.answered + 1;
        Ok((response.to_json(), AwaitChallenge { answered, ..self.waiting }))
    }

    /// PCR 16 alone.
    async fn identity(&self) -> Result<ChallengeResponse, AidError> {
        let quoted = self.waiting.config.client.identity_quote(&self.nonce).await.map_err(AidError::Quote)?;
        Ok(ChallengeResponse { quote: quoted.quote, node_key: sendable_key(quoted.pubkey), boot_log: None })
    }

    /// The wanted PCRs too, or PCR 16 alone if the Keylime agent does not give them.
    async fn integrity(&self, wanted: Wanted) -> Result<ChallengeResponse, AidError> {
        let mask = if wanted.boot_log { wanted.pcrs.with(BOOT_LOG_PCR) } else { wanted.pcrs };
        let quoted = match self.waiting.config.client.integrity_quote(&self.nonce, mask).await {
            Ok(quoted) => quoted,
            Err(error) if is_about_the_call(&error) => {
                left_out(&without(mask, wanted.boot_log), &error.to_string());
                return self.identity().await;
            }
            Err(error) => return Err(AidError::Quote(error)),
        };
        let boot_log = match quoted.boot_log {
            _ if !wanted.boot_log => None,
            None => {
                left_out("the boot log", "the Keylime agent did not send it: it has none or cannot read it");
                None
            }
            Some(log) if log.len() > MAX_BOOT_LOG_LEN => {
                left_out("the boot log", &format!("it has {} bytes, at most {MAX_BOOT_LOG_LEN} are sent", log.len()));
                None
            }
            log => log,
        };
        Ok(ChallengeResponse { quote: quoted.quote, node_key: sendable_key(quoted.pubkey), boot_log })
    }
}

/// Whether a plainer call may do better: the Keylime agent was reached, and did not do this.
fn is_about_the_call(error: &ClientError) -> bool {
    !error.is_timeout() && !matches!(error, ClientError::Connect { .. } | ClientError::Tls { .. })
}

fn without(mask: PcrMask, boot_log: bool) -> String {
    let log = if boot_log { " and the boot log" } else { "" };
    format!("PCRs {}{log}", mask.iter().map(|pcr| pcr.to_string()).collect::<Vec<_>>().join(", "))
}

/// The node key, unless it is longer than any.
fn sendable_key(pem: Option<String>) -> Option<String> {
    if let Some(len) = pem.as_ref().map(String::len).filter(|len| *len > MAX_NODE_KEY_LEN) {
        left_out("the node key", &format!("it has {len} bytes, at most {MAX_NODE_KEY_LEN} are sent"));
        return None;
    }
    pem
}

/// The server plugin makes no selectors of what it does not get.
fn left_out(left_out: &str, reason: &str) {
    warn!(left_out, reason, "Less goes to the SPIRE server than it asked for");
}
