// SPDX-License-Identifier: Apache-2.0
//! Client of the Keylime registrar's administrative side

use std::sync::Arc;
use std::time::Duration;

use tls::rustls::ClientConfig;
use tokio::time::Instant;

use crate::client::{ClientError, HttpSettings};
use crate::host_port::HostPort;
use crate::http::{Http, Target, Transport};
use crate::id::AgentId;
use crate::members::{BodyError, Members};
use crate::negotiator::Negotiator;
use crate::version::{ApiVersion, SUPPORTED};

/// What counts of the registrar's record of an activated agent: EK and AK were proven to sit in one
/// TPM. The EK's certificate was not checked by the registrar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrarAgent {
    /// The AK as TPM2B_PUBLIC.
    pub aik_tpm: Vec<u8>,
    /// The EK as TPM2B_PUBLIC; absent where the agent is identified by IDevID alone.
    pub ek_tpm: Option<Vec<u8>>,
    /// The EK certificate in DER, as the TPM or its host supplied it; none where there is none, or the
    /// registrar says `emulator`.
    pub ek_certificate: Option<Vec<u8>>,
}

/// Client of one registrar; share it, it keeps its connections. It needs an administrator's
/// client certificate.
#[derive(Debug)]
pub struct RegistrarClient {
    http: Http,
    versions: Negotiator,
}

impl RegistrarClient {
    /// A client for the TLS port of the registrar at `base`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Setup`] only.
    pub fn new(base: HostPort, tls: Arc<ClientConfig>, settings: HttpSettings) -> Result<Self, ClientError> {
        let transport = Transport::Tls(&base, tls);
        Ok(Self {
            http: Http::new("the Keylime registrar", transport, settings)?,
            versions: Negotiator::new(SUPPORTED.to_vec()),
        })
    }

    /// The service and its address, as in messages: `the Keylime registrar at https://host:port`.
    #[must_use]
    pub fn peer(&self) -> &str {
        self.http.peer()
    }

    /// Connects and negotiates the API version ahead of the first call.
    ///
    /// # Errors
    /// The registrar cannot be reached or has no version in common; later calls try again.
    pub async fn warm_up(&self) -> Result<ApiVersion, ClientError> {
        self.http.within(|| "GET /version".to_owned(), self.versions.version(&self.http)).await
    }

    /// `GET /v2.N/agents/{id}`: the record of an agent.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] if the agent is unknown or not activated. An agent that registers
    /// again is not activated for a moment, so a caller should not take the first 404 for final.
    /// [`ClientError::is_other_agent`] if the record is not of exactly this id.
    pub async fn agent(&self, id: &AgentId) -> Result<RegistrarAgent, ClientError> {
        self.agent_before(Instant::now() + self.limit(), id).await
    }

    /// The same where the limit ends at `end`, or as ever if that is sooner.
    pub(crate) async fn agent_before(&self, end: Instant, id: &AgentId) -> Result<RegistrarAgent, ClientError> {
        let call = || format!("GET /agents/{id}");
        let path = |version: ApiVersion| Target::from(format!("/v{version}/agents/{id}"));
        let answer = self.http.before(end, call, self.versions.get(&self.http, path)).await?;
        self.http.decode(call, &answer, |members| read(members, id))
    }

    /// The longest time for a whole call.
    pub(crate) fn limit(&self) -> Duration {
        self.http.limit()
    }
}

fn read(m: &Members, id: &AgentId) -> Result<RegistrarAgent, BodyError> {
    if m.text("agent_id")?.is_some_and(|found| found != id.as_str()) {
        return Err(BodyError::OtherAgent);
    }
    if m.has("operational_state") && !m.has("aik_tpm") {
        return Err(BodyError::OtherService { service: "verifier" });
    }
    Ok(RegistrarAgent {
        aik_tpm: m.bytes("aik_tpm")?.ok_or(BodyError::Missing { member: "aik_tpm" })?,
        ek_tpm: m.bytes("ek_tpm")?,
        // The word is what agents on software TPMs used to send.
        ek_certificate: if m.any_text("ekcert") == Some("emulator") { None } else { m.bytes("ekcert")? },
    })
}

#[cfg(test)]
mod tests;
