// SPDX-License-Identifier: Apache-2.0
//! Client of the Keylime registrar's administrative side

use std::sync::Arc;

use tls::rustls::ClientConfig;

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
    pub async fn agent(&self, id: &AgentId) -> Result<RegistrarAgent, ClientError> {
        let call = || format!("GET /agents/{id}");
        let path = |version: ApiVersion| Target::from(format!("/v{version}/agents/{id}"));
        let answer = self.http.within(call, self.versions.get(&self.http, path)).await?;
        self.http.decode(call, &answer, read)
    }
}

fn read(m: &Members) -> Result<RegistrarAgent, BodyError> {
    Ok(RegistrarAgent {
        aik_tpm: m.bytes("aik_tpm")?.ok_or(BodyError::Missing { member: "aik_tpm" })?,
        ek_tpm: m.bytes("ek_tpm")?,
        // The word is what agents on software TPMs used to send.
        ek_certificate: if m.any_text("ekcert") == Some("emulator") { None } else { m.bytes("ekcert")? },
    })
}

#[cfg(test)]
mod tests;
