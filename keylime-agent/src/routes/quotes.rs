// SPDX-License-Identifier: Apache-2.0
//! `/v2.N/quotes`: TPM quotes over the caller's nonce, with PCR 16 bound to the payload key.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use service::Report;
use tpm::{QuoteRequest, TpmError};
use tpm_wire::nonce::{Nonce, NonceError};
use tpm_wire::pcr::{PcrMask, PcrMaskError};
use tpm_wire::quote::QuoteString;

use super::answer::{self, Refusal, SUCCESS};
use super::query::{Parameters, is_alphanumeric};
use super::{Api, get_only};
use crate::measurement::{boot, ima};
use crate::turns::Source;

/// How long a caller waits for the TPM. The verifier gives up after a minute, and asks again after an error.
const DEADLINE: Duration = Duration::from_secs(20);
/// The PCR that IMA extends.
const IMA_PCR: u8 = 10;
/// The PCR that tells that the boot log is asked for.
const BOOT_PCR: u8 = 0;
/// An IMA list up to this size is sent with a length and in one piece.
const WHOLE: usize = 256 << 10;

pub(super) fn interface() -> Router<Api> {
    Router::new().route("/identity", get_only(identity)).route("/integrity", get_only(integrity))
}

#[derive(Deserialize)]
struct IdentityQuery {
    nonce: String,
}

/// `GET /quotes/identity?nonce=…`: a quote of PCR 16 alone.
async fn identity(
    State(api): State<Api>,
    Extension(source): Extension<Source>,
    Parameters(IdentityQuery { nonce: text }): Parameters<IdentityQuery>,
) -> Result<Response, Refusal> {
    let nonce = text.parse().map_err(|error| match error {
        NonceError::TooLong { .. } => refuse(format!("Nonce is too long (max size {}): {text}", Nonce::MAX_LEN)),
        NonceError::Empty => refuse("The nonce must not be empty"),
        _ => refuse(format!("Parameters should be strictly alphanumeric: {text}")),
    })?;
    let mut body = quote(&api, source, nonce, PcrMask::EMPTY, true).await?;
    body.push_str("}}");
    tracing::info!("GET identity quote returning 200 response");
    Ok(answer::json(StatusCode::OK, body))
}

/// `GET /quotes/integrity?nonce=…&mask=…&partial=…[&ima_ml_entry=…]`: a quote of the PCRs in the mask and PCR 16, with the
/// logs that explain PCRs 0 and 10 if those are in the mask.
async fn integrity(
    State(api): State<Api>,
    Extension(source): Extension<Source>,
    Parameters(query): Parameters<IntegrityQuery>,
) -> Result<Response, Refusal> {
    let request = Integrity::parse(query)?;
    let agent = &api.agent;
    let mut body = quote(&api, source, request.nonce, request.mask, request.with_key).await?;
    // The logs are read after the quote: they may be ahead of the PCRs, never behind.
    if request.mask.contains(BOOT_PCR)
        && let Some(log) = &agent.boot_log
    {
        let log = boot::read(log).map_err(|error| failed(&error))?;
        body.push_str(r#","mb_measurement_list":""#);
        STANDARD.encode_string(&log, &mut body);
        body.push('"');
    }
    let list = agent.ima_list.as_ref().filter(|_| request.mask.contains(IMA_PCR));
    let answer = match list {
        None => {
            body.push_str("}}");
            answer::json(StatusCode::OK, body)
        }
        Some(list) => {
            let from = list.starting_at(request.ima_entry).await;
            let (entry, lines) = from.map_err(|error| failed(&error))?;
            if let Some(boottime) = agent.boottime {
                // Writing to a String cannot fail.
                let _ = write!(body, r#","boottime":{boottime}"#);
            }
            let _ = write!(body, r#","ima_measurement_list_entry":{entry},"ima_measurement_list":""#);
            with_lines(body, lines).await?
        }
    };
    tracing::info!("GET integrity quote returning 200 response");
    Ok(answer)
}

#[derive(Deserialize)]
struct IntegrityQuery {
    nonce: String,
    mask: String,
    partial: String,
    ima_ml_entry: Option<String>,
}

struct Integrity {
    nonce: Nonce,
    mask: PcrMask,
    with_key: bool,
    ima_entry: u64,
}

impl Integrity {
    fn parse(query: IntegrityQuery) -> Result<Self, Refusal> {
        let IntegrityQuery { nonce, mask, partial, ima_ml_entry } = query;
        if !is_alphanumeric(&nonce) {
            return Err(refuse(format!("nonce should be strictly alphanumeric: {nonce}")));
        }
        if !is_alphanumeric(&mask) {
            return Err(refuse(format!("mask should be strictly alphanumeric: {mask}")));
        }
        let mask = mask.parse().map_err(|error| match error {
            PcrMaskError::NoSuchPcr { .. } => refuse(format!("mask should select PCRs 0 to 23 only: {mask}")),
            _ => refuse(format!("mask should be a hex encoded 32-bit integer: {mask}")),
        })?;
        let nonce = nonce.parse().map_err(|error| match error {
            NonceError::Empty => refuse("The nonce must not be empty"),
            _ => refuse(format!("Nonce is too long (max size: {}): {}", Nonce::MAX_LEN, nonce.len())),
        })?;
        let with_key = match partial.as_str() {
            "0" => true,
            "1" => false,
            _ => {
                return Err(refuse("uri must contain key 'partial' and value '0' or '1'"));
            }
        };
        Ok(Self {
            nonce,
            mask,
            with_key,
            // What is no number asks for the whole list.
            ima_entry: ima_ml_entry.and_then(|n| n.parse().ok()).unwrap_or(0),
        })
    }
}

/// Makes the quote and begins the answer, up to and without the end of its results.
async fn quote(
    Api { agent, version }: &Api,
    source: Source,
    nonce: Nonce,
    mask: PcrMask,
    with_key: bool,
) -> Result<String, Refusal> {
    let deadline = Instant::now() + DEADLINE;
    let turn = tokio::time::timeout_at(deadline.into(), agent.turns.take(source)).await;
    let turn = turn.map_err(|_| failed(&TpmError::Deadline))?;
    let request = QuoteRequest { nonce, mask, node_key_digest: agent.node_key_digest.clone(), deadline };
    let quote = agent.tpm.quote(request).await.map_err(|error| failed(&error))?;
    drop(turn);
    let quote = QuoteString::new(quote.attest, quote.signature, &quote.pcrs).map_err(|error| failed(&error))?;
    let mut body = String::with_capacity(4096);
    // Neither the quote nor the names hold characters that JSON would have escaped; writing to a String cannot fail.
    let _ = write!(
        body,
        r#"{}{{"quote":"{quote}","hash_alg":"{}","enc_alg":"{}","sign_alg":"{}""#,
        SUCCESS.0,
        agent.hash.name(),
        agent.key.name_for(version.names_key_lengths()),
        agent.signing.name()
    );
    if with_key {
        body.push_str(r#","pubkey":""#);
        answer::escape(agent.payload_key.public_pem(), &mut body);
        body.push('"');
    }
    Ok(body)
}

/// Ends the answer with the IMA lines: at once if they are few, else piece by piece while they are sent.
async fn with_lines(mut body: String, mut lines: ima::Reader) -> Result<Response, Refusal> {
    while body.len() < WHOLE {
        match lines.next_lines().map_err(|error| failed(&error))? {
            Some(bytes) => escape_lines(&bytes, &mut body),
            None => {
                body.push_str("\"}}");
                return Ok(answer::json(StatusCode::OK, body));
            }
        }
        // The kernel hands out a page at a time, and walks along its list for each.
        tokio::task::yield_now().await;
    }
    let mut begun = Some(body);
    let mut ended = false;
    Ok(answer::json_pieces(move || {
        if let Some(body) = begun.take() {
            return Ok(Some(body.into()));
        }
        if ended {
            return Ok(None);
        }
        let bytes = lines.next_lines().inspect_err(|error| {
            tracing::warn!("the IMA list cannot be read to its end: {error}");
        })?;
        Ok(Some(match bytes {
            Some(bytes) => {
                let mut piece = String::with_capacity(bytes.len() + bytes.len() / 32);
                escape_lines(&bytes, &mut piece);
                piece.into()
            }
            None => {
                ended = true;
                Bytes::from_static(b"\"}}")
            }
        }))
    }))
}

fn escape_lines(bytes: &[u8], out: &mut String) {
    // File names need not be UTF-8, but JSON must be. The verifier cannot replay such an entry in any form.
    answer::escape(&String::from_utf8_lossy(bytes), out);
}

/// A refusal for the caller's fault. The log has no more than the fact, since the text may repeat a nonce.
fn refuse(text: impl Into<String>) -> Refusal {
    let text = text.into();
    let fact = text.split(": ").next().unwrap_or_default();
    tracing::warn!("Get quote returning 400 response. {fact}");
    Refusal::bad_request(text)
}

/// A refusal for a fault on our side; whatever it was, the verifier shall ask again.
fn failed(error: &dyn std::error::Error) -> Refusal {
    tracing::warn!("Unable to retrieve quote: {}", Report(error));
    Refusal::failed("Unable to retrieve quote")
}
