// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.1 as far as Keylime's clients need it, and the ways to get it wrong: servers answer as they are told.

mod server;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

pub use server::{Server, nobody, ok};

/// Largest request that is read, head and body.
const MAX_REQUEST: usize = 1 << 20;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What stands behind the question mark, as sent.
    pub query: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A parameter of the query, as sent.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

impl fmt::Display for Request {
    /// Method, path with query, and the body if there is one, with spaces between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        if !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        if !self.body.is_empty() {
            write!(f, " {}", String::from_utf8_lossy(&self.body))?;
        }
        Ok(())
    }
}

/// What a server does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An answer with this status, these header lines (each with its line end), and this body.
    Answer(u16, String, Vec<u8>),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// The end of the connection at once, as of a process that was killed.
    Close,
    /// A reset at once.
    Reset,
    /// Nothing, for ever.
    Hang,
    /// 200, then a body that never ends, a byte at a time.
    Drip,
    /// 200, then a body of so many bytes whose length is not announced.
    Flood(usize),
    /// The other reply, once the gate is open.
    Gated(Gate, Box<Reply>),
}

impl Reply {
    /// An answer with this status, these header lines (each with its line end), and this body.
    #[must_use]
    pub fn answer(code: u16, headers: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(code, headers.to_owned(), body.into())
    }

    /// 200 with these results in Keylime's envelope, and a date.
    #[must_use]
    pub fn ok(results: &Value) -> Self {
        Self::results(200, "Success", results).dated()
    }

    /// An error in Keylime's envelope.
    #[must_use]
    pub fn error(code: u16, status: &str) -> Self {
        Self::results(code, status, &json!({})).dated()
    }

    /// Any body of any type, with a date.
    #[must_use]
    pub fn body(code: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(code, format!("Content-Type: {content_type}\r\n"), body.into()).dated()
    }

    /// Keylime's envelope, without a date.
    #[must_use]
    pub fn results(code: u16, status: &str, results: &Value) -> Self {
        let body = json!({"code": code, "status": status, "results": results}).to_string();
        Self::Answer(code, "Content-Type: application/json\r\n".to_owned(), body.into())
    }

    /// The same answer with one header line more.
    #[must_use]
    pub fn with_header(self, line: &str) -> Self {
        match self {
            Self::Answer(code, headers, body) => Self::Answer(code, format!("{headers}{line}\r\n"), body),
            other => other,
        }
    }

    /// The reply behind all gates, once they are open.
    pub(crate) async fn opened(self) -> Self {
        let mut reply = self;
        while let Self::Gated(gate, behind) = reply {
            // An error says that the gate was opened.
            let _ = gate.0.acquire().await;
            reply = *behind;
        }
        reply
    }

    fn dated(self) -> Self {
        let now = httpdate::fmt_http_date(SystemTime::now());
        self.with_header(&format!("Date: {now}"))
    }
}

/// Holds answers back until it is opened; clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets all through, from now on.
    pub fn open(&self) {
        self.0.close();
    }
}

/// How a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// Serves one connection to its end, with TLS if there is an acceptor.
pub(crate) async fn serve_tcp<F>(mut tcp: TcpStream, tls: Option<TlsAcceptor>, answer: impl Fn(Request) -> F)
where
    F: Future<Output = Reply>,
{
    match tls {
        None => {
            let end = serve(&mut tcp, answer).await;
            finish(&tcp, end);
        }
        Some(tls) => {
            // A client that refuses the certificate is part of the test.
            let Ok(mut stream) = tls.accept(tcp).await else { return };
            let end = serve(&mut stream, answer).await;
            finish(stream.get_ref().0, end);
        }
    }
}

fn finish(stream: &TcpStream, end: End) {
    if end == End::Reset {
        // Should it fail, the connection is closed instead.
        let _ = stream.set_zero_linger();
    }
}

/// Serves one connection to its end. The gates of what `answer` gives are open.
async fn serve<F>(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: impl Fn(Request) -> F) -> End
where
    F: Future<Output = Reply>,
{
    let mut buffer = Vec::new();
    while let Some(request) = next(stream, &mut buffer).await {
        match send(stream, answer(request).await).await {
            None => {}
            Some(end) => return end,
        }
    }
    End::Closed
}

/// Sends a reply; the end if the connection ends with it.
async fn send(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> Option<End> {
    let (bytes, end) = match reply {
        Reply::Answer(code, headers, body) => {
            let head = format!("HTTP/1.1 {code} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
            ([head.into_bytes(), body].concat(), None)
        }
        Reply::Raw(bytes) => (bytes, Some(End::Closed)),
        Reply::Close => return Some(End::Closed),
        Reply::Reset => return Some(End::Reset),
        Reply::Hang | Reply::Gated(..) => std::future::pending().await,
        Reply::Drip => {
            let mut bytes: &[u8] = b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n";
            while stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                bytes = b" ";
            }
            return Some(End::Closed);
        }
        Reply::Flood(len) => {
            let head = b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n".to_vec();
            ([head, vec![b' '; len]].concat(), Some(End::Closed))
        }
    };
    let sent = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    if sent.await.is_err() { Some(End::Closed) } else { end }
}

/// The next request; none at the end of the connection, or if it is no HTTP.
async fn next(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some((head_len, request)) = head(buffer)
            && let Some((mut request, body_len)) = request
        {
            let all = head_len + body_len;
            if buffer.len() >= all {
                request.body = buffer.drain(..all).skip(head_len).collect();
                return Some(request);
            }
        }
        // The first byte of a method is a letter; that of a TLS handshake is not.
        if buffer.len() > MAX_REQUEST || buffer.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
            return None;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The length of the head with the empty line, and what it says: the request without its body, and the body's length.
fn head(buffer: &[u8]) -> Option<(usize, Option<(Request, usize)>)> {
    let len = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let read = || {
        let text = std::str::from_utf8(buffer.get(..len)?).ok()?;
        let mut lines = text.lines();
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let body_len = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
        Some((Request { method, path, query, body: Vec::new() }, body_len.unwrap_or(0)))
    };
    Some((len, read()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_read_one_by_one_however_they_come() {
        let bytes = b"GET /a?x=1&y=2 HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET /c";
        let mut stream = tokio_chunks(bytes);
        let mut buffer = Vec::new();
        let first = next(&mut stream, &mut buffer).await.unwrap();
        assert_eq!((first.method.as_str(), first.path.as_str(), first.parameter("y")), ("GET", "/a", Some("2")));
        let second = next(&mut stream, &mut buffer).await.unwrap();
        assert_eq!((second.path.as_str(), second.body.as_slice()), ("/b", b"abc".as_slice()));
        assert!(next(&mut stream, &mut buffer).await.is_none());
        assert!(next(&mut b"\x16\x03\x01".as_slice(), &mut Vec::new()).await.is_none());
    }

    /// A reader that gives a few bytes at a time.
    fn tokio_chunks(bytes: &'static [u8]) -> impl AsyncRead + Unpin {
        let (first, rest) = bytes.split_at(7);
        let (second, third) = rest.split_at(50);
        first.chain(second).chain(third)
    }
}
