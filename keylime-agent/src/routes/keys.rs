// SPDX-License-Identifier: Apache-2.0
//! `/v2.N/keys`: the payload key, and the two halves of the bootstrap key that are encrypted for it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::answer::{self, Refusal};
use super::json_body::JsonBody;
use super::query::{Parameters, is_alphanumeric};
use super::{Api, get_only, post_only};
use crate::agent::Agent;
use crate::bootstrap_key::{AUTH_TAG_LEN, Combination, SymmetricKey, UKey};
use crate::payload::Delivery;

pub(super) fn interface() -> Router<Api> {
    Router::new()
        .route("/pubkey", get_only(public_key))
        .route("/ukey", post_only(u_key))
        .route("/vkey", post_only(v_key))
        .route("/verify", get_only(verify))
}

/// `GET /keys/pubkey`: the payload key's public part as PEM.
async fn public_key(State(agent): State<Arc<Agent>>) -> Response {
    tracing::info!("GET pubkey returning 200 response.");
    let pem = answer::string(agent.payload_key.public_pem());
    answer::success(&format!(r#"{{"pubkey":{pem}}}"#))
}

#[derive(Deserialize)]
struct UKeyBody {
    encrypted_key: String,
    auth_tag: String,
    payload: Option<String>,
}

#[derive(Deserialize)]
struct VKeyBody {
    encrypted_key: String,
}

/// `POST /keys/ukey`: the tenant's half.
async fn u_key(State(agent): State<Arc<Agent>>, JsonBody(body): JsonBody<UKeyBody>) -> Result<Response, Refusal> {
    let key = half(&agent, &body.encrypted_key, "u_key", "Invalid decrypted key")?;
    let auth_tag = auth_tag(&body.auth_tag)?;
    let payload = body.payload.map(|payload| decode("u_key", "payload", &payload)).transpose()?;
    let key = UKey { key, auth_tag, payload };
    let combination = agent.bootstrap_keys().add_u(key, agent.id.as_str());
    report(&agent, combination);
    Ok(answer::success("{}"))
}

/// `POST /keys/vkey`: the verifier's half.
async fn v_key(State(agent): State<Arc<Agent>>, JsonBody(body): JsonBody<VKeyBody>) -> Result<Response, Refusal> {
    let key = half(&agent, &body.encrypted_key, "v_key", "Decrypted key is invalid")?;
    let combination = agent.bootstrap_keys().add_v(key, agent.id.as_str());
    report(&agent, combination);
    Ok(answer::success("{}"))
}

#[derive(Deserialize)]
struct VerifyQuery {
    challenge: String,
}

/// `GET /keys/verify?challenge=…`: proves that the bootstrap key has been derived.
async fn verify(
    State(agent): State<Arc<Agent>>,
    Parameters(VerifyQuery { challenge }): Parameters<VerifyQuery>,
) -> Result<Response, Refusal> {
    if challenge.is_empty() {
        return Err(refuse("GET key challenge", "No challenge provided.", ""));
    }
    if !is_alphanumeric(&challenge) {
        let text = "Parameters should be strictly alphanumeric";
        return Err(refuse("GET key challenge", text, &challenge));
    }
    match agent.bootstrap_keys().prove(&challenge) {
        Some(hmac) => {
            tracing::info!("GET key challenge returning 200 response.");
            Ok(answer::success(&format!(r#"{{"hmac":"{hmac}"}}"#)))
        }
        None => Err(refuse("GET key challenge", "Bootstrap key not yet available.", "")),
    }
}

/// Decodes, decrypts and checks a half.
fn half(agent: &Agent, encrypted: &str, name: &str, invalid: &str) -> Result<SymmetricKey, Refusal> {
    let call = format!("POST {name}");
    let ciphertext = decode(name, "encrypted_key", encrypted)?;
    let plain = agent
        .payload_key
        .decrypt(&ciphertext)
        .map_err(|error| refuse(&call, "Failed to decrypt encrypted_key", &error.to_string()))?;
    SymmetricKey::try_from(plain).map_err(|error| refuse(&call, invalid, &error.to_string()))
}

fn decode(name: &str, member: &str, text: &str) -> Result<Vec<u8>, Refusal> {
    STANDARD.decode(text).map_err(|error| {
        let invalid = format!("Invalid base64 encoding in {member}");
        refuse(&format!("POST {name}"), &invalid, &error.to_string())
    })
}

fn auth_tag(text: &str) -> Result<[u8; AUTH_TAG_LEN], Refusal> {
    let call = "POST u_key";
    let bytes =
        hex::decode(text).map_err(|error| refuse(call, "Invalid hex encoding in auth_tag", &error.to_string()))?;
    <[u8; AUTH_TAG_LEN]>::try_from(bytes).map_err(|bytes| {
        let detail = format!("auth_tag has {} bytes, not {AUTH_TAG_LEN}", bytes.len());
        refuse(call, "Invalid auth_tag", &detail)
    })
}

/// Logs and builds a refusal; the detail goes to the caller only.
fn refuse(call: &str, text: &str, detail: &str) -> Refusal {
    tracing::warn!("{call} returning 400 response. {text}");
    Refusal::bad_request(if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") })
}

fn report(agent: &Agent, combination: Combination) {
    let payload = match combination {
        Combination::Waiting => {
            tracing::debug!("Still waiting on u or v key");
            return;
        }
        Combination::NoMatch => {
            tracing::warn!("HMAC check failed for all U and V key combinations");
            return;
        }
        Combination::Derived { payload } => payload,
    };
    tracing::info!("Successfully derived symmetric payload decryption key");
    let Some((key, payload)) = payload else { return };
    if agent.payloads_forbidden {
        tracing::warn!(
            "agent mTLS is disabled, and unless 'enable_insecure_payload' is set to 'True', payloads cannot be deployed'"
        );
    } else if agent.payloads.try_send(Delivery { key, payload }).is_err() {
        tracing::error!("Failed to run encrypted payload: too many wait for the one that is being deployed");
    }
}
