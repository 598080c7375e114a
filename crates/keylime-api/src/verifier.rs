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
use crate::state::{AgentState, AttestationStatus, OperationalState};
use crate::version::{ApiVersion, SUPPORTED};

/// A verifier's record of an agent, with the time of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifierAgent {
    /// Where the agent stands.
    pub state: AgentState,
    /// The verifier's summary, from API 2.5 on.
    pub attestation_status: Option<AttestationStatus>,
    /// Quotes accepted so far; 0 if the record has none. Restarts at re-enrolment.
    pub attestation_count: u64,
    /// When a quote last came, in UNIX seconds of the verifier's clock; 0 for never.
    pub last_received_quote: u64,
    /// When a quote was last accepted, in UNIX seconds of the verifier's clock; 0 for never.
    pub last_successful_attestation: u64,
    /// What the verifier itself takes for the longest time between two quotes.
    pub maximum_attestation_interval: Option<Duration>,
    /// Hash algorithm of the last quote; none before the first.
    pub hash_alg: Option<HashAlgorithm>,
    /// Where the verifier asks the agent: host.
    pub ip: Option<String>,
    /// Where the verifier asks the agent: port.
    pub port: Option<u16>,
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

    /// Connects and negotiates the API version ahead of the first call.
    ///
    /// # Errors
    /// The verifier cannot be reached or has no version in common; later calls try again.
    pub async fn warm_up(&self) -> Result<ApiVersion, ClientError> {
        self.versions.version(&self.http).await
    }

    /// `GET /v2.N/agents/{id}`: the record of an agent.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] if the agent is not enrolled; [`ClientError::NoDate`] if the
    /// answer does not say when it was made.
    pub async fn agent(&self, id: &AgentId) -> Result<VerifierAgent, ClientError> {
        let path = |version: ApiVersion| Target::from(format!("/v{version}/agents/{id}"));
        let answer = self.versions.get(&self.http, path).await?;
        let call = || format!("GET /agents/{id}");
        let date =
            answer.date.ok_or_else(|| ClientError::NoDate { peer: self.http.peer().to_owned(), call: call() })?;
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
        attestation_status: m.text("attestation_status")?.map(AttestationStatus::from),
        attestation_count: m.unsigned("attestation_count")?.unwrap_or(0),
        last_received_quote: m.unsigned("last_received_quote")?.unwrap_or(0),
        last_successful_attestation: m.unsigned("last_successful_attestation")?.unwrap_or(0),
        maximum_attestation_interval: m.text("maximum_attestation_interval")?.and_then(interval),
        hash_alg: m.parsed("hash_alg")?,
        ip: m.text("ip")?.map(|text| clean(text, 255)),
        port: m.port("port")?,
        last_event_id: m.text("last_event_id")?.map(|text| clean(text, 200)),
        answer_date,
    })
}

/// Text such as `10s`. Anything else is left to the caller's default, which is the strictest.
fn interval(text: &str) -> Option<Duration> {
    let seconds = text.strip_suffix('s')?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
