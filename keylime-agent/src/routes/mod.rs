// SPDX-License-Identifier: Apache-2.0
//! The agent's REST API, one file per resource.
//!
//! Which status, text and `Allow` header an unknown path or method gets is part of the protocol, so every router and every
//! path has a fallback of its own.

mod agent_info;
mod answer;
mod fallback;
mod json_body;
mod keys;
mod notifications;
mod query;
mod quotes;
mod version;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::IntoResponse as _;
use axum::routing::{self, MethodRouter, any};
use keylime_api::version::ApiVersion;

use crate::agent::Agent;
pub(crate) use answer::Refusal;
pub(crate) use json_body::MAX_BODY;

/// What the handlers of one API version share.
#[derive(Clone)]
struct Api {
    agent: Arc<Agent>,
    version: ApiVersion,
}

impl FromRef<Api> for Arc<Agent> {
    fn from_ref(api: &Api) -> Self {
        Self::clone(&api.agent)
    }
}

/// The whole API with all versions that are enabled.
pub(crate) fn router(agent: Arc<Agent>) -> Router {
    let mut router = Router::new().route("/version", version::resource());
    for &version in &agent.api_versions {
        let api = Api { agent: Arc::clone(&agent), version };
        let interfaces = interfaces(version).with_state(api);
        router = nest(router, &format!("/v{version}"), interfaces, fallback::interfaces);
    }
    router.fallback(fallback::root).with_state(agent)
}

/// The API for programs of this host: it answers questions and takes nothing. Who may ask for a quote there must not be able
/// to hand the host a payload with a script, which the authorities of the TCP side alone may.
pub(crate) fn questions_only(router: Router) -> Router {
    router.layer(middleware::from_fn(async |request: Request, next: Next| {
        if request.method() == Method::POST {
            let text = "Keys, payloads and revocation messages are not taken on the Unix socket";
            return fallback::logged(request.method(), Refusal::new(403, text)).into_response();
        }
        next.run(request).await
    }))
}

/// The interfaces of one version.
fn interfaces(version: ApiVersion) -> Router<Api> {
    let mut router = Router::new();
    router = nest(router, "/keys", keys::interface(), fallback::keys);
    router = nest(router, "/quotes", quotes::interface(), fallback::quotes);
    router = nest(router, "/notifications", notifications::interface(), fallback::notifications);
    if version >= agent_info::SINCE {
        router = nest(router, "/agent", agent_info::interface(), fallback::agent);
    }
    router
}

/// Puts a router under a path, with the answer to everything else that is there.
fn nest<S, F, T>(outer: Router<S>, path: &str, inner: Router<S>, fallback: F) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    F: Handler<T, S>,
    T: 'static,
{
    // The pattern of a nested fallback does not match the bare slash.
    let slash = format!("{path}/");
    outer.nest(path, inner.fallback(fallback.clone())).route(&slash, any(fallback))
}

/// A path that has GET alone: not even HEAD, which axum would answer by GET.
fn get_only<S, H, T>(handler: H) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
    H: Handler<T, S>,
    T: 'static,
{
    let wrong = async |method: Method| fallback::wrong_method(&method, "GET");
    routing::get(handler).head(wrong).fallback(wrong)
}

/// A path that has POST alone.
fn post_only<S, H, T>(handler: H) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
    H: Handler<T, S>,
    T: 'static,
{
    routing::post(handler).fallback(async |method: Method| fallback::wrong_method(&method, "POST"))
}

#[cfg(test)]
mod tests;
