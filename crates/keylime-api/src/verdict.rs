// SPDX-License-Identifier: Apache-2.0
//! Whether a verifier's record says that the host passes right now

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::state::{AgentState, OperationalState};
use crate::verifier::VerifierAgent;

/// Age limit where neither an option nor the record gives one: five of Keylime's default intervals.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(10);

/// A last success this far in the answer's future is still taken as just now: a clock that is set
/// back by a few seconds. More would let the verifier's clock hide as much silence of the host.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// What the record of an agent says. Only [`Verdict::Verified`] admits a host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// In state 3 or 5, with a success, and the last one is recent.
    Verified,
    /// Nothing is wrong with the host, but nothing is proven either.
    NotYet {
        /// What is missing.
        reason: NotYetReason,
    },
    /// The last success is too old: the host is silent, or the verifier has stopped.
    Stale {
        /// Age of the last success, in whole seconds.
        age: Duration,
        /// The limit that applied.
        limit: Duration,
    },
    /// The verifier has given the host up (states 7 to 10).
    Failed {
        /// The state.
        state: OperationalState,
        /// Keylime's id of the failure, such as `pcr_validation.invalid_pcr_16`.
        event_id: Option<String>,
    },
}

/// What is missing for a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotYetReason {
    /// A state in which no quote was checked.
    State(OperationalState),
    /// The right state, and no success ever (a silent host shows this too).
    NeverAttested,
    /// The last success lies in the future of the verifier's own clock.
    ClockAhead {
        /// By how much.
        ahead: Duration,
    },
    /// The agent is in the push model, whose records carry no state.
    PushModel,
}

impl VerifierAgent {
    /// Judges the record as of the moment of the answer.
    ///
    /// Age is measured between `last_successful_attestation` and the `Date` of the same answer,
    /// both from the verifier's clock. The limit is `max_age`, else the record's
    /// `maximum_attestation_interval`, else 10 s.
    pub fn verdict(&self, max_age: Option<Duration>) -> Verdict {
        let not_yet = |reason| Verdict::NotYet { reason };
        let state = match self.state {
            AgentState::Pull(state) => state,
            AgentState::Push => return not_yet(NotYetReason::PushModel),
        };
        match state {
            OperationalState::GetQuote | OperationalState::ProvideV => {}
            OperationalState::Failed
            | OperationalState::Terminated
            | OperationalState::InvalidQuote
            | OperationalState::TenantFailed => {
                return Verdict::Failed { state, event_id: self.last_event_id.clone() };
            }
            _ => return not_yet(NotYetReason::State(state)),
        }
        if self.attestation_count == 0 || self.last_successful_attestation == 0 {
            return not_yet(NotYetReason::NeverAttested);
        }
        let last = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.last_successful_attestation));
        let age = match last.map(|last| self.answer_date.duration_since(last)) {
            Some(Ok(age)) => age,
            Some(Err(ahead)) if ahead.duration() <= CLOCK_SLACK => Duration::ZERO,
            Some(Err(ahead)) => {
                return not_yet(NotYetReason::ClockAhead { ahead: ahead.duration() });
            }
            None => return not_yet(NotYetReason::ClockAhead { ahead: Duration::MAX }),
        };
        let limit = max_age.or(self.maximum_attestation_interval).unwrap_or(DEFAULT_MAX_AGE);
        if age > limit { Verdict::Stale { age, limit } } else { Verdict::Verified }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified => f.write_str("verified"),
            Self::NotYet { reason } => write!(f, "not verified yet: {reason}"),
            Self::Stale { age, limit } => write!(
                f,
                "the last successful attestation is {} s old, the limit is {} s",
                age.as_secs(),
                limit.as_secs_f64()
            ),
            Self::Failed { state, event_id } => {
                write!(f, "the verifier has the host in state {state}")?;
                match event_id {
                    Some(id) => write!(f, ", last failure {id}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for NotYetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => write!(f, "the verifier has the host in state {state}"),
            Self::NeverAttested => f.write_str("no successful attestation so far"),
            Self::ClockAhead { ahead } => {
                write!(f, "the last successful attestation is {} s in the verifier's own future", ahead.as_secs())
            }
            Self::PushModel => f.write_str("the agent is in Keylime's push model"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OperationalState as S;
    use tpm_wire::pcr::PcrMask;

    const NOW: u64 = 1_800_000_000;

    fn record(state: OperationalState, count: u64, last: u64) -> VerifierAgent {
        VerifierAgent {
            state: AgentState::Pull(state),
            attestation_count: count,
            last_successful_attestation: last,
            maximum_attestation_interval: Some(Duration::from_secs(10)),
            hash_alg: None,
            last_event_id: None,
            has_runtime_policy: false,
            has_measured_boot_policy: false,
            expected_pcrs: PcrMask::EMPTY,
            answer_date: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
        }
    }

    #[test]
    fn one_row_per_record() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (state, count, last, max_age, text) in [
            (S::GetQuote, 1, NOW, None, "verified"),
            (S::ProvideV, 1, NOW - 10, None, "verified"),
            (S::GetQuote, 9, NOW - 11, seconds(60), "verified"),
            (S::GetQuote, 9, NOW + 5, None, "verified"),
            (S::GetQuote, 9, NOW - 11, None, "the last successful attestation is 11 s old, the limit is 10 s"),
            (S::GetQuote, 9, NOW - 3, seconds(2), "the last successful attestation is 3 s old, the limit is 2 s"),
            (
                S::GetQuote,
                9,
                NOW + 6,
                None,
                "not verified yet: the last successful attestation is 6 s in the verifier's own future",
            ),
            (S::GetQuote, 0, NOW, None, "not verified yet: no successful attestation so far"),
            (S::GetQuote, 1, 0, None, "not verified yet: no successful attestation so far"),
            (S::Registered, 1, NOW, None, "not verified yet: the verifier has the host in state 0 (Registered)"),
            (S::Start, 1, NOW, None, "not verified yet: the verifier has the host in state 1 (Start)"),
            (S::Saved, 1, NOW, None, "not verified yet: the verifier has the host in state 2 (Saved)"),
            (
                S::GetQuoteRetry,
                1,
                NOW,
                None,
                "not verified yet: the verifier has the host in state 4 (Get Quote (retry))",
            ),
            (
                S::ProvideVRetry,
                1,
                NOW,
                None,
                "not verified yet: the verifier has the host in state 6 (Provide V (retry))",
            ),
            (S::Unknown(11), 1, NOW, None, "not verified yet: the verifier has the host in state 11 (unknown)"),
            (S::Failed, 1, NOW, None, "the verifier has the host in state 7 (Failed)"),
            (S::Terminated, 1, NOW, None, "the verifier has the host in state 8 (Terminated)"),
            (S::InvalidQuote, 1, NOW, None, "the verifier has the host in state 9 (Invalid Quote)"),
            (S::TenantFailed, 1, NOW, None, "the verifier has the host in state 10 (Tenant Quote Failed)"),
        ] {
            assert_eq!(record(state, count, last).verdict(max_age).to_string(), text);
        }
    }

    #[test]
    fn the_record_gives_the_limit_and_the_default_is_strict() {
        let mut agent = record(S::GetQuote, 1, NOW - 30);
        agent.maximum_attestation_interval = Some(Duration::from_secs(30));
        assert_eq!(agent.verdict(None), Verdict::Verified);
        agent.maximum_attestation_interval = None;
        let (age, limit) = (Duration::from_secs(30), DEFAULT_MAX_AGE);
        assert_eq!(agent.verdict(None), Verdict::Stale { age, limit });
    }

    #[test]
    fn failures_carry_keylimes_event() {
        let mut agent = record(S::InvalidQuote, 1, NOW);
        agent.last_event_id = Some("pcr_validation.invalid_pcr_16".into());
        assert_eq!(
            agent.verdict(None).to_string(),
            "the verifier has the host in state 9 (Invalid Quote), last failure pcr_validation.invalid_pcr_16"
        );
    }

    #[test]
    fn push_records_and_impossible_times_admit_nobody() {
        let mut agent = record(S::GetQuote, 1, NOW);
        agent.state = AgentState::Push;
        assert_eq!(agent.verdict(None).to_string(), "not verified yet: the agent is in Keylime's push model");
        for last in [u64::MAX, u64::MAX / 2, i64::MAX as u64] {
            assert!(matches!(
                record(S::GetQuote, 1, last).verdict(None),
                Verdict::NotYet { reason: NotYetReason::ClockAhead { .. } }
            ));
        }
    }
}
