// SPDX-License-Identifier: Apache-2.0
//! Requests as bytes on a socket: a client that repairs nothing and hides nothing.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tls::rustls::pki_types::ServerName;
use tls::rustls::{ClientConfig, ClientConnection, Stream};

/// Limit for one read or write.
const LIMIT: Duration = Duration::from_secs(30);
/// More than any answer has.
const MAX_ANSWER: u64 = 8 << 20;

/// An answer as it was received.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    /// Without chunks, if it came in such.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Where an agent listens, and the settings for it if that is with TLS.
pub(crate) struct Place {
    pub(crate) port: u16,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// Sends a request on a connection of its own. `Content-Length` is written unless `headers` has one.
pub(crate) fn send(
    place: &Place,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Result<Answer> {
    let port = place.port;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body
        && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
    {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let request = [request.as_bytes(), body.unwrap_or_default()].concat();
    // Who refuses a request by its head need not read the rest of it.
    let mut received = Vec::new();
    let (sent, ended) = match &place.tls {
        None => (stream.write_all(&request), stream.take(MAX_ANSWER).read_to_end(&mut received).map(drop)),
        Some(config) => {
            let mut session = ClientConnection::new(config.clone(), ServerName::from(Ipv4Addr::LOCALHOST))?;
            let sent = Stream::new(&mut session, &mut stream).write_all(&request);
            (sent, receive(&mut session, &mut stream, &mut received))
        }
    };
    match ended {
        Err(error) if received.is_empty() || error.kind() != ErrorKind::ConnectionReset => {
            Err(error).context(format!("no answer (sending: {sent:?})"))
        }
        _ => parse(&received, method == "HEAD"),
    }
}

/// Reads to the end of a session, whether or not the other side still takes what is sent.
fn receive(session: &mut ClientConnection, stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let state = session.process_new_packets().map_err(io::Error::other)?;
        if state.plaintext_bytes_to_read() > 0 {
            let mut bytes = vec![0; state.plaintext_bytes_to_read()];
            session.reader().read_exact(&mut bytes)?;
            received.extend_from_slice(&bytes);
        }
        if state.peer_has_closed() || session.read_tls(stream)? == 0 {
            return Ok(());
        }
    }
}

fn parse(received: &[u8], head_alone: bool) -> Result<Answer> {
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("no end of the headers")?;
    let (head, rest) = received.split_at(end + 4);
    let head = std::str::from_utf8(head)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
    let mut answer = Answer { status, headers, body: rest.to_vec() };
    if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        answer.body = unchunked(rest)?;
    } else if let Some(length) = answer.header("content-length")
        && !head_alone
    {
        ensure!(length.parse::<usize>()? == rest.len(), "{length} bytes announced, {} received", rest.len());
    }
    Ok(answer)
}

fn unchunked(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n").context("no end of a chunk's size")?;
        let size = usize::from_str_radix(std::str::from_utf8(rest.get(..end).unwrap_or_default())?, 16)?;
        let chunk = rest.get(end + 2..end + 2 + size).context("a chunk is cut off")?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + size..).context("a chunk is cut off")?;
    }
}
