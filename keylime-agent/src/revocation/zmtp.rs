// SPDX-License-Identifier: Apache-2.0
//! A subscriber to everything, in ZeroMQ's protocol: ZMTP 3.0 (RFC 23/ZMTP) and 3.1 (RFC 37/ZMTP) with the mechanism NULL.
//!
//! Own code, as a publisher is anybody who answers at an address: here a frame has a limit that is checked before any of it is
//! read. The crate `zeromq` reserves whatever length a frame announces and takes messages of any number of parts; libzmq
//! is another C library.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

/// Longest command: READY has two properties of some bytes.
const MAX_COMMAND: u64 = 4096;
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest time for the rest of a frame, as for a request body, and for a command to be sent.
const FRAME: Duration = Duration::from_secs(30);
/// Silence after which the other side is asked whether it is there, and after which it is not.
const SILENCE: Duration = Duration::from_secs(30);
/// Shortest time for a frame and for a byte: a publisher that sends all the time must not keep the agent from its work.
const FRAME_PACE: Duration = Duration::from_millis(20);
const BYTE_PACE: Duration = Duration::from_micros(1);

/// Bits of a frame's first byte.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The mechanism's name in the greeting.
const NULL: &[u8; 20] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Why a connection has ended. Nothing more can be read from it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZmtpError {
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    #[error("the other side has closed the connection")]
    Closed,
    #[error("the other side did not complete {what} within {} s", limit.as_secs())]
    Slow { what: &'static str, limit: Duration },
    #[error("the other side has not been heard of for {} s", 2 * SILENCE.as_secs())]
    Silent,
    #[error("the other side does not speak ZeroMQ's protocol, ZMTP")]
    NotZmtp,
    #[error("the other side speaks version {0} of ZMTP: expected version 3, which ZeroMQ 4.0 and later speak")]
    Version(u8),
    #[error("the other side wants the security mechanism {0:?}: expected \"NULL\", as Keylime's verifier has it")]
    Mechanism(String),
    #[error("the other side is a socket of type {0:?}: expected a publisher, \"PUB\"")]
    SocketType(String),
    #[error("the other side has refused the connection: {0:?}")]
    Refused(String),
    #[error("the other side has sent the command {0:?}, which no publisher sends")]
    Command(String),
    #[error("the other side has sent {0}")]
    Malformed(&'static str),
    #[error("the other side has sent a message of several parts: expected one")]
    Multipart,
    #[error("the other side has announced a frame of {length} bytes: at most {limit} are read")]
    TooLong { length: u64, limit: u64 },
}

impl From<io::Error> for ZmtpError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

/// A connection that gets all messages of a publisher.
#[derive(Debug)]
pub(crate) struct Subscription<S> {
    stream: S,
    max_message: u64,
    /// Whether the other side knows the commands of ZMTP 3.1, PING among them.
    is_3_1: bool,
    /// Nothing has come since the other side was asked whether it is there.
    is_asked: bool,
    /// When the next frame is read.
    next: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Subscription<S> {
    /// Greets the publisher behind the stream and subscribes. Messages may have `max_message` bytes.
    ///
    /// # Errors
    /// What is there is no publisher with which this is possible.
    pub(crate) async fn open(stream: S, max_message: u64) -> Result<Self, ZmtpError> {
        let mut this = Self { stream, max_message, is_3_1: false, is_asked: false, next: Instant::now() };
        within(HANDSHAKE, "the handshake", this.handshake()).await?;
        Ok(this)
    }

    async fn handshake(&mut self) -> Result<(), ZmtpError> {
        self.stream.write_all(&greeting()).await?;
        // Signature and version: what is not of this protocol is recognised by its first bytes.
        let mut begin = [0; 12];
        self.stream.read_exact(&mut begin).await?;
        let [0xff, _, _, _, _, _, _, _, _, 0x7f, major, minor] = begin else { return Err(ZmtpError::NotZmtp) };
        if major < 3 {
            return Err(ZmtpError::Version(major));
        }
        self.is_3_1 = (major, minor) >= (3, 1);
        // For NULL it does not matter which side is the server; the rest is padding.
        let (mut mechanism, mut rest) = ([0; 20], [0; 32]);
        self.stream.read_exact(&mut mechanism).await?;
        self.stream.read_exact(&mut rest).await?;
        if mechanism != *NULL {
            let name = mechanism.split(|byte| *byte == 0).next().unwrap_or_default();
            return Err(ZmtpError::Mechanism(text(name)));
        }
        self.send(COMMAND, b"\x05READY\x0bSocket-Type\0\0\0\x03SUB").await?;
        let flags = self.stream.read_u8().await?;
        let frame = self.frame(flags).await?;
        match frame.command()? {
            (b"READY", metadata) => check_metadata(metadata)?,
            (b"ERROR", reason) => return Err(refused(reason)),
            _ => return Err(ZmtpError::Malformed("another command than READY")),
        }
        if self.is_3_1 { self.send(COMMAND, b"\x09SUBSCRIBE").await } else { self.send(0, b"\x01").await }
    }

    /// The next message. While there is none the other side is asked now and then whether it is still there.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub(crate) async fn message(&mut self) -> Result<Vec<u8>, ZmtpError> {
        loop {
            sleep_until(self.next).await;
            let Ok(flags) = timeout(SILENCE, self.stream.read_u8()).await else {
                // An older publisher knows no such question; the kernel's keepalive has to do.
                if self.is_3_1 {
                    self.ask().await?;
                }
                continue;
            };
            self.is_asked = false;
            let flags = flags?;
            let frame = within(FRAME, "a message", self.frame(flags)).await?;
            let bytes = u32::try_from(frame.body.len()).unwrap_or(u32::MAX);
            self.next = Instant::now() + FRAME_PACE.max(BYTE_PACE * bytes);
            if !frame.is_command {
                return Ok(frame.body);
            }
            match frame.command()? {
                (b"PING", [_, _, context @ ..]) if context.len() <= 16 => {
                    self.send(COMMAND, &[b"\x04PONG", context].concat()).await?;
                }
                (b"PING", _) => return Err(ZmtpError::Malformed("a malformed PING")),
                (b"PONG", _) => {}
                (b"ERROR", reason) => return Err(refused(reason)),
                (name, _) => return Err(ZmtpError::Command(text(name))),
            }
        }
    }

    async fn ask(&mut self) -> Result<(), ZmtpError> {
        if self.is_asked {
            return Err(ZmtpError::Silent);
        }
        self.is_asked = true;
        // No time to live, no context.
        self.send(COMMAND, b"\x04PING\0\0").await
    }

    /// Sends a frame.
    async fn send(&mut self, flags: u8, body: &[u8]) -> Result<(), ZmtpError> {
        let length = u8::try_from(body.len()).expect("what a subscriber says is short");
        let frame = [&[flags, length], body].concat();
        within(FRAME, "the reception of a command", async { Ok(self.stream.write_all(&frame).await?) }).await
    }

    /// The rest of a frame after its first byte. Memory is taken as bytes arrive.
    async fn frame(&mut self, flags: u8) -> Result<Frame, ZmtpError> {
        let is_command = flags & COMMAND != 0;
        if flags & !(MORE | LONG | COMMAND) != 0 || (is_command && flags & MORE != 0) {
            return Err(ZmtpError::Malformed("a frame of an unknown kind"));
        }
        if flags & MORE != 0 {
            return Err(ZmtpError::Multipart);
        }
        let length = match flags & LONG {
            0 => u64::from(self.stream.read_u8().await?),
            _ => self.stream.read_u64().await?,
        };
        let limit = if is_command { MAX_COMMAND } else { self.max_message };
        if length > limit {
            return Err(ZmtpError::TooLong { length, limit });
        }
        let mut body = Vec::new();
        (&mut self.stream).take(length).read_to_end(&mut body).await?;
        if u64::try_from(body.len()) != Ok(length) {
            return Err(ZmtpError::Closed);
        }
        Ok(Frame { is_command, body })
    }
}

async fn within<T>(
    limit: Duration,
    what: &'static str,
    done: impl Future<Output = Result<T, ZmtpError>>,
) -> Result<T, ZmtpError> {
    timeout(limit, done).await.unwrap_or(Err(ZmtpError::Slow { what, limit }))
}

/// A frame, which is a whole message or a command.
struct Frame {
    is_command: bool,
    body: Vec<u8>,
}

impl Frame {
    /// Name and data of a command.
    fn command(&self) -> Result<(&[u8], &[u8]), ZmtpError> {
        let found = self.body.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
        found.filter(|_| self.is_command).ok_or(ZmtpError::Malformed("something else than a command"))
    }
}

/// Signature, version 3.1, mechanism, the role that NULL does not use, and padding.
fn greeting() -> Vec<u8> {
    [&b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01"[..], NULL, &[0; 32]].concat()
}

/// Looks for the type of the other socket among the properties of READY. Those it has besides have no meaning here.
fn check_metadata(mut metadata: &[u8]) -> Result<(), ZmtpError> {
    while let Some((name, value, rest)) = property(metadata) {
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            // An XPUB is a publisher that wants to know of its subscribers.
            return if matches!(value, b"PUB" | b"XPUB") { Ok(()) } else { Err(ZmtpError::SocketType(text(value))) };
        }
        metadata = rest;
    }
    Err(ZmtpError::Malformed("a READY without the type of its socket"))
}

/// The first property: a name with one byte of length, a value with four; and what follows it.
fn property(metadata: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (length, rest) = metadata.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (length, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some((name, value, rest))
}

/// The reason of an ERROR command: text with one byte of length.
fn refused(reason: &[u8]) -> ZmtpError {
    ZmtpError::Refused(text(reason.get(1..).unwrap_or_default()))
}

/// What the other side calls something, for a message.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests;
