// SPDX-License-Identifier: Apache-2.0
//! `GET /v2.N/agent/info`: the agent id and the TPM's algorithms, from API version 2.2 on.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use keylime_api::version::ApiVersion;

use super::{Api, answer, get_only};

/// The first version that has the interface.
pub(super) const SINCE: ApiVersion = ApiVersion::new(2, 2);

pub(super) fn interface() -> Router<Api> {
    Router::new().route("/info", get_only(get))
}

async fn get(State(Api { agent, version }): State<Api>) -> Response {
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
