// SPDX-License-Identifier: Apache-2.0
//! Parameters of a request.

use std::error::Error as _;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::answer::Refusal;

/// The parameters as [`Query`] reads them, refused with the protocol's text. A parameter given twice is refused: which of
/// them another reader of the query takes cannot be known.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => {
                let reason = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
                let text = format!("Query deserialize error: {reason}");
                tracing::warn!("GET returning 400 response. {text}");
                Err(Refusal::bad_request(text))
            }
        }
    }
}

/// Whether a value has nothing but ASCII letters and digits.
pub(super) fn is_alphanumeric(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
