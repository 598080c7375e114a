// SPDX-License-Identifier: Apache-2.0
//! States of an agent at the verifier

use std::fmt;

/// Operational state of a pull-model agent, as the verifier stores it (0 to 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationalState {
    /// 0
    Registered,
    /// 1: enrolled, not asked for a quote yet.
    Start,
    /// 2
    Saved,
    /// 3: being asked for quotes. Says nothing about whether one ever came.
    GetQuote,
    /// 4: never stored by Keylime 7.14.
    GetQuoteRetry,
    /// 5: the interval after the first good quote.
    ProvideV,
    /// 6: never stored by Keylime 7.14.
    ProvideVRetry,
    /// 7: given up on; no answer or a failed check.
    Failed,
    /// 8: being deleted.
    Terminated,
    /// 9: a quote or what came with it was wrong.
    InvalidQuote,
    /// 10: the tenant's check failed, or an operator stopped the polling.
    TenantFailed,
    /// A number that Keylime 7.14 does not have.
    Unknown(i64),
}

impl From<i64> for OperationalState {
    fn from(number: i64) -> Self {
        match number {
            0 => Self::Registered,
            1 => Self::Start,
            2 => Self::Saved,
            3 => Self::GetQuote,
            4 => Self::GetQuoteRetry,
            5 => Self::ProvideV,
            6 => Self::ProvideVRetry,
            7 => Self::Failed,
            8 => Self::Terminated,
            9 => Self::InvalidQuote,
            10 => Self::TenantFailed,
            other => Self::Unknown(other),
        }
    }
}

impl OperationalState {
    /// The number on the wire.
    pub fn number(self) -> i64 {
        match self {
            Self::Registered => 0,
            Self::Start => 1,
            Self::Saved => 2,
            Self::GetQuote => 3,
            Self::GetQuoteRetry => 4,
            Self::ProvideV => 5,
            Self::ProvideVRetry => 6,
            Self::Failed => 7,
            Self::Terminated => 8,
            Self::InvalidQuote => 9,
            Self::TenantFailed => 10,
            Self::Unknown(number) => number,
        }
    }

    /// Keylime's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registered => "Registered",
            Self::Start => "Start",
            Self::Saved => "Saved",
            Self::GetQuote => "Get Quote",
            Self::GetQuoteRetry => "Get Quote (retry)",
            Self::ProvideV => "Provide V",
            Self::ProvideVRetry => "Provide V (retry)",
            Self::Failed => "Failed",
            Self::Terminated => "Terminated",
            Self::InvalidQuote => "Invalid Quote",
            Self::TenantFailed => "Tenant Quote Failed",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for OperationalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.name())
    }
}

/// Where a verifier's record of an agent gets its state from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentState {
    /// The verifier asks the agent; the state means something.
    Pull(OperationalState),
    /// The agent sends by itself; its record has no operational state, or one without meaning.
    Push,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back() {
        for number in -1..=12 {
            assert_eq!(OperationalState::from(number).number(), number);
        }
        assert_eq!(OperationalState::from(3).to_string(), "3 (Get Quote)");
        assert_eq!(OperationalState::from(11).to_string(), "11 (unknown)");
    }
}
