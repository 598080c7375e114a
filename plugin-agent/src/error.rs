// SPDX-License-Identifier: Apache-2.0
//! What can go wrong on the node's side, and the one place where it becomes a gRPC code and text.
//!
//! These texts stay on the host: they end in the SPIRE agent's own log, so they name the address
//! and what to do.

use keylime_api::ClientError;
use spire_plugin::random::NoRandom;
use tonic::{Code, Status};
use tpm_wire::nonce::NonceError;
use tpm_wire::payload::PayloadError;

use crate::attestation::MAX_CHALLENGES;

/// Why this node could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AidError {
    /// The Keylime agent did not say who it is.
    #[error("this host has no Keylime identity to present: {0}")]
    Info(#[source] ClientError),
    /// The Keylime agent gave no quote.
    #[error("the Keylime agent gave no TPM quote: {0}")]
    Quote(#[source] ClientError),
    /// The SPIRE server's challenge is not one of our server plugin or the Go one.
    #[error("the SPIRE server's challenge is malformed: {0}: is its node attestor a Keylime attestor?")]
    Challenge(#[from] PayloadError),
    /// The SPIRE server's challenge is longer than any honest one.
    #[error("the SPIRE server's challenge is too long: is its node attestor a Keylime attestor?")]
    ChallengeTooLong,
    /// The SPIRE server asks for one quote after the other.
    #[error(
        "the SPIRE server asks for more than {MAX_CHALLENGES} TPM quotes in one attestation: is its node attestor a \
         Keylime attestor?"
    )]
    TooManyChallenges,
    /// The SPIRE server's nonce cannot go to a TPM.
    #[error("the SPIRE server's nonce is refused: {0}")]
    Nonce(#[from] NonceError),
    /// The server plugin speaks version 1, and that is not enough for this host.
    #[error(
        "the SPIRE server's node attestor does not take part in choosing the nonce, and this host has \
         `require_agent_nonce = true`: replace the server's plugin by keylime-attestor-server, or remove \
         `require_agent_nonce`"
    )]
    NonceOfServerAlone,
    /// More attestations at once than any SPIRE agent starts.
    #[error("{limit} attestations of this host are under way, and no more are taken: is something else calling?")]
    Busy {
        /// Attestations at once.
        limit: usize,
    },
    /// The system gave no random numbers.
    #[error("the operating system gave no random numbers for the nonce")]
    Random(#[from] NoRandom),
    /// A fault of this program.
    #[error("internal error in the plugin, see the log")]
    Panicked,
}

impl AidError {
    /// The gRPC code. None is `PermissionDenied`, which would end a starting SPIRE agent at once:
    /// everything here may pass by itself.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Info(source) | Self::Quote(source) if source.is_timeout() => Code::DeadlineExceeded,
            Self::Info(_) | Self::Quote(_) => Code::Unavailable,
            Self::Challenge(_) | Self::ChallengeTooLong | Self::TooManyChallenges | Self::Nonce(_) => {
                Code::InvalidArgument
            }
            Self::NonceOfServerAlone => Code::FailedPrecondition,
            Self::Busy { .. } => Code::ResourceExhausted,
            Self::Random(_) | Self::Panicked => Code::Internal,
        }
    }

    /// The status for the SPIRE agent.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::new(self.code(), self.to_string())
    }
}
