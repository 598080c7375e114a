// SPDX-License-Identifier: Apache-2.0
//! Answers to paths that do not exist. Their texts are the stock agent's, which clients and tests compare; the verifier
//! looks for "API version not supported" to learn that it must negotiate again.

use hyper::Method;
use keylime_api::version::ApiVersion;

use super::answer::Refusal;

/// Splits `/v<major>.<minor>…` into `<major>.<minor>` and the rest.
pub(super) fn versioned(path: &str) -> Option<(&str, &str)> {
    let numbers = path.strip_prefix("/v")?;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let major = digits(numbers);
    let minor = digits(numbers.get(major..)?.strip_prefix('.')?);
    // More digits than this are no version, and not worth repeating.
    if !(1..=4).contains(&major) || !(1..=4).contains(&minor) {
        return None;
    }
    numbers.split_at_checked(major + 1 + minor)
}

pub(super) fn unsupported_version(version: &str) -> Refusal {
    Refusal::bad_request(format!("API version not supported: v{version}"))
}

/// Outside of all versions.
pub(super) fn root(method: &Method, enabled: &[ApiVersion]) -> Refusal {
    if *method != Method::GET && *method != Method::POST {
        return Refusal::method("Method is not supported", "GET, POST");
    }
    let paths: Vec<_> = enabled.iter().map(|version| format!("/{version}")).collect();
    let paths = paths.join(", ");
    Refusal::bad_request(format!("Not Implemented: Use {paths} or /version interfaces"))
}

/// An unknown interface of a version.
pub(super) fn interfaces(method: &Method) -> Refusal {
    match *method {
        Method::GET => Refusal::bad_request("Not Implemented: Use /agent, /keys, or /quotes interfaces"),
        Method::POST => Refusal::bad_request("Not Implemented: Use /keys or /notifications interfaces"),
        _ => Refusal::method("Method is not supported", "GET, POST"),
    }
}

pub(super) fn keys(method: &Method) -> Refusal {
    match *method {
        Method::GET => {
            Refusal::bad_request("URI not supported, only /pubkey and /verify are supported for GET in /keys interface")
        }
        Method::POST => {
            Refusal::bad_request("URI not supported, only /ukey and /vkey are supported for POST in /keys interface")
        }
        _ => Refusal::method("Method is not supported in /keys interface", "GET, POST"),
    }
}

pub(super) fn quotes(method: &Method) -> Refusal {
    match *method {
        Method::GET => Refusal::bad_request(
            "URI not supported, only /identity and /integrity are supported for GET in /quotes/ interface",
        ),
        _ => Refusal::method("Method is not supported in /quotes/ interface", "GET"),
    }
}

pub(super) fn agent(method: &Method) -> Refusal {
    match *method {
        Method::GET => Refusal::bad_request("URI not supported, only /info is supported for GET in /agent interface"),
        _ => Refusal::method("Method is not supported in /agent interface", "GET"),
    }
}

/// Revocation messages are not acted upon, which their sender is told; everything else is unknown here.
pub(super) fn notifications(method: &Method, resource: Option<&str>) -> Refusal {
    match *method {
        Method::POST if resource == Some("revocation") => {
            Refusal::new(501, "Revocation messages are not acted upon by this agent")
        }
        Method::POST => Refusal::bad_request(
            "URI not supported, only /revocation is supported for POST in /notifications/ interface",
        ),
        _ => Refusal::method("Method is not supported in /notifications/ interface", "POST"),
    }
}
