// SPDX-License-Identifier: Apache-2.0
//! `GET /v2.N/agent/info`: the agent id and the TPM's algorithms, from API version 2.2 on.

use hyper::Method;
use keylime_api::version::ApiVersion;

use super::answer::{self, Answer};
use super::{Route, fallback, only};
use crate::agent::Agent;

/// Whether the interface exists in this version.
pub(super) fn is_in(version: ApiVersion) -> bool {
    version >= ApiVersion::new(2, 2)
}

pub(super) fn route(method: &Method, resource: Option<&str>, version: ApiVersion) -> Route {
    match resource {
        Some("info") => only(method, &Method::GET, Route::AgentInfo(version)),
        _ => Route::Refused(fallback::agent(method)),
    }
}

pub(super) fn get(agent: &Agent, version: ApiVersion) -> Answer {
    tracing::info!("GET info returning 200 response");
    // None of these values holds a character that JSON would have escaped.
    answer::success(&format!(
        r#"{{"agent_uuid":"{}","tpm_hash_alg":"{}","tpm_enc_alg":"{}","tpm_sign_alg":"{}","ak_handle":{}}}"#,
        agent.id,
        agent.hash.name(),
        agent.key.name_for(version.names_key_lengths()),
        agent.signing.name(),
        agent.ak_handle
    ))
}
