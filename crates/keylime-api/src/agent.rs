// SPDX-License-Identifier: Apache-2.0
//! Client of a Keylime agent, and the answers it gives

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tls::rustls::ClientConfig;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::pcr::PcrMask;

use crate::client::{ClientError, HttpSettings};
use crate::host_port::HostPort;
use crate::http::{self, Http, Target};
use crate::id::AgentId;
use crate::members::{BodyError, Members};
use crate::negotiator::Negotiator;
use crate::version::{ApiVersion, SUPPORTED};

/// The way to a Keylime agent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Transport {
    /// HTTPS; the agent asks for a client certificate.
    Tls(HostPort, Arc<ClientConfig>),
    /// Plain HTTP, for an agent with mTLS off.
    PlainHttp(HostPort),
    /// HTTP over a Unix socket of this host.
    UnixSocket(PathBuf),
}

/// What counts of `GET /v2.N/agent/info`, from API 2.2 on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentInfo {
    /// The id the agent is registered under.
    pub agent_uuid: AgentId,
    /// Bank of its quotes and hash of its AK's scheme.
    pub tpm_hash_alg: HashAlgorithm,
}

/// What counts of `GET /v2.N/quotes/identity`. `Debug` hides the quote.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentityQuote {
    /// `r<attest>:<signature>:<PCR blob>`, each in base64. Not looked into here.
    pub quote: String,
    /// The node key in PEM, byte for byte as the agent extended PCR 16 with it; none if it sent none.
    pub pubkey: Option<String>,
}

/// What counts of `GET /v2.N/quotes/integrity`. `Debug` hides the quote.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IntegrityQuote {
    /// As in [`IdentityQuote`].
    pub quote: String,
    /// As in [`IdentityQuote`].
    pub pubkey: Option<String>,
    /// The binary boot log, `mb_measurement_list`: there if the mask has PCR 0 and the agent can read
    /// the log. Not looked into here.
    pub boot_log: Option<Vec<u8>>,
}

impl fmt::Debug for IdentityQuote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityQuote {{ quote: {} characters, pubkey: {:?} }}", self.quote.len(), self.pubkey)
    }
}

impl fmt::Debug for IntegrityQuote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntegrityQuote")
            .field("quote", &format_args!("{} characters", self.quote.len()))
            .field("pubkey", &self.pubkey)
            .field("boot_log", &self.boot_log.as_ref().map(|log| format!("{} bytes", log.len())))
            .finish()
    }
}

/// The largest answer to `GET /v2.N/quotes/integrity` that is taken, in bytes. A quote, a node key and a
/// boot log of 256 KiB take half of it; a list of IMA measurements, which some agents always add, may not
/// fit.
pub const MAX_INTEGRITY_QUOTE_BODY: usize = 1 << 20;

/// Client of one Keylime agent; share it, it keeps its connections.
#[derive(Debug)]
pub struct AgentClient {
    http: Http,
    versions: Negotiator,
}

impl AgentClient {
    /// A client for the agent reached by `transport`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Setup`] only.
    pub fn new(transport: &Transport, settings: HttpSettings) -> Result<Self, ClientError> {
        let transport = match transport {
            Transport::Tls(at, config) => http::Transport::Tls(at, config.clone()),
            Transport::PlainHttp(at) => http::Transport::Plain(at),
            Transport::UnixSocket(path) => http::Transport::Unix(path),
        };
        // `agent/info` came with 2.2.
        let enabled = SUPPORTED.iter().copied().filter(|v| *v >= ApiVersion::new(2, 2)).collect();
        Ok(Self { http: Http::new("the Keylime agent", transport, settings)?, versions: Negotiator::new(enabled) })
    }

    /// The API version that both sides speak, asked for once.
    ///
    /// # Errors
    /// The agent cannot be reached or has no version in common; later calls try again.
    pub async fn version(&self) -> Result<ApiVersion, ClientError> {
        self.http.within(|| "GET /version".to_owned(), self.versions.version(&self.http)).await
    }

    /// `GET /v2.N/agent/info`: who the agent is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn info(&self) -> Result<AgentInfo, ClientError> {
        let call = || "GET /agent/info".to_owned();
        let path = |version: ApiVersion| Target::from(format!("/v{version}/agent/info"));
        let answer = self.http.within(call, self.versions.get(&self.http, path)).await?;
        self.http.decode(call, &answer, read_info)
    }

    /// `GET /v2.N/quotes/identity`: a fresh quote over `nonce`, of PCR 16 only.
    ///
    /// # Errors
    /// See [`ClientError`]; a TPM failure at the agent is a status 500.
    pub async fn identity_quote(&self, nonce: &Nonce) -> Result<IdentityQuote, ClientError> {
        let target = |version: ApiVersion| Target {
            path: format!("/v{version}/quotes/identity"),
            query: Some(format!("nonce={}", nonce.as_str())),
            max_body: None,
        };
        self.quote(|| "GET /quotes/identity".to_owned(), target, read_identity_quote).await
    }

    /// `GET /v2.N/quotes/integrity`: a fresh quote over `nonce`, of the PCRs of `mask` and PCR 16, with
    /// the node key, and with the boot log if the mask has PCR 0 and the agent has a log.
    ///
    /// # Errors
    /// See [`ClientError`]; a TPM failure at the agent is a status 500, an answer above
    /// [`MAX_INTEGRITY_QUOTE_BODY`] is [`ClientError::TooLarge`].
    pub async fn integrity_quote(&self, nonce: &Nonce, mask: PcrMask) -> Result<IntegrityQuote, ClientError> {
        let target = |version: ApiVersion| Target {
            path: format!("/v{version}/quotes/integrity"),
            query: Some(format!("nonce={}&mask={mask}&partial=0", nonce.as_str())),
            max_body: Some(MAX_INTEGRITY_QUOTE_BODY),
        };
        self.quote(|| "GET /quotes/integrity".to_owned(), target, read_integrity_quote).await
    }

    async fn quote<T>(
        &self,
        call: impl Fn() -> String,
        target: impl Fn(ApiVersion) -> Target,
        read: impl FnOnce(&Members) -> Result<T, BodyError>,
    ) -> Result<T, ClientError> {
        let answer = self.http.within(&call, self.versions.get(&self.http, target)).await;
        // The agent repeats a nonce that it does not like.
        self.http.decode(call, &answer.map_err(ClientError::without_parameters)?, read)
    }
}

fn read_info(m: &Members) -> Result<AgentInfo, BodyError> {
    Ok(AgentInfo { agent_uuid: m.required("agent_uuid")?, tpm_hash_alg: m.required("tpm_hash_alg")? })
}

fn read_identity_quote(m: &Members) -> Result<IdentityQuote, BodyError> {
    Ok(IdentityQuote { quote: m.required_text("quote")?.to_owned(), pubkey: node_key(m)? })
}

fn read_integrity_quote(m: &Members) -> Result<IntegrityQuote, BodyError> {
    Ok(IntegrityQuote {
        quote: m.required_text("quote")?.to_owned(),
        pubkey: node_key(m)?,
        boot_log: m.bytes("mb_measurement_list")?,
    })
}

fn node_key(m: &Members) -> Result<Option<String>, BodyError> {
    Ok(m.text("pubkey")?.filter(|pem| !pem.is_empty()).map(str::to_owned))
}

#[cfg(test)]
mod tests;
