// SPDX-License-Identifier: Apache-2.0
//! What all clients share: limits and errors

use std::sync::Arc;
use std::time::Duration;

use crate::members::{BodyError, without_long_words};

/// Limits of every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpSettings {
    /// Longest time for name lookup, TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// Longest time for a whole call of a client: waiting for its turn, negotiating the API
    /// version, connecting, asking once more and the body, all together.
    pub total_timeout: Duration,
    /// Largest body accepted, in bytes.
    pub max_body: usize,
}

/// Why a call to a Keylime service failed. `peer` names the service and its address, `call` the
/// method and path without the query. Clones share the HTTP library's error: several calls can fail
/// on one answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection: refused, unreachable, or no such host.
    #[error("cannot connect to {peer}: {detail}")]
    Connect {
        /// The service.
        peer: String,
        /// The system's reason.
        detail: String,
        /// The HTTP library's error.
        source: Arc<reqwest::Error>,
    },
    /// No connection in time.
    #[error(
        "cannot connect to {peer} within {} s, TLS included: does that port speak TLS at all?",
        limit.as_secs_f64()
    )]
    ConnectTimeout {
        /// The service.
        peer: String,
        /// The limit that was reached.
        limit: Duration,
    },
    /// No complete answer in time.
    #[error("{peer} did not answer {call} within {} s", limit.as_secs_f64())]
    Timeout {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// The limit that was reached.
        limit: Duration,
    },
    /// The call did not get its turn in time: too many calls of this side were under way, or the other members of
    /// a pool took all the time. Nothing is known about the service.
    #[error("{call} did not get its turn at {peer} within {} s", limit.as_secs_f64())]
    Busy {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// The limit that was reached.
        limit: Duration,
    },
    /// TLS failed, on either side's account.
    #[error("no TLS connection to {peer}: {explanation}")]
    Tls {
        /// The service.
        peer: String,
        /// What is wrong and on which side.
        explanation: String,
        /// The HTTP library's error.
        source: Arc<reqwest::Error>,
    },
    /// The connection ended in mid-answer, or what came is not HTTP.
    #[error("the connection to {peer} broke during {call}: {detail}")]
    Interrupted {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// The system's reason.
        detail: String,
        /// The HTTP library's error.
        source: Arc<reqwest::Error>,
    },
    /// 404 in Keylime's own words: the service does not know what was asked for. A 404 of anything
    /// else (a proxy, another service) is [`ClientError::Status`].
    #[error("{peer} does not know what {call} asks for: {text}")]
    NotFound {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// Status text of the answer, cleaned and bounded.
        text: String,
    },
    /// 403: the service refuses. After a registration this is final, see
    /// [`crate::registration::RegistrationClient::register`].
    #[error("{peer} forbids {call}: {text}")]
    Forbidden {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// Status text of the answer, cleaned and bounded.
        text: String,
    },
    /// Any other status than 200.
    #[error("{peer} answered {call} with {code}: {text}")]
    Status {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// HTTP status.
        code: u16,
        /// Status text of the answer, cleaned and bounded.
        text: String,
        /// How long the service asks to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// A redirect, which is never followed.
    #[error("{peer} answered {call} with a redirect ({code}), which is not followed: check host and port")]
    Redirect {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// HTTP status.
        code: u16,
    },
    /// The body is larger than the limit.
    #[error("{peer} answered {call} with more than {limit} bytes")]
    TooLarge {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// The limit.
        limit: usize,
    },
    /// The body is not what the API describes.
    #[error("{peer} answered {call} with an unusable body: {source}")]
    Body {
        /// The service.
        peer: String,
        /// The call.
        call: String,
        /// What is wrong with it.
        source: BodyError,
    },
    /// No `Date` header where times are measured against it.
    #[error("{peer} answered {call} without a usable Date header, so the age of its record cannot be told")]
    NoDate {
        /// The service.
        peer: String,
        /// The call.
        call: String,
    },
    /// An answer of a cache (it has an `Age` header), whose `Date` is as old as the record in it.
    #[error("{peer} answered {call} from a cache (Age header), so the age of its record cannot be told")]
    Cached {
        /// The service.
        peer: String,
        /// The call.
        call: String,
    },
    /// No API version in common.
    #[error("no API version in common with {peer}: it speaks {theirs}, this side {ours}")]
    NoCommonVersion {
        /// The service.
        peer: String,
        /// Versions it offers.
        theirs: String,
        /// Versions enabled here.
        ours: String,
    },
    /// A verifier in the push model, which has no version list.
    #[error("{peer} runs Keylime's push model (410 to GET /version), and the pull model is needed")]
    PushModel {
        /// The service.
        peer: String,
    },
    /// Our own settings cannot be used.
    #[error("the HTTP client cannot be set up")]
    Setup {
        /// The HTTP library's error.
        source: Arc<reqwest::Error>,
    },
}

impl ClientError {
    /// Worth trying again later without a change on either side: no connection, time-outs, no turn in
    /// time, and the statuses 408, 429 and 5xx. TLS failures are not: files or clocks have to be put right.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::Interrupted { .. } => true,
            Self::Status { code, .. } => matches!(code, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    /// No connection, no answer or no turn in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::ConnectTimeout { .. } | Self::Timeout { .. } | Self::Busy { .. })
    }

    /// The answer is the record of another agent than the one asked for. Trying again does not help:
    /// an administrator has to delete one of the two records.
    pub fn is_other_agent(&self) -> bool {
        matches!(self, Self::Body { source: BodyError::OtherAgent, .. })
    }

    /// The service, as Keylime, says that it does not know what was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The registrar knows the agent, and waits for it to prove that its keys sit in one TPM: so it is for a moment
    /// whenever an agent registers again, or anybody does so in its name.
    pub(crate) fn is_not_activated(&self) -> bool {
        matches!(self, Self::NotFound { text, .. } if text.ends_with("has not been activated"))
    }

    /// The same without what a query may hold that is nobody's business: a service that refuses a call
    /// may repeat its parameters.
    pub(crate) fn without_parameters(self) -> Self {
        match self {
            Self::NotFound { peer, call, text } => Self::NotFound { peer, call, text: without_long_words(&text) },
            Self::Forbidden { peer, call, text } => Self::Forbidden { peer, call, text: without_long_words(&text) },
            Self::Status { peer, call, code, text, retry_after } => {
                Self::Status { peer, call, code, text: without_long_words(&text), retry_after }
            }
            other => other,
        }
    }

    /// How long the service asks to wait before the next try, if it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The answer says that the version in the path is unknown. The agent and older servers say so
    /// in a 400; newer servers have no such route and answer a bare `Not Found`.
    pub(crate) fn is_about_version(&self) -> bool {
        match self {
            Self::Status { code: 400, text, .. } => text.to_ascii_lowercase().contains("api version not supported"),
            Self::NotFound { text, .. } | Self::Status { code: 404, text, .. } => text == "Not Found",
            _ => false,
        }
    }
}
