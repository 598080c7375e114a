// SPDX-License-Identifier: Apache-2.0
//! The agent's REST API, one file per resource.
//!
//! Paths are matched by hand and not by a web framework: which status, text and `Allow` header an unknown path or method
//! gets is part of the protocol, down to an empty body in one case, and a quote leaves few microseconds to spend here.

mod agent_info;
pub(crate) mod answer;
mod fallback;
mod json_body;
mod keys;
mod query;
mod quotes;
mod version;

use hyper::{Method, Request};
use keylime_api::version::ApiVersion;

use crate::agent::Agent;
use crate::server::Peer;
use answer::{Answer, Refusal};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    Version,
    AgentInfo(ApiVersion),
    PublicKey,
    UKey,
    VKey,
    VerifyKey,
    Identity(ApiVersion),
    Integrity(ApiVersion),
    /// The path exists, with these methods.
    WrongMethod(&'static str),
    /// There is nothing.
    Refused(Refusal),
}

/// Answers one request.
pub(crate) async fn handle<B>(agent: &Agent, request: Request<B>, peer: &Peer) -> Answer
where
    B: hyper::body::Body + Unpin,
{
    let (method, path) = (request.method(), request.uri().path());
    // Without the query: it holds nonces.
    tracing::info!("{method} invoked from \"{peer}\" with uri {path}");
    let route = resolve(method, path, &agent.api_versions);
    let query = request.uri().query().unwrap_or_default();
    let result = match route {
        Route::Version => Ok(version::get(agent)),
        Route::AgentInfo(version) => Ok(agent_info::get(agent, version)),
        Route::PublicKey => Ok(keys::public_key(agent)),
        Route::UKey => keys::u_key(agent, request).await,
        Route::VKey => keys::v_key(agent, request).await,
        Route::VerifyKey => keys::verify(agent, query),
        Route::Identity(version) => quotes::identity(agent, version, query).await,
        Route::Integrity(version) => quotes::integrity(agent, version, query).await,
        Route::WrongMethod(allow) => {
            tracing::warn!("{method} returning 405 response");
            return answer::wrong_method(allow);
        }
        Route::Refused(refusal) => {
            let (code, text) = (refusal.code, &refusal.text);
            tracing::warn!("{method} returning {code} response. {text}");
            return answer::refusal(&refusal);
        }
    };
    // The handlers log why they refuse, without repeating what was sent.
    result.unwrap_or_else(|refusal| answer::refusal(&refusal))
}

fn resolve(method: &Method, path: &str, enabled: &[ApiVersion]) -> Route {
    if path == "/version" {
        return only(method, &Method::GET, Route::Version);
    }
    match fallback::versioned(path) {
        None => Route::Refused(fallback::root(method, enabled)),
        // Compared as text, so that only the one spelling of a version leads there.
        Some((version, rest)) => match enabled.iter().find(|enabled| enabled.to_string() == version) {
            Some(&version) if rest.is_empty() || rest.starts_with('/') => interface(method, rest, version),
            _ => Route::Refused(fallback::unsupported_version(version)),
        },
    }
}

/// What follows the version: `/interface` or `/interface/resource`.
fn interface(method: &Method, path: &str, version: ApiVersion) -> Route {
    let inner = path.strip_prefix('/').unwrap_or_default();
    let (name, resource) = match inner.split_once('/') {
        Some((name, resource)) => (name, Some(resource)),
        None => (inner, None),
    };
    match name {
        "keys" => keys::route(method, resource),
        "quotes" => quotes::route(method, resource, version),
        "notifications" => Route::Refused(fallback::notifications(method, resource)),
        "agent" if agent_info::is_in(version) => agent_info::route(method, resource, version),
        _ => Route::Refused(fallback::interfaces(method)),
    }
}

/// The route if the method is the one it has.
fn only(method: &Method, wanted: &Method, route: Route) -> Route {
    if method == wanted {
        return route;
    }
    Route::WrongMethod(if *wanted == Method::GET { "GET" } else { "POST" })
}

#[cfg(test)]
mod tests;
