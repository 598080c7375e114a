// SPDX-License-Identifier: Apache-2.0
//! Answers: the envelope around all JSON, and bodies that are sent at once or piece by piece.
//!
//! JSON is written by hand and not by axum's `Json`: a measurement list is sent while it is read, and a quote is copied
//! into its answer once.

use axum::body::{Body, Bytes};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

/// What a request is refused with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) code: u16,
    /// The text for the caller; may repeat what it sent.
    pub(crate) text: String,
    /// The methods that would be allowed, for 405.
    pub(crate) allow: Option<&'static str>,
}

impl Refusal {
    /// 400: the request itself is wrong.
    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(400, text)
    }

    /// 500: something of ours failed. For the verifier this is the status that means "ask again": on any other than 408,
    /// 500 and 599 it fails the host for good.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(500, text)
    }

    /// Any status.
    pub(crate) fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), allow: None }
    }

    /// 405 with the allowed methods.
    pub(crate) fn method(text: &str, allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(405, text) }
    }
}

/// What every success begins and ends with; the results stand between them.
pub(crate) const SUCCESS: (&str, &str) = (r#"{"code":200,"status":"Success","results":"#, "}");

/// A success with these results, which are a JSON value.
pub(crate) fn success(results: &str) -> Response {
    let (begin, end) = SUCCESS;
    json(StatusCode::OK, [begin, results, end].concat())
}

impl IntoResponse for Refusal {
    /// The error in its envelope.
    fn into_response(self) -> Response {
        let code = self.code;
        let text = string(&self.text);
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = json(status, format!(r#"{{"code":{code},"status":{text},"results":{{}}}}"#));
        if let Some(methods) = self.allow {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        answer
    }
}

/// A JSON document.
pub(crate) fn json(status: StatusCode, body: String) -> Response {
    (status, JSON, body).into_response()
}

/// A JSON document in pieces of unknown number, so that the whole is never in memory. Other requests have their turn
/// between two pieces, however fast they are taken. An error ends the connection in mid-answer, which the other side
/// notices.
pub(crate) fn json_pieces<F>(next: F) -> Response
where
    F: FnMut() -> std::io::Result<Option<Bytes>> + Send + 'static,
{
    let pieces = stream::try_unfold(next, |mut next| async move {
        tokio::task::yield_now().await;
        Ok::<_, std::io::Error>(next()?.map(|piece| (piece, next)))
    });
    (JSON, Body::from_stream(pieces)).into_response()
}

const JSON: [(HeaderName, HeaderValue); 1] = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];

/// A JSON string with its quotes.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    escape(text, &mut out);
    out.push('"');
    out
}

/// Appends the inside of a JSON string (RFC 8259, section 7). Most of the text is copied in one go.
pub(crate) fn escape(text: &str, out: &mut String) {
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escaped = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        // Both ends are next to ASCII bytes, so they are character boundaries.
        out.push_str(text.get(copied..at).unwrap_or_default());
        if escaped.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escaped);
        }
        copied = at + 1;
    }
    out.push_str(text.get(copied..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_json() {
        for text in ["", "plain", "a\"b\\c\nd\re\tf\u{0}g\u{1f}h\u{7f}", "\"", "ümläut\n→", "\n\n"] {
            let parsed: String = serde_json::from_str(&string(text)).unwrap();
            assert_eq!(parsed, text);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn others_have_their_turn_between_pieces() {
        const PIECES: usize = 100;
        let turns = std::rc::Rc::new(std::cell::Cell::new(0));
        let mut left = PIECES;
        let answer = json_pieces(move || {
            left = left.saturating_sub(1);
            Ok((left > 0).then(|| Bytes::from_static(b"piece")))
        });
        let local = tokio::task::LocalSet::new();
        let others = std::rc::Rc::clone(&turns);
        local.spawn_local(async move {
            loop {
                others.set(others.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let body = local.run_until(axum::body::to_bytes(answer.into_body(), usize::MAX)).await.unwrap();
        assert_eq!(body.len(), (PIECES - 1) * b"piece".len());
        assert!(turns.get() >= PIECES - 1, "{}", turns.get());
    }

    #[test]
    fn allow_goes_with_405() {
        let answer = Refusal::method("no", "GET, POST").into_response();
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()[ALLOW], "GET, POST");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
    }
}
