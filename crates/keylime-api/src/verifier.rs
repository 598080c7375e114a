// SPDX-License-Identifier: Apache-2.0
//! Client of the Keylime verifier

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tls::rustls::ClientConfig;
use tpm_wire::hash::HashAlgorithm;

use crate::client::{ClientError, HttpSettings};
use crate::host_port::HostPort;
use crate::http::{Http, Target, Transport};
use crate::id::AgentId;
use crate::members::{BodyError, Members, clean};
use crate::negotiator::Negotiator;
use crate::state::{AgentState, OperationalState};
use crate::version::{ApiVersion, SUPPORTED};

/// A longer interval between two quotes is not taken from the verifier: it would be no check.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// What counts of a verifier's record of an agent, with the time of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifierAgent {
    /// Where the agent stands.
    pub state: AgentState,
    /// Quotes accepted so far; 0 if the record has none. Restarts at re-enrolment.
    pub attestation_count: u64,
    /// When a quote was last accepted, in UNIX seconds of the verifier's clock; 0 for never.
    pub last_successful_attestation: u64,
    /// What the verifier itself takes for the longest time between two quotes, at most a day; none
    /// if the record has nothing that could be that.
    pub maximum_attestation_interval: Option<Duration>,
    /// Hash algorithm of the last quote; none before the first.
    pub hash_alg: Option<HashAlgorithm>,
    /// Keylime's id of the last failure.
    pub last_event_id: Option<String>,
    /// `Date` header of the answer: the verifier's clock when it was made, in whole seconds.
    pub answer_date: SystemTime,
}

/// Client of one verifier; share it, it keeps its connections.
#[derive(Debug)]
pub struct VerifierClient {
    http: Http,
    versions: Negotiator,
}

impl VerifierClient {
    /// A client for the verifier at `base`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Setup`] only.
    pub fn new(base: HostPort, tls: Arc<ClientConfig>, settings: HttpSettings) -> Result<Self, ClientError> {
        let transport = Transport::Tls(&base, tls);
        Ok(Self {
            http: Http::new("the Keylime verifier", transport, settings)?,
            versions: Negotiator::new(SUPPORTED.to_vec()),
        })
    }

    /// The service and its address, as in messages: `the Keylime verifier at https://host:port`.
    #[must_use]
    pub fn peer(&self) -> &str {
        self.http.peer()
    }

    /// Connects and negotiates the API version ahead of the first call.
    ///
    /// # Errors
    /// The verifier cannot be reached or has no version in common; later calls try again.
    pub async fn warm_up(&self) -> Result<ApiVersion, ClientError> {
        self.http.within(|| "GET /version".to_owned(), self.versions.version(&self.http)).await
    }

    /// `GET /v2.N/agents/{id}`: the record of an agent.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] if the agent is not enrolled; [`ClientError::NoDate`] or
    /// [`ClientError::Cached`] if the answer does not say when it was made.
    pub async fn agent(&self, id: &AgentId) -> Result<VerifierAgent, ClientError> {
        let call = || format!("GET /agents/{id}");
        let path = |version: ApiVersion| Target::from(format!("/v{version}/agents/{id}"));
        let answer = self.http.within(call, self.versions.get(&self.http, path)).await?;
        let peer = || self.http.peer().to_owned();
        if answer.cached {
            return Err(ClientError::Cached { peer: peer(), call: call() });
        }
        let date = answer.date.ok_or_else(|| ClientError::NoDate { peer: peer(), call: call() })?;
        self.http.decode(call, &answer, |members| read(members, date))
    }
}

fn read(m: &Members, answer_date: SystemTime) -> Result<VerifierAgent, BodyError> {
    let state = match m.integer("operational_state")? {
        _ if m.is_null("ip") && m.is_null("port") => AgentState::Push,
        Some(number) => AgentState::Pull(OperationalState::from(number)),
        None if m.is_null("operational_state") => AgentState::Push,
        None => return Err(BodyError::Missing { member: "operational_state" }),
    };
    Ok(VerifierAgent {
        state,
        attestation_count: m.unsigned("attestation_count")?.unwrap_or(0),
        last_successful_attestation: m.unsigned("last_successful_attestation")?.unwrap_or(0),
        maximum_attestation_interval: m.any_text("maximum_attestation_interval").and_then(interval),
        hash_alg: m.parsed("hash_alg")?,
        last_event_id: m.any_text("last_event_id").map(|text| clean(text, 200)),
        answer_date,
    })
}

/// Text such as `10s` or `2.5s`. Zero and anything else is left to the caller's default, which is
/// the strictest that works.
fn interval(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    // The parser of numbers takes signs, exponents and words too.
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds: f64 = number.parse().ok().filter(|_| plain)?;
    let interval = Duration::from_secs_f64(seconds.min(LONGEST_INTERVAL.as_secs_f64()));
    (!interval.is_zero()).then_some(interval)
}

#[cfg(test)]
mod tests;
