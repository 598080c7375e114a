// SPDX-License-Identifier: Apache-2.0
//! `POST /v2.N/notifications/revocation`: the verifier tells of a host that has failed. The message is checked and answered;
//! its actions come afterwards.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::Method;
use axum::response::Response;

use super::answer::{self, Refusal};
use super::json_body::JsonBody;
use super::{Api, fallback, post_only};
use crate::agent::Agent;
use crate::revocation::Envelope;

/// The verifier sends a message once, and waits a minute for the answer.
const PATIENCE: Duration = Duration::from_secs(50);

pub(super) fn interface() -> Router<Api> {
    Router::new().route("/revocation", post_only(revocation))
}

async fn revocation(
    State(agent): State<Arc<Agent>>,
    JsonBody(envelope): JsonBody<Envelope>,
) -> Result<Response, Refusal> {
    match agent.revocations.put(envelope, Some(PATIENCE)).await {
        Ok(()) => Ok(answer::success("{}")),
        Err(error) => Err(fallback::logged(&Method::POST, Refusal::failed(error.to_string()))),
    }
}
