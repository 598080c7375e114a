// SPDX-License-Identifier: Apache-2.0
//! The frame around every answer of Keylime's API 2.x

use serde::{Deserialize, Serialize};

/// `{"code": 200, "status": "Success", "results": {...}}`; on errors the HTTP status as `code`, a
/// message as `status` and empty results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// The HTTP status once more.
    pub code: u16,
    /// `Success`, or what went wrong. Other programs match on some of these texts.
    pub status: String,
    /// The answer proper.
    pub results: T,
}

/// Empty results, written `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NoResults {}

impl<T> Envelope<T> {
    /// A good answer.
    pub fn success(results: T) -> Self {
        Self { code: 200, status: "Success".to_owned(), results }
    }
}

impl Envelope<NoResults> {
    /// An error with its message.
    pub fn error(code: u16, status: impl Into<String>) -> Self {
        Self { code, status: status.into(), results: NoResults {} }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_shape_that_keylime_reads() {
        let good = serde_json::to_string(&Envelope::success(vec![1])).unwrap();
        assert_eq!(good, r#"{"code":200,"status":"Success","results":[1]}"#);
        let bad = serde_json::to_string(&Envelope::error(404, "Not Found")).unwrap();
        assert_eq!(bad, r#"{"code":404,"status":"Not Found","results":{}}"#);
    }
}
