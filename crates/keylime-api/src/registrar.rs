// SPDX-License-Identifier: Apache-2.0
//! Client of the Keylime registrar's administrative side

use std::sync::Arc;

use tls::rustls::ClientConfig;

use crate::client::{ClientError, HttpSettings};
use crate::host_port::HostPort;
use crate::http::{Http, Target, Transport};
use crate::id::AgentId;
use crate::members::{BodyError, Members, clean};
use crate::negotiator::Negotiator;
use crate::version::{ApiVersion, SUPPORTED};

/// The registrar's record of an activated agent: EK and AK were proven to sit in one TPM. The
/// EK's certificate was not checked by the registrar.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistrarAgent {
    /// The AK as TPM2B_PUBLIC.
    pub aik_tpm: Vec<u8>,
    /// The EK as TPM2B_PUBLIC; absent where the agent is identified by IDevID alone.
    pub ek_tpm: Option<Vec<u8>>,
    /// The EK certificate in DER.
    pub ekcert: Option<Vec<u8>>,
    /// The certificate of the agent's own server in PEM, or the word `disabled`.
    pub mtls_cert: Option<String>,
    /// Contact address the agent gave.
    pub ip: Option<String>,
    /// Contact port the agent gave.
    pub port: Option<u16>,
    /// Accepted registrations under this id.
    pub regcount: Option<u64>,
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

    /// Connects and negotiates the API version ahead of the first call.
    ///
    /// # Errors
    /// The registrar cannot be reached or has no version in common; later calls try again.
    pub async fn warm_up(&self) -> Result<ApiVersion, ClientError> {
        self.versions.version(&self.http).await
    }

    /// `GET /v2.N/agents/{id}`: the record of an agent.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] if the agent is unknown or not activated. An agent that registers
    /// again is not activated for a moment, so a caller should not take the first 404 for final.
    pub async fn agent(&self, id: &AgentId) -> Result<RegistrarAgent, ClientError> {
        let path = |version: ApiVersion| Target::from(format!("/v{version}/agents/{id}"));
        let answer = self.versions.get(&self.http, path).await?;
        self.http.decode(|| format!("GET /agents/{id}"), &answer, read)
    }
}

fn read(m: &Members) -> Result<RegistrarAgent, BodyError> {
    Ok(RegistrarAgent {
        aik_tpm: m.bytes("aik_tpm")?.ok_or(BodyError::Missing { member: "aik_tpm" })?,
        ek_tpm: m.bytes("ek_tpm")?,
        ekcert: m.bytes("ekcert")?,
        mtls_cert: m.text("mtls_cert")?.map(str::to_owned),
        ip: m.text("ip")?.map(|text| clean(text, 255)),
        port: m.port("port")?,
        regcount: m.unsigned("regcount")?,
    })
}

#[cfg(test)]
mod tests;
