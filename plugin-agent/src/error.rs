// SPDX-License-Identifier: Apache-2.0
//! What can go wrong on the node's side, and the one place where it becomes a gRPC code and text.
//!
//! These texts stay on the host: they end in the SPIRE agent's own log, so they name the address
//! and what to do.

use keylime_api::ClientError;
use tonic::{Code, Status};
use tpm_wire::nonce::NonceError;
use tpm_wire::payload::PayloadError;

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
    /// The SPIRE server's nonce cannot go to a TPM.
    #[error("the SPIRE server's nonce is refused: {0}")]
    Nonce(#[from] NonceError),
}

impl AidError {
    /// The gRPC code. None is `PermissionDenied`, which would end a starting SPIRE agent at once:
    /// everything here may pass by itself.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Info(source) | Self::Quote(source) if source.is_timeout() => Code::DeadlineExceeded,
            Self::Info(_) | Self::Quote(_) => Code::Unavailable,
            Self::Challenge(_) | Self::ChallengeTooLong | Self::Nonce(_) => Code::InvalidArgument,
        }
    }

    /// The status for the SPIRE agent.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::new(self.code(), self.to_string())
    }
}
