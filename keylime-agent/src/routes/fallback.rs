// SPDX-License-Identifier: Apache-2.0
//! Answers to paths that do not exist. Their texts are the stock agent's, which clients and tests compare; the verifier
//! looks for "API version not supported" to learn that it must negotiate again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::ALLOW;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};

use super::answer::Refusal;
use crate::agent::Agent;

/// Outside of all enabled versions. Which of its two texts a path gets depends on what a route pattern cannot tell: whether
/// it begins with something like a version.
pub(super) async fn root(State(agent): State<Arc<Agent>>, method: Method, uri: Uri) -> Refusal {
    let refusal = if let Some(version) = version_of(uri.path()) {
        Refusal::bad_request(format!("API version not supported: v{version}"))
    } else if method != Method::GET && method != Method::POST {
        Refusal::method("Method is not supported", "GET, POST")
    } else {
        let paths: Vec<_> = agent.api_versions.iter().map(|version| format!("/{version}")).collect();
        let paths = paths.join(", ");
        Refusal::bad_request(format!("Not Implemented: Use {paths} or /version interfaces"))
    };
    logged(&method, refusal)
}

/// The `<major>.<minor>` that a path has after `/v`.
fn version_of(path: &str) -> Option<&str> {
    let numbers = path.strip_prefix("/v")?;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let major = digits(numbers);
    let minor = digits(numbers.get(major..)?.strip_prefix('.')?);
    // More digits than this are no version, and not worth repeating.
    if !(1..=4).contains(&major) || !(1..=4).contains(&minor) {
        return None;
    }
    numbers.get(..major + 1 + minor)
}

/// An unknown interface of a version.
pub(super) async fn interfaces(method: Method) -> Refusal {
    let refusal = match method {
        Method::GET => Refusal::bad_request("Not Implemented: Use /agent, /keys, or /quotes interfaces"),
        Method::POST => Refusal::bad_request("Not Implemented: Use /keys or /notifications interfaces"),
        _ => Refusal::method("Method is not supported", "GET, POST"),
    };
    logged(&method, refusal)
}

pub(super) async fn keys(method: Method) -> Refusal {
    let refusal = match method {
        Method::GET => {
            Refusal::bad_request("URI not supported, only /pubkey and /verify are supported for GET in /keys interface")
        }
        Method::POST => {
            Refusal::bad_request("URI not supported, only /ukey and /vkey are supported for POST in /keys interface")
        }
        _ => Refusal::method("Method is not supported in /keys interface", "GET, POST"),
    };
    logged(&method, refusal)
}

pub(super) async fn quotes(method: Method) -> Refusal {
    let refusal = match method {
        Method::GET => Refusal::bad_request(
            "URI not supported, only /identity and /integrity are supported for GET in /quotes/ interface",
        ),
        _ => Refusal::method("Method is not supported in /quotes/ interface", "GET"),
    };
    logged(&method, refusal)
}

pub(super) async fn agent(method: Method) -> Refusal {
    let refusal = match method {
        Method::GET => Refusal::bad_request("URI not supported, only /info is supported for GET in /agent interface"),
        _ => Refusal::method("Method is not supported in /agent interface", "GET"),
    };
    logged(&method, refusal)
}

pub(super) async fn notifications(method: Method) -> Refusal {
    let refusal = match method {
        Method::POST => Refusal::bad_request(
            "URI not supported, only /revocation is supported for POST in /notifications/ interface",
        ),
        _ => Refusal::method("Method is not supported in /notifications/ interface", "POST"),
    };
    logged(&method, refusal)
}

/// A path that exists, asked with a method it does not have: no body and no content type.
pub(super) fn wrong_method(method: &Method, allow: &'static str) -> Response {
    tracing::warn!("{method} returning 405 response");
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, allow)]).into_response()
}

/// Logs a refusal, whose text repeats nothing that has to stay secret.
pub(super) fn logged(method: &Method, refusal: Refusal) -> Refusal {
    tracing::warn!("{method} returning {} response. {}", refusal.code, refusal.text);
    refusal
}
