// SPDX-License-Identifier: Apache-2.0
//! Publishers of all kinds, each over a pipe in memory. The clock is paused, so that limits pass at once.

use tokio::io::{DuplexStream, duplex};

use super::*;

const MAX_MESSAGE: u64 = 1000;

/// A greeting of this version with this mechanism.
fn greeting_of(major: u8, minor: u8, mechanism: &[u8]) -> Vec<u8> {
    let mut greeting = greeting();
    greeting[10..12].copy_from_slice(&[major, minor]);
    greeting[12..32].fill(0);
    greeting[12..][..mechanism.len()].copy_from_slice(mechanism);
    greeting
}

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    match u8::try_from(body.len()) {
        Ok(length) => [&[flags, length], body].concat(),
        Err(_) => long(flags, body.len() as u64, body),
    }
}

fn long(flags: u8, length: u64, body: &[u8]) -> Vec<u8> {
    [&[flags | LONG], &length.to_be_bytes()[..], body].concat()
}

fn ready(properties: &[(&str, &str)]) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in properties {
        body.push(name.len() as u8);
        body.extend(name.as_bytes());
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value.as_bytes());
    }
    frame(COMMAND, &body)
}

/// Greeting and READY of a publisher.
fn publisher() -> Vec<u8> {
    [greeting(), ready(&[("Socket-Type", "PUB")])].concat()
}

/// What a subscriber makes of these bytes: its messages, and why it ended. The other side stays connected if `stays`.
async fn subscribe(bytes: &[u8], stays: bool) -> (Vec<Vec<u8>>, String) {
    let (near, mut far) = duplex(1 << 20);
    far.write_all(bytes).await.unwrap();
    if !stays {
        far.shutdown().await.unwrap();
    }
    let mut messages = Vec::new();
    let error = match Subscription::open(near, MAX_MESSAGE).await {
        Err(error) => error,
        Ok(mut subscription) => loop {
            match subscription.message().await {
                Ok(message) => messages.push(message),
                Err(error) => break error,
            }
        },
    };
    (messages, error.to_string())
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn messages_of_all_lengths() {
    let sent: Vec<_> = [0_usize, 1, 255, 256, 1000].into_iter().map(|length| vec![7; length]).collect();
    let frames: Vec<_> = sent.iter().flat_map(|body| frame(0, body)).collect();
    // A short message in a long frame.
    let bytes = [publisher(), frames, long(0, 2, b"{}")].concat();
    let (messages, error) = subscribe(&bytes, false).await;
    assert_eq!(messages, [sent, vec![b"{}".to_vec()]].concat());
    assert_eq!(error, "the other side has closed the connection");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_is_no_publisher_of_ours() {
    let with = |frames: &[u8]| [publisher(), frames.to_vec()].concat();
    let unknown = "the other side has sent a frame of an unknown kind";
    let no_command = "the other side has sent something else than a command";
    let no_type = "the other side has sent a READY without the type of its socket";
    let closed = "the other side has closed the connection";
    for (bytes, text) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "the other side does not speak ZeroMQ's protocol, ZMTP"),
        (vec![0xff; 64], "the other side does not speak ZeroMQ's protocol, ZMTP"),
        (
            greeting_of(1, 0, b""),
            "the other side speaks version 1 of ZMTP: expected version 3, which ZeroMQ 4.0 and later speak",
        ),
        (
            greeting_of(3, 1, b"CURVE"),
            "the other side wants the security mechanism \"CURVE\": expected \"NULL\", as Keylime's verifier has it",
        ),
        (
            greeting_of(3, 0, b"NULLX"),
            "the other side wants the security mechanism \"NULLX\": expected \"NULL\", as Keylime's verifier has it",
        ),
        (
            [greeting(), ready(&[("Identity", ""), ("socket-type", "DEALER")])].concat(),
            "the other side is a socket of type \"DEALER\": expected a publisher, \"PUB\"",
        ),
        ([greeting(), ready(&[])].concat(), no_type),
        // Lengths of name and value that lead beyond the end.
        ([greeting(), frame(COMMAND, b"\x05READY\xffSocket-Type\0\0\0\x03PUB")].concat(), no_type),
        ([greeting(), frame(COMMAND, b"\x05READY\x0bSocket-Type\xff\xff\xff\xffPUB")].concat(), no_type),
        ([greeting(), frame(COMMAND, b"\x05READY\x0bSocket-Type\0\0")].concat(), no_type),
        ([greeting(), frame(COMMAND, b"\x05HELLO")].concat(), "the other side has sent another command than READY"),
        (
            [greeting(), frame(COMMAND, b"\x05ERROR\x04no \n")].concat(),
            "the other side has refused the connection: \"no \\n\"",
        ),
        ([greeting(), frame(0, b"\x05READY")].concat(), no_command),
        ([greeting(), frame(COMMAND, b"")].concat(), no_command),
        ([greeting(), frame(COMMAND, b"\x06READY")].concat(), no_command),
        (
            [greeting(), long(COMMAND, 4097, b"")].concat(),
            "the other side has announced a frame of 4097 bytes: at most 4096 are read",
        ),
        (with(&long(0, 1001, b"")), "the other side has announced a frame of 1001 bytes: at most 1000 are read"),
        (
            with(&long(0, u64::MAX, b"")),
            "the other side has announced a frame of 18446744073709551615 bytes: at most 1000 are read",
        ),
        (with(&frame(MORE, b"{")), "the other side has sent a message of several parts: expected one"),
        (with(&frame(8, b"")), unknown),
        (with(&frame(0x80, b"")), unknown),
        (with(&frame(COMMAND | MORE, b"\x04PING\0\0")), unknown),
        (with(&frame(COMMAND, b"\x04PING\0")), "the other side has sent a malformed PING"),
        (with(&frame(COMMAND, &[b"\x04PING\0\0", &[1; 17][..]].concat())), "the other side has sent a malformed PING"),
        (
            with(&frame(COMMAND, b"\x09SUBSCRIBE")),
            "the other side has sent the command \"SUBSCRIBE\", which no publisher sends",
        ),
        (with(&frame(COMMAND, b"\x05ERROR\x02go")), "the other side has refused the connection: \"go\""),
        (with(&frame(COMMAND, b"\x04PO")), no_command),
        (with(&long(0, 999, b"{")), closed),
        (vec![], closed),
    ] {
        assert_eq!(subscribe(&bytes, false).await, (vec![], text.to_owned()), "{bytes:02x?}");
    }
    // Every beginning of a good conversation.
    let whole = with(&frame(0, b"{}"));
    for end in 0..whole.len() {
        assert_eq!(subscribe(&whole[..end], false).await, (vec![], closed.to_owned()), "{end}");
    }
}

/// Bytes of a conversation of which some are wrong, and bytes that are nothing at all: no panic, and an end.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn arbitrary_bytes() {
    let good = [publisher(), frame(COMMAND, b"\x04PING\0\0x"), frame(0, &[b'a'; 300]), frame(0, b"{}")].concat();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        // Knuth's MMIX generator; its upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..5000 {
        let mut bytes = good.clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        match round % 3 {
            0 => bytes.truncate(random(bytes.len())),
            1 => bytes = [publisher(), (0..random(600)).map(|_| random(256) as u8).collect()].concat(),
            _ => {}
        }
        let (messages, _) = subscribe(&bytes, false).await;
        assert!(messages.iter().all(|message| message.len() <= 1000));
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_takes_too_long() {
    let bytes = |part: &[u8]| [publisher(), part.to_vec()].concat();
    for (bytes, text, seconds) in [
        (vec![], "the other side did not complete the handshake within 10 s", 10),
        (greeting(), "the other side did not complete the handshake within 10 s", 10),
        (bytes(b"\0"), "the other side did not complete a message within 30 s", 30),
        (bytes(&long(0, 1000, b"{")), "the other side did not complete a message within 30 s", 30),
        (bytes(b""), "the other side has not been heard of for 60 s", 60),
    ] {
        let since = Instant::now();
        assert_eq!(subscribe(&bytes, true).await, (vec![], text.to_owned()));
        assert_eq!(since.elapsed().as_secs(), seconds);
    }
    // One byte every second does not prolong it.
    let (near, mut far) = duplex(64);
    tokio::spawn(async move {
        for byte in bytes(&long(0, 1000, &[b'a'; 1000])) {
            let pause = if far.write_all(&[byte]).await.is_ok() { Duration::from_millis(100) } else { return };
            tokio::time::sleep(pause).await;
        }
    });
    let error = async { Subscription::open(near, MAX_MESSAGE).await?.message().await }.await.unwrap_err();
    assert_eq!(error.to_string(), "the other side did not complete the handshake within 10 s");
}

/// What the other side has received since, as far as it has come.
async fn received(far: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = vec![0; 1000];
    let length = far.read(&mut bytes).await.unwrap();
    bytes.truncate(length);
    bytes
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_is_said_to_either_version() {
    for (minor, subscribe) in [(0, frame(0, b"\x01")), (1, frame(COMMAND, b"\x09SUBSCRIBE"))] {
        let (near, mut far) = duplex(1 << 16);
        let begin = [greeting_of(3, minor, b"NULL"), ready(&[("Socket-Type", "XPUB")])].concat();
        far.write_all(&begin).await.unwrap();
        let mut subscription = Subscription::open(near, MAX_MESSAGE).await.unwrap();
        let said = [greeting(), ready(&[("Socket-Type", "SUB")]), subscribe].concat();
        assert_eq!(received(&mut far).await, said);

        // It is answered, and asks when it is bored, those who know the question.
        far.write_all(&frame(COMMAND, b"\x04PING\0\x01context")).await.unwrap();
        let publisher = tokio::spawn(async move {
            assert_eq!(received(&mut far).await, frame(COMMAND, b"\x04PONGcontext"));
            for _ in 0..5 * minor {
                assert_eq!(received(&mut far).await, frame(COMMAND, b"\x04PING\0\0"));
                far.write_all(&frame(COMMAND, b"\x04PONG")).await.unwrap();
            }
            tokio::time::sleep(SILENCE * 10).await;
            far.write_all(&frame(0, b"late")).await.unwrap();
            far
        });
        match minor {
            0 => assert_eq!(subscription.message().await.unwrap(), b"late"),
            _ => assert_eq!(
                subscription.message().await.unwrap_err().to_string(),
                "the other side has not been heard of for 60 s"
            ),
        }
        publisher.abort();
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_publisher_that_never_stops_is_read_at_a_pace() {
    let sent = [vec![frame(0, b""); 100].concat(), vec![frame(COMMAND, b"\x04PONG"); 100].concat()].concat();
    let since = Instant::now();
    let (messages, _) = subscribe(&[publisher(), sent].concat(), false).await;
    assert_eq!(messages.len(), 100);
    assert_eq!(since.elapsed().as_secs(), 4);
}
