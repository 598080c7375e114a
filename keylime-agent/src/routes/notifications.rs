// SPDX-License-Identifier: Apache-2.0
//! `/v2.N/notifications`: revocation messages are not acted upon, which their sender is told.

use axum::Router;
use axum::http::Method;
use axum::routing::post;

use super::answer::Refusal;
use super::{Api, fallback};

pub(super) fn interface() -> Router<Api> {
    // For other methods it is answered like a path that does not exist.
    Router::new().route("/revocation", post(revocation).fallback(fallback::notifications))
}

async fn revocation() -> Refusal {
    fallback::logged(&Method::POST, Refusal::new(501, "Revocation messages are not acted upon by this agent"))
}
