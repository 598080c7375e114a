// SPDX-License-Identifier: Apache-2.0
//! Why an attestation is refused: one variant per reason, grouped by who can act, and the one
//! place where a reason becomes a gRPC code and a text.
//!
//! The text of a status crosses to a node that nobody knows yet, so it names the reason and the
//! attempt, and nothing of our side: no addresses, paths or details. Those are in the log line
//! that carries the same attempt id.

use std::time::Duration;

use keylime_api::verdict::{NotYetReason, Verdict};
use keylime_api::{ClientError, InvalidAgentId};
use spire_plugin::AttemptId;
use spire_plugin::random::NoRandom;
use tonic::{Code, Status};
use tpm_wire::payload::PayloadError;
use tpm_wire::quote::QuoteStringError;
use tpm_wire::verify::VerifyError;

/// Which of Keylime's services a failed call went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// The verifier.
    Verifier,
    /// The registrar.
    Registrar,
}

/// Why an attestation ended without an identity. `Display` is for our log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    // The node sent something that no honest node sends.
    /// The attestation payload or the challenge response is not of the agreed form.
    #[error("malformed message from the node: {0}")]
    Malformed(#[from] PayloadError),
    /// A message is longer than any honest one.
    #[error("the node's message is too long")]
    TooLong,
    /// The claimed Keylime agent id is none.
    #[error("the node's Keylime agent id is not valid: {0}")]
    AgentId(#[source] InvalidAgentId),
    /// The node wants a quote checked in a PCR bank that is not allowed or not its own.
    #[error("the node's hash algorithm is not one of sha256, sha384, sha512, or not the one of its quotes")]
    HashAlgorithm,
    /// The messages came in another order than the protocol's.
    #[error("the node's message is out of turn: expected {expected}")]
    OutOfTurn {
        /// The message that was due.
        expected: &'static str,
    },
    /// What should be a quote is none.
    #[error("the node's quote is malformed: {0}")]
    QuoteForm(#[from] QuoteStringError),
    /// The quote does not prove what it has to.
    #[error("the node's quote was refused: {0}")]
    Quote(#[from] VerifyError),
    /// The node key that came along is not the one in PCR 16 of the quote.
    #[error("the node's quote was refused: PCR 16 does not stand for the node key sent along")]
    NodeKey,
    /// The verifier's own check of the quote failed.
    #[error("the node's quote was refused by the verifier: {reason}")]
    QuoteAtVerifier {
        /// The verifier's reason, cleaned and bounded.
        reason: String,
    },

    // Keylime does not vouch for the host (now).
    /// The verifier does not know the id.
    #[error("the verifier does not know this Keylime agent: enrol the host")]
    NotEnrolled,
    /// The registrar does not know the id, or it is not activated.
    #[error(
        "the registrar does not know this Keylime agent, or its registration is not activated: look at the Keylime agent's log"
    )]
    NotRegistered,
    /// The verifier's record says something else than "verified, recently, and still".
    #[error("the verifier does not vouch for this host: {0}")]
    NotVouchedFor(Verdict),
    /// The verifier's count went back while the node made its quote.
    #[error("the host was enrolled again at the verifier during this attestation")]
    EnrolledAgain,
    /// The registrar's record cannot stand for the host.
    #[error("the registrar's record of this Keylime agent is not usable: {detail}")]
    Registration {
        /// What is wrong with it.
        detail: String,
    },

    // A neighbour does not answer as it should.
    /// The verifier or registrar is down or answers nonsense.
    #[error("{source}")]
    Neighbour {
        /// Which one.
        neighbour: Neighbour,
        /// What happened.
        #[source]
        source: ClientError,
    },
    /// SPIRE opened the stream and sent nothing.
    #[error("SPIRE sent no attestation payload within {} s", limit.as_secs())]
    NoPayload {
        /// The limit.
        limit: Duration,
    },
    /// The node did not send its quote in time.
    #[error("the node sent no quote within {} s", limit.as_secs())]
    NodeTooSlow {
        /// The limit.
        limit: Duration,
    },

    // Our side.
    /// More attestations at once than this plugin takes.
    #[error("{limit} attestations are under way, no more are taken")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// More attestations at once from one address than are taken.
    #[error("{limit} attestations from this address are under way, no more are taken from it")]
    SourceBusy {
        /// The limit.
        limit: usize,
    },
    /// The operating system gave no random bytes.
    #[error("{0}")]
    Random(#[from] NoRandom),
    /// The attestation panicked; the panic itself has been logged.
    #[error("an attestation panicked")]
    Panicked,
}

impl Refusal {
    /// The gRPC code: SPIRE agents end at once on `PermissionDenied` and retry on all others.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Malformed(_)
            | Self::TooLong
            | Self::AgentId(_)
            | Self::HashAlgorithm
            | Self::OutOfTurn { .. }
            | Self::QuoteForm(_) => Code::InvalidArgument,
            Self::Quote(error) if is_malformed(error) => Code::InvalidArgument,
            Self::Quote(_)
            | Self::NodeKey
            | Self::QuoteAtVerifier { .. }
            | Self::NotVouchedFor(Verdict::Failed { .. })
            | Self::Registration { .. } => Code::PermissionDenied,
            Self::NotEnrolled | Self::NotVouchedFor(_) | Self::EnrolledAgain => Code::FailedPrecondition,
            // Enrolled, but unknown to the registrar: so it looks while the host registers again.
            Self::NotRegistered => Code::Unavailable,
            Self::Neighbour { source, .. } if source.is_timeout() => Code::DeadlineExceeded,
            Self::Neighbour { .. } => Code::Unavailable,
            Self::NoPayload { .. } | Self::NodeTooSlow { .. } => Code::DeadlineExceeded,
            Self::Busy { .. } | Self::SourceBusy { .. } => Code::ResourceExhausted,
            Self::Random(_) | Self::Panicked => Code::Internal,
        }
    }

    /// What the node is told.
    #[must_use]
    pub fn public_text(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::TooLong => "malformed attestation message",
            Self::AgentId(_) => "the Keylime agent id is not valid",
            Self::HashAlgorithm => "the hash algorithm is not allowed for this host",
            Self::OutOfTurn { .. } => "attestation message out of turn",
            Self::QuoteForm(_) => "the TPM quote is malformed",
            Self::Quote(error) if is_malformed(error) => "the TPM quote is malformed",
            Self::Quote(_) | Self::NodeKey | Self::QuoteAtVerifier { .. } => "the TPM quote was refused",
            Self::NotEnrolled => "the host is not known to the Keylime verifier",
            Self::NotRegistered => "the host is not known to the Keylime registrar",
            Self::NotVouchedFor(Verdict::Failed { .. }) => "the host failed its verification by Keylime",
            Self::NotVouchedFor(Verdict::Stale { .. }) => "the host was last verified by Keylime too long ago",
            Self::NotVouchedFor(_) | Self::EnrolledAgain => "the host has not been verified by Keylime yet",
            Self::Registration { .. } => "the host's registration at Keylime is not usable",
            Self::Neighbour { neighbour: Neighbour::Verifier, source } if source.is_timeout() => {
                "the Keylime verifier did not answer in time"
            }
            Self::Neighbour { neighbour: Neighbour::Verifier, .. } => "the Keylime verifier is not available",
            Self::Neighbour { neighbour: Neighbour::Registrar, source } if source.is_timeout() => {
                "the Keylime registrar did not answer in time"
            }
            Self::Neighbour { neighbour: Neighbour::Registrar, .. } => "the Keylime registrar is not available",
            Self::NoPayload { .. } => "no attestation payload came in time",
            Self::NodeTooSlow { .. } => "the node sent no TPM quote in time",
            Self::Busy { .. } => "too many attestations are under way",
            Self::SourceBusy { .. } => "too many attestations from this address are under way",
            Self::Random(_) | Self::Panicked => "internal error",
        }
    }

    /// Whether the verifier may answer otherwise within seconds, without anybody's doing: the host is enrolled and its
    /// first round, or the first after a restart, is not over; or the verifier itself is restarting.
    #[must_use]
    pub fn may_pass_by_waiting(&self) -> bool {
        match self {
            Self::NotVouchedFor(Verdict::Stale { .. }) => true,
            Self::NotVouchedFor(Verdict::NotYet { reason }) => {
                matches!(reason, NotYetReason::State(_) | NotYetReason::NeverAttested)
            }
            Self::Neighbour { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// The status that SPIRE passes on to the node.
    #[must_use]
    pub fn status(&self, attempt: AttemptId) -> Status {
        Status::new(self.code(), format!("{} (attempt {attempt})", self.public_text()))
    }
}

/// The parts of the quote are no TPM structures, as opposed to structures that prove something else.
fn is_malformed(error: &VerifyError) -> bool {
    matches!(
        error,
        VerifyError::SignatureMalformed(_) | VerifyError::AttestMalformed(_) | VerifyError::PcrsMalformed(_)
    )
}

#[cfg(test)]
mod tests {
    use keylime_api::state::OperationalState;
    use tpm_wire::error::DecodeError;

    use super::*;

    fn timeout(neighbour: Neighbour) -> Refusal {
        let source = ClientError::Timeout {
            peer: "the Keylime service at 192.0.2.1:1".to_owned(),
            call: "GET /x".to_owned(),
            limit: Duration::from_secs(10),
        };
        Refusal::Neighbour { neighbour, source }
    }

    fn broken(neighbour: Neighbour) -> Refusal {
        let source = ClientError::PushModel { peer: "the Keylime service at 192.0.2.1:1".to_owned() };
        Refusal::Neighbour { neighbour, source }
    }

    #[test]
    fn each_refusal_has_its_code_and_tells_the_node_no_more_than_the_reason() {
        let failed = Verdict::Failed { state: OperationalState::InvalidQuote, event_id: Some("pcr".to_owned()) };
        let stale = Verdict::Stale { age: Duration::from_secs(60), limit: Duration::from_secs(10) };
        let not_yet = Verdict::NotYet { reason: NotYetReason::NeverAttested };
        let limit = Duration::from_secs(30);
        let rows = [
            (
                Refusal::Malformed(PayloadError::Missing { message: "attestation payload", member: "AgentID" }),
                Code::InvalidArgument,
                "malformed attestation message",
            ),
            (
                Refusal::AgentId("../x".parse::<keylime_api::AgentId>().unwrap_err()),
                Code::InvalidArgument,
                "the Keylime agent id is not valid",
            ),
            (Refusal::HashAlgorithm, Code::InvalidArgument, "the hash algorithm is not allowed for this host"),
            (
                Refusal::OutOfTurn { expected: "challenge response" },
                Code::InvalidArgument,
                "attestation message out of turn",
            ),
            (Refusal::QuoteForm(QuoteStringError::Parts), Code::InvalidArgument, "the TPM quote is malformed"),
            (
                Refusal::Quote(VerifyError::SignatureMalformed(DecodeError::Trailing {
                    structure: "TPMT_SIGNATURE",
                    extra: 1,
                })),
                Code::InvalidArgument,
                "the TPM quote is malformed",
            ),
            (Refusal::TooLong, Code::InvalidArgument, "malformed attestation message"),
            (Refusal::Quote(VerifyError::NonceMismatch), Code::PermissionDenied, "the TPM quote was refused"),
            (Refusal::NodeKey, Code::PermissionDenied, "the TPM quote was refused"),
            (
                Refusal::QuoteAtVerifier { reason: "nonce".to_owned() },
                Code::PermissionDenied,
                "the TPM quote was refused",
            ),
            (Refusal::NotEnrolled, Code::FailedPrecondition, "the host is not known to the Keylime verifier"),
            (Refusal::NotRegistered, Code::Unavailable, "the host is not known to the Keylime registrar"),
            (Refusal::NotVouchedFor(failed), Code::PermissionDenied, "the host failed its verification by Keylime"),
            (
                Refusal::NotVouchedFor(stale),
                Code::FailedPrecondition,
                "the host was last verified by Keylime too long ago",
            ),
            (
                Refusal::NotVouchedFor(not_yet),
                Code::FailedPrecondition,
                "the host has not been verified by Keylime yet",
            ),
            (Refusal::EnrolledAgain, Code::FailedPrecondition, "the host has not been verified by Keylime yet"),
            (
                Refusal::Registration { detail: "no EK".to_owned() },
                Code::PermissionDenied,
                "the host's registration at Keylime is not usable",
            ),
            (timeout(Neighbour::Verifier), Code::DeadlineExceeded, "the Keylime verifier did not answer in time"),
            (timeout(Neighbour::Registrar), Code::DeadlineExceeded, "the Keylime registrar did not answer in time"),
            (broken(Neighbour::Verifier), Code::Unavailable, "the Keylime verifier is not available"),
            (broken(Neighbour::Registrar), Code::Unavailable, "the Keylime registrar is not available"),
            (Refusal::NoPayload { limit }, Code::DeadlineExceeded, "no attestation payload came in time"),
            (Refusal::NodeTooSlow { limit }, Code::DeadlineExceeded, "the node sent no TPM quote in time"),
            (Refusal::Busy { limit: 512 }, Code::ResourceExhausted, "too many attestations are under way"),
            (
                Refusal::SourceBusy { limit: 256 },
                Code::ResourceExhausted,
                "too many attestations from this address are under way",
            ),
            (Refusal::Random(NoRandom), Code::Internal, "internal error"),
            (Refusal::Panicked, Code::Internal, "internal error"),
        ];
        for (refusal, code, text) in rows {
            let status = refusal.status(AttemptId::new(0xab));
            assert_eq!((status.code(), status.message()), (code, &*format!("{text} (attempt 000000ab)")), "{refusal}");
        }
    }
    #[test]
    fn only_what_passes_by_itself_is_waited_for() {
        let not_yet = |reason| Refusal::NotVouchedFor(Verdict::NotYet { reason });
        let stale = Verdict::Stale { age: Duration::from_secs(60), limit: Duration::from_secs(10) };
        let failed = Verdict::Failed { state: OperationalState::Failed, event_id: None };
        for (refusal, waits) in [
            (not_yet(NotYetReason::State(OperationalState::Start)), true),
            (not_yet(NotYetReason::NeverAttested), true),
            (Refusal::NotVouchedFor(stale), true),
            (timeout(Neighbour::Verifier), true),
            (not_yet(NotYetReason::PushModel), false),
            (not_yet(NotYetReason::ClockAhead { ahead: Duration::from_secs(9) }), false),
            (Refusal::NotVouchedFor(failed), false),
            (Refusal::NotEnrolled, false),
            (Refusal::HashAlgorithm, false),
            (broken(Neighbour::Verifier), false),
        ] {
            assert_eq!(refusal.may_pass_by_waiting(), waits, "{refusal}");
        }
    }
}
