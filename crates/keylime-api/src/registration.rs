// SPDX-License-Identifier: Apache-2.0
//! Client for an agent that registers itself

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::{Serialize, Serializer};
use tls::rustls::ClientConfig;

use crate::client::{ClientError, HttpSettings};
use crate::credential::CredentialBlob;
use crate::host_port::HostPort;
use crate::http::{Http, Target, Transport};
use crate::id::AgentId;
use crate::members::{BodyError, Members, unusable};
use crate::negotiator::Negotiator;
use crate::version::ApiVersion;

/// What an agent registers with: body of `POST /v2.N/agents/{id}`; how the AK is bound to the device
/// identity depends on the version. Members without a value are
/// left out: the registrar takes an empty `ekcert` for a changed identity, a missing one not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// The AK as TPM2B_PUBLIC.
    #[serde(serialize_with = "base64_text")]
    pub aik_tpm: Vec<u8>,
    /// The EK as TPM2B_PUBLIC.
    #[serde(serialize_with = "base64_text")]
    pub ek_tpm: Vec<u8>,
    /// PEM text: the EK certificate, then its chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ekcert: Option<String>,
    /// Contact address: what the verifier connects to.
    pub ip: String,
    /// Contact port.
    pub port: u16,
    /// How the agent's own server is protected.
    pub mtls_cert: MtlsCert,
    /// IAK and IDevID, if the host has them.
    #[serde(skip)]
    pub device_identity: Option<DeviceIdentity>,
}

/// The keys of IEEE 802.1AR and what binds the AK to them. Keylime's registrar (7.14) takes them only
/// together and with both certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// The IAK as TPM2B_PUBLIC.
    pub iak_tpm: Vec<u8>,
    /// The IDevID as TPM2B_PUBLIC.
    pub idevid_tpm: Vec<u8>,
    /// The IAK's certificate, DER.
    pub iak_cert: Option<Vec<u8>>,
    /// The IDevID's certificate, DER.
    pub idevid_cert: Option<Vec<u8>>,
    /// The AK certified by the IAK with the SHA-256 digest of the agent id as qualifying data, as API
    /// 2.6 has it.
    pub by_id_digest: Certification,
    /// The same with the agent id itself, for older registrars. None if it is longer than the TPM
    /// takes; they are sent the other one then.
    pub by_id: Option<Certification>,
}

/// A TPM2_Certify of the AK by the IAK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certification {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

impl DeviceIdentity {
    fn members(&self, version: ApiVersion) -> DeviceIdentityMembers<'_> {
        let certification = match &self.by_id {
            Some(by_id) if version < DIGEST_SINCE => by_id,
            _ => &self.by_id_digest,
        };
        DeviceIdentityMembers {
            iak_tpm: &self.iak_tpm,
            idevid_tpm: &self.idevid_tpm,
            iak_cert: self.iak_cert.as_deref(),
            idevid_cert: self.idevid_cert.as_deref(),
            iak_attest: &certification.attest,
            iak_sign: &certification.signature,
        }
    }
}

/// The first version with the digest of the agent id as qualifying data.
const DIGEST_SINCE: ApiVersion = ApiVersion::new(2, 6);

/// The whole body, as this version has it.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    registration: &'a Registration,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    device_identity: Option<DeviceIdentityMembers<'a>>,
}

#[derive(Serialize)]
struct DeviceIdentityMembers<'a> {
    #[serde(serialize_with = "base64_text")]
    iak_tpm: &'a [u8],
    #[serde(serialize_with = "base64_text")]
    idevid_tpm: &'a [u8],
    #[serde(serialize_with = "optional_base64_text", skip_serializing_if = "Option::is_none")]
    iak_cert: Option<&'a [u8]>,
    #[serde(serialize_with = "optional_base64_text", skip_serializing_if = "Option::is_none")]
    idevid_cert: Option<&'a [u8]>,
    #[serde(serialize_with = "base64_text")]
    iak_attest: &'a [u8],
    #[serde(serialize_with = "base64_text")]
    iak_sign: &'a [u8],
}

/// The certificate of the agent's own server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MtlsCert {
    /// PEM text of one certificate, at most 2048 characters for Keylime on a real SQL server.
    Pem(String),
    /// The agent's server speaks plain HTTP.
    Disabled,
}

impl Serialize for MtlsCert {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Pem(text) => text,
            // Null would be taken for an agent older than mTLS.
            Self::Disabled => "disabled",
        })
    }
}

fn base64_text<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn optional_base64_text<S: Serializer>(bytes: &Option<&[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    base64_text(bytes.unwrap_or_default(), serializer)
}

#[derive(Serialize)]
struct Activation<'a> {
    auth_tag: &'a str,
}

/// Client of one registrar, for the calls that need no client certificate.
#[derive(Debug)]
pub struct RegistrationClient {
    http: Http,
    versions: Negotiator,
}

impl RegistrationClient {
    /// A client for the registrar at `base`: over TLS, or over plain HTTP without `tls`. It uses
    /// only the versions in `enabled`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Setup`] only.
    pub fn new(
        base: HostPort,
        tls: Option<Arc<ClientConfig>>,
        settings: HttpSettings,
        enabled: &[ApiVersion],
    ) -> Result<Self, ClientError> {
        let transport = match tls {
            Some(tls) => Transport::Tls(&base, tls),
            None => Transport::Plain(&base),
        };
        Ok(Self {
            http: Http::new("the Keylime registrar", transport, settings)?,
            versions: Negotiator::new(enabled.to_vec()),
        })
    }

    /// `GET /version`: the version that both sides speak, asked for once. None if the registrar is
    /// too old to tell; `register` then finds out by trying.
    ///
    /// # Errors
    /// The registrar cannot be reached or has no version in common.
    pub async fn version(&self) -> Result<Option<ApiVersion>, ClientError> {
        self.http.within(|| "GET /version".to_owned(), self.version_if_told()).await
    }

    async fn version_if_told(&self) -> Result<Option<ApiVersion>, ClientError> {
        match self.versions.version(&self.http).await {
            Ok(version) => Ok(Some(version)),
            Err(error) if lacks_version_route(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`RegistrationClient::version`], but always asked anew: whether the registrar is there
    /// now, and what it speaks after a change of its version.
    ///
    /// # Errors
    /// The registrar cannot be reached or has no version in common.
    pub async fn ask_version(&self) -> Result<Option<ApiVersion>, ClientError> {
        self.versions.forget();
        self.version().await
    }

    /// `POST /v2.N/agents/{id}`: registers, and receives the credential to activate. The record is
    /// inactive until [`RegistrationClient::activate`], so do not stop between the two.
    ///
    /// # Errors
    /// [`ClientError::Forbidden`] is final: the id is registered with another TPM identity, and an
    /// administrator has to delete that record. A status 400 says that the data are inconsistent.
    /// The rest by [`ClientError::is_transient`].
    pub async fn register(&self, id: &AgentId, registration: &Registration) -> Result<CredentialBlob, ClientError> {
        self.http.within(|| format!("POST /agents/{id}"), self.register_somehow(id, registration)).await
    }

    async fn register_somehow(&self, id: &AgentId, registration: &Registration) -> Result<CredentialBlob, ClientError> {
        if let Some(version) = self.version_if_told().await? {
            return self.register_with(version, id, registration).await;
        }
        let mut versions = self.versions.enabled().to_vec();
        versions.sort_unstable();
        let mut refused = None;
        while let Some(version) = versions.pop() {
            match self.register_with(version, id, registration).await {
                Ok(blob) => {
                    self.versions.remember(version);
                    return Ok(blob);
                }
                Err(error) if error.is_about_version() => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| ClientError::NoCommonVersion {
            peer: self.http.peer().to_owned(),
            theirs: "an unknown one".to_owned(),
            ours: "none".to_owned(),
        }))
    }

    async fn register_with(
        &self,
        version: ApiVersion,
        id: &AgentId,
        registration: &Registration,
    ) -> Result<CredentialBlob, ClientError> {
        let device_identity = registration.device_identity.as_ref().map(|identity| identity.members(version));
        let json = json(&Body { registration, device_identity });
        let path = format!("/v{version}/agents/{id}");
        let target = Target::from(path.clone());
        let answer = self.http.send_json(Method::POST, &target, json).await?;
        self.http.decode(|| format!("POST {path}"), &answer, read_blob)
    }

    /// `PUT /v2.N/agents/{id}/activate`: proves that the credential was activated, see
    /// [`crate::credential::auth_tag`].
    ///
    /// # Errors
    /// A status 400 says that the proof is wrong; the registrar then deletes the record, so the
    /// way on is to register again. [`ClientError::NotFound`]: there is no such record.
    pub async fn activate(&self, id: &AgentId, auth_tag: &str) -> Result<(), ClientError> {
        let json = json(&Activation { auth_tag });
        let call = async {
            let version = self.versions.version(&self.http).await?;
            let target = Target::from(format!("/v{version}/agents/{id}/activate"));
            // Whoever says 404, registering again is the way on, and shows what is the matter.
            self.http.send_json(Method::PUT, &target, json).await.map_err(|error| match error {
                ClientError::Status { peer, call, code: 404, text, .. } => ClientError::NotFound { peer, call, text },
                other => other,
            })
        };
        self.http.within(|| format!("PUT /agents/{id}/activate"), call).await?;
        Ok(())
    }
}

/// Registrars before Keylime 7.12 have no `/version`.
fn lacks_version_route(error: &ClientError) -> bool {
    match error {
        ClientError::Status { code, .. } => matches!(code, 400 | 404 | 405 | 501),
        _ => false,
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs with text keys always serialize")
}

fn read_blob(m: &Members) -> Result<CredentialBlob, BodyError> {
    let bytes = m.bytes("blob")?.ok_or(BodyError::Missing { member: "blob" })?;
    CredentialBlob::decode(&bytes).map_err(|e| unusable("blob", e))
}

#[cfg(test)]
mod tests;
