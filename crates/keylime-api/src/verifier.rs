// SPDX-License-Identifier: Apache-2.0
//! Client of the Keylime verifier

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use tls::rustls::ClientConfig;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::pcr::{NODE_KEY_PCR, PcrMask};
use tpm_wire::quote::QuoteString;

use crate::client::{ClientError, HttpSettings};
use crate::host_port::HostPort;
use crate::http::{Http, Target, Transport};
use crate::id::AgentId;
use crate::members::{BodyError, Members, clean, unusable, without_long_words};
use crate::negotiator::Negotiator;
use crate::state::{AgentState, OperationalState};
use crate::version::{ApiVersion, SUPPORTED, list};

/// A longer interval between two quotes is not taken from the verifier: it would be no check.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// A longer `tpm_policy` is not read. Keylime's has some values for each of 24 PCRs.
const MAX_TPM_POLICY_LEN: usize = 64 << 10;

/// The PCR that IMA extends.
const IMA_PCR: u8 = 10;

/// `GET /verify/identity` came with this version.
const VERIFY_IDENTITY_SINCE: ApiVersion = ApiVersion::new(2, 2);

/// What counts of a verifier's record of an agent, with the time of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Whether a runtime policy is set, against which the verifier checks the list of IMA measurements.
    pub has_runtime_policy: bool,
    /// Whether a measured-boot policy is set, against which the verifier checks the boot log. Set does not
    /// mean strict: an empty policy counts too.
    pub has_measured_boot_policy: bool,
    /// The PCRs that the verifier compares with expected values; empty if its policy cannot be read. Without
    /// PCR 10 and 16: Keylime replays the IMA list to the one and the node key to the other, and
    /// compares neither with the policy, whatever that says.
    pub expected_pcrs: PcrMask,
    /// `Date` header of the answer: the verifier's clock when it was made, in whole seconds.
    pub answer_date: SystemTime,
}

/// What the verifier says of a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityCheck {
    /// It holds the quote to be good. Keylime up to 7.14 says so of any quote with a bad signature too, so
    /// this is worth something only beside a check of the signature.
    Valid,
    /// It does not.
    Invalid {
        /// Why, in the verifier's words: cleaned, bounded, without nonce or quote.
        reason: String,
    },
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

    /// `GET /v2.N/verify/identity`, from API 2.2 on: whether the verifier finds the quote to be by the AK that
    /// it has on record for the agent, over this nonce, and in agreement with its PCR values. It looks at
    /// no policy and no state.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] if the agent is not enrolled; [`ClientError::NoCommonVersion`] if the
    /// verifier is older than API 2.2. No error has the nonce or the quote in it.
    pub async fn verify_identity(
        &self,
        id: &AgentId,
        hash_alg: HashAlgorithm,
        nonce: &Nonce,
        quote: &QuoteString,
    ) -> Result<IdentityCheck, ClientError> {
        let call = || "GET /verify/identity".to_owned();
        let query = format!(
            "agent_uuid={id}&hash_alg={hash_alg}&nonce={}&quote={}",
            nonce.as_str(),
            percent_encoded(&quote.to_string())
        );
        let target = |version: ApiVersion| Target {
            path: format!("/v{version}/verify/identity"),
            query: Some(query.clone()),
            max_body: None,
        };
        let ask = async {
            let version = self.versions.version(&self.http).await?;
            if version < VERIFY_IDENTITY_SINCE {
                let ours: Vec<_> = SUPPORTED.into_iter().filter(|ours| *ours >= VERIFY_IDENTITY_SINCE).collect();
                let (peer, theirs) = (self.http.peer().to_owned(), version.to_string());
                return Err(ClientError::NoCommonVersion { peer, theirs, ours: list(&ours) });
            }
            self.versions.get(&self.http, target).await
        };
        let answer = self.http.within(call, ask).await.map_err(ClientError::without_parameters)?;
        self.http.decode(call, &answer, read_check)
    }
}

fn read_check(m: &Members) -> Result<IdentityCheck, BodyError> {
    match m.integer("valid")?.ok_or(BodyError::Missing { member: "valid" })? {
        1 => Ok(IdentityCheck::Valid),
        0 => {
            let reason = clean(m.any_text("reason").unwrap_or_default(), 1000);
            Ok(IdentityCheck::Invalid { reason: clean(&without_long_words(&reason), 200) })
        }
        other => Err(unusable("valid", format_args!("it is {other}, not 0 or 1"))),
    }
}

/// What of a quote string has a meaning of its own in a query.
fn percent_encoded(quote: &str) -> String {
    quote.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace(':', "%3A")
}

fn read(m: &Members, answer_date: SystemTime) -> Result<VerifierAgent, BodyError> {
    if m.has("aik_tpm") && !m.has("operational_state") {
        return Err(BodyError::OtherService { service: "registrar" });
    }
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
        has_runtime_policy: m.flag("has_runtime_policy"),
        has_measured_boot_policy: m.flag("has_mb_refstate"),
        expected_pcrs: m.any_text("tpm_policy").map_or(PcrMask::EMPTY, expected_pcrs),
        answer_date,
    })
}

/// The PCRs of a `tpm_policy` with at least one expected value that is looked at. It is JSON text: an object
/// of lists by PCR number, and `mask`. Source: Keylime 7.14 `tpm/tpm_main.py`, `check_pcrs`, which takes the PCRs of
/// IMA and of the node key for checked before it comes to the policy.
fn expected_pcrs(policy: &str) -> PcrMask {
    if policy.len() > MAX_TPM_POLICY_LEN {
        return PcrMask::EMPTY;
    }
    let members: Map<String, Value> = serde_json::from_str(policy).unwrap_or_default();
    let expected = members.iter().filter(|(_, values)| values.as_array().is_some_and(|values| !values.is_empty()));
    let pcrs = expected.filter_map(|(pcr, _)| pcr.parse().ok());
    pcrs.filter(|pcr| !matches!(*pcr, IMA_PCR | NODE_KEY_PCR)).fold(PcrMask::EMPTY, PcrMask::with)
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
