// SPDX-License-Identifier: Apache-2.0
//! Answers: the envelope around all JSON, and bodies that are sent at once or piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

/// Produces a body piece by piece. An error ends the connection in mid-answer, which the other side notices.
pub(crate) type Pieces = Box<dyn FnMut() -> std::io::Result<Option<Bytes>> + Send>;

/// The body of an answer.
pub(crate) enum Body {
    /// All of it, or nothing if it has been taken.
    Whole(Option<Bytes>),
    /// In pieces of unknown number, so that the whole is never in memory.
    Pieces(Pieces),
}

impl Body {
    /// An empty body.
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) => Ok(bytes.take()),
            Self::Pieces(next) => next(),
        };
        Poll::Ready(piece.transpose().map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// A complete answer.
pub(crate) type Answer = Response<Body>;

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
pub(crate) fn success(results: &str) -> Answer {
    let (begin, end) = SUCCESS;
    json(StatusCode::OK, [begin, results, end].concat())
}

/// An error in its envelope.
pub(crate) fn refusal(refusal: &Refusal) -> Answer {
    let code = refusal.code;
    let text = string(&refusal.text);
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = format!(r#"{{"code":{code},"status":{text},"results":{{}}}}"#);
    let mut answer = json(status, body);
    if let Some(methods) = refusal.allow {
        let methods = HeaderValue::from_static(methods);
        answer.headers_mut().insert(ALLOW, methods);
    }
    answer
}

/// 405 for a path that exists, asked with a method it does not have: no body and no content type.
pub(crate) fn wrong_method(allow: &'static str) -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let headers = answer.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// A JSON document.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_body(status, Body::Whole(Some(body.into())))
}

/// A JSON document in pieces.
pub(crate) fn json_pieces(pieces: Pieces) -> Answer {
    with_body(StatusCode::OK, Body::Pieces(pieces))
}

fn with_body(status: StatusCode, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

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

    #[test]
    fn allow_goes_with_405() {
        let answer = refusal(&Refusal::method("no", "GET, POST"));
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()[ALLOW], "GET, POST");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
        let answer = wrong_method("GET");
        assert_eq!(answer.headers()[ALLOW], "GET");
        assert!(!answer.headers().contains_key(CONTENT_TYPE));
    }
}
