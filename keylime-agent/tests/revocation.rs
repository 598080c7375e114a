// SPDX-License-Identifier: Apache-2.0
//! A host fails, and the real verifier tells the others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::{LIMIT, Lab, options};
use test_support::keylime::Server;
use test_support::process::{Part, peak_rss_kib};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, Swtpm, SwtpmOptions, ports, require};

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A host that is to fail, and one that is to learn of it.
struct Hosts {
    lab: Lab,
    other_tpm: Swtpm,
    witness: KeylimeAgent,
    failing: KeylimeAgent,
}

impl Hosts {
    /// Both are attested. The witness has a payload with an action.
    fn start(keylime: KeylimeOptions, witness: &KeylimeAgentOptions) -> Option<Self> {
        let overrides =
            [keylime.overrides, vec![("ca".to_owned(), "password".to_owned(), "secret".to_owned())]].concat();
        require::root()?;
        let lab = Lab::start(KeylimeOptions { overrides, require_ek_cert: false, ..keylime })?;
        let other_tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (ca, include) = (folder.path().join("ca"), folder.path().join("include"));
        std::fs::create_dir(&include).unwrap();
        let script = "#!/bin/sh\nip=$(sed 's/.*\"ip\":\"\\([^\"]*\\)\".*/\\1/' \"$1\")\n\
                      echo \"A node in the network has been compromised: $ip\"\necho careful >&2\n";
        std::fs::write(include.join("local_action_warn"), script).unwrap();
        std::fs::write(include.join("action_list"), "local_action_warn\n").unwrap();

        let mut witness = lab.agent(witness);
        let failing = KeylimeAgent::start(&other_tpm.tcti, &lab.servers, &options()).unwrap();
        let policy = format!(r#"{{"23": ["{ZEROS}"]}}"#);
        for agent in [&witness, &failing] {
            let package =
                ["--cert", ca.to_str().unwrap(), "--include", include.to_str().unwrap(), "--tpm_policy", &policy];
            lab.tenant(agent, "add", &package);
            lab.servers.wait_verified(&agent.id().unwrap(), LIMIT).unwrap();
        }
        witness.part().wait_log("> Successfully executed encrypted payload", LIMIT).unwrap();
        assert!(witness.part().log().contains("> Permission set for action: "));
        Some(Self { lab, other_tpm, witness, failing })
    }

    /// One fails, and the other has acted for the `count`th time.
    fn fail(&mut self, count: usize) {
        self.other_tpm.pcr_extend(23).unwrap();
        self.wait_witness("> Revocation processed successfully", count);
        let log = self.witness.part().log();
        let (_, rest) = log.rsplit_once("> Received revocation\n").unwrap_or_else(|| panic!("{log}"));
        let messages: Vec<_> =
            rest.lines().filter_map(|line| line.split_once("revocation > ")).map(|(_, text)| text).collect();
        assert_eq!(
            messages[..5],
            [
                "Executing revocation action local_action_warn",
                "INFO: revocation action local_action_warn successful",
                "Action stdout: A node in the network has been compromised: 127.0.0.1",
                "Action stderr: careful",
                "Revocation processed successfully",
            ]
        );
        let (failing, witness) = (self.failing.id().unwrap(), self.witness.id().unwrap());
        self.lab.servers.wait_state(&failing, 9, LIMIT).unwrap();
        self.lab.servers.wait_verified(&witness, LIMIT).unwrap();
    }

    /// Waits until these words are in the log of the witness so many times.
    fn wait_witness(&mut self, words: &str, count: usize) {
        let found = |part: &Part| Ok((part.log().matches(words).count() >= count).then_some(()));
        self.witness.part().ready(words, LIMIT, found).unwrap();
    }
}

#[test]
fn a_failed_host_sets_off_the_actions_of_the_others() {
    let Some(mut hosts) = Hosts::start(KeylimeOptions::default(), &options()) else { return };
    hosts.fail(1);

    // Somebody else who may call the agent cannot set them off.
    let Hosts { lab, mut witness, .. } = hosts;
    let body = r#"{"msg": "{}", "signature": "AAAA"}"#;
    let answer = lab.curl(&witness, "/v2.5/notifications/revocation", &["--data-binary", body]);
    assert_eq!(answer.body, serde_json::json!({"code": 200, "status": "Success", "results": {}}));
    let text = "> Failed to process revocation: the signature is not by the key of the certificate";
    witness.part().wait_log(text, LIMIT).unwrap();
}

fn openssl(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn what_waits_when_the_agent_ends_is_given_up_or_refused() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let request = ["req", "-x509", "-subj", "/CN=RevocationNotifier", "-days", "2", "-nodes", "-newkey", "rsa:2048"];
    openssl(folder.path(), &[&request[..], &["-keyout", "key", "-out", "cert"]].concat());
    // Two of these may wait, and a third has to wait until it may.
    let text = format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20 | 1 << 19));
    std::fs::write(path("message"), &text).unwrap();
    let padding = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:max"];
    openssl(folder.path(), &[&["dgst", "-sha256"], &padding[..], &["-sign", "key", "-out", "raw", "message"]].concat());
    let signature = String::from_utf8(openssl(folder.path(), &["base64", "-A", "-in", "raw"])).unwrap();
    let body = serde_json::json!({"msg": text, "signature": signature}).to_string();
    std::fs::write(path("body"), body).unwrap();
    std::fs::write(path("slow"), "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(path("slow"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = options()
        .env("KEYLIME_AGENT_REVOCATION_CERT", path("cert"))
        .env("KEYLIME_AGENT_REVOCATION_ACTIONS", "slow")
        .env("KEYLIME_AGENT_REVOCATION_ACTIONS_DIR", path(""));
    let mut agent = lab.agent(&options);
    let caller = agent.caller();
    let data = format!("@{}", path("body"));
    let send = || caller.call("/v2.5/notifications/revocation", &["--data-binary", &data]).unwrap();
    for _ in 0..2 {
        assert_eq!(send().status, 200);
    }
    agent.part().wait_log("> Executing revocation action slow", LIMIT).unwrap();
    let refused = std::thread::scope(|scope| {
        let third = scope.spawn(send);
        let words = "> Received revocation\n";
        agent.part().ready(words, LIMIT, |part| Ok((part.log().matches(words).count() == 3).then_some(()))).unwrap();
        agent.part().signal(Signal::SIGTERM);
        third.join().unwrap()
    });
    let text = "The agent is ending and takes no more revocation messages";
    assert_eq!(refused.body, serde_json::json!({"code": 500, "status": text, "results": {}}));
    assert!(agent.part().wait_end(LIMIT).unwrap().success());
    let log = agent.part().log();
    let text = "WARN  keylime_agent::revocation > Revocation messages given up, as the agent ends: 2, revocation action slow is \
                killed\n";
    assert!(log.contains(text), "{log}");
}

/// The verifier tells nobody but those that have subscribed.
#[test]
fn messages_come_over_zeromq_too() {
    let port = ports::reserve().unwrap();
    let number = port.number().to_string();
    let keylime = KeylimeOptions {
        revocation_notifications: "['zeromq']".to_owned(),
        overrides: vec![("revocations".to_owned(), "zmq_port".to_owned(), number.clone())],
        ..KeylimeOptions::default()
    };
    let actions = tempfile::tempdir().unwrap();
    let subscriber = options()
        .env("KEYLIME_AGENT_ENABLE_REVOCATION_NOTIFICATIONS", "True")
        .env("KEYLIME_AGENT_REVOCATION_NOTIFICATION_IP", "localhost")
        .env("KEYLIME_AGENT_REVOCATION_NOTIFICATION_PORT", &number)
        .env("KEYLIME_AGENT_REVOCATION_ACTIONS_DIR", actions.path().to_str().unwrap());
    let Some(mut hosts) = Hosts::start(keylime, &subscriber) else { return };
    let publisher = hosts.lab.servers.start_publisher().unwrap();
    let waiting = format!("> Waiting for revocation messages on 0mq tcp://localhost:{number}\n");
    hosts.wait_witness(&waiting, 1);
    hosts.fail(1);

    // The publisher goes away for longer than some tries, and comes back.
    let endpoint = format!("revocation messages from tcp://localhost:{number}");
    let refused = format!("cannot connect to 127.0.0.1:{number}: Connection refused (os error 111)");
    let again = format!("DEBUG keylime_agent::revocation::subscriber > Still no {endpoint}: {refused}\n");
    let tries = hosts.witness.part().log().matches(&again).count();
    drop(publisher);
    hosts.lab.servers.stop(Server::Verifier);
    hosts.wait_witness(&again, tries + 2);
    hosts.lab.servers.restart(Server::Verifier).unwrap();
    let _publisher = hosts.lab.servers.start_publisher().unwrap();
    hosts.wait_witness(&waiting, 2);
    // Once before it was there, once when it went, and once when it could not be reached.
    let log = hosts.witness.part().log();
    let warning = format!("WARN  keylime_agent::revocation::subscriber > No {endpoint}, trying again: ");
    assert_eq!(log.matches(&warning).count(), 3, "{log}");
    assert_eq!(log.matches(&format!("{warning}{refused}\n")).count(), 2, "{log}");

    let id = hosts.failing.id().unwrap();
    hosts.other_tpm.tool("tpm2_pcrreset", &["23"]).unwrap();
    let output = hosts.lab.servers.tenant(&["-c", "reactivate", "-u", &id]).unwrap();
    assert!(output.status.success(), "{output:?}");
    hosts.lab.servers.wait_verified(&id, LIMIT).unwrap();
    hosts.fail(2);
    assert!(!hosts.witness.part().log().contains("/notifications/"));
    assert_eq!(hosts.witness.terminate().unwrap().code(), Some(0));
}

/// What answers at the publisher's address.
#[derive(Clone)]
struct Answer {
    begin: Vec<u8>,
    /// Sent again and again as long as somebody takes it, if there is any.
    rest: Vec<u8>,
    pause: Duration,
    /// How many answers to PING have come back.
    pongs: Arc<AtomicUsize>,
}

impl Answer {
    fn new(begin: Vec<u8>, rest: Vec<u8>, pause: Duration) -> Self {
        Self { begin, rest, pause, pongs: Arc::default() }
    }

    fn give(&self, mut stream: TcpStream) {
        let (back, pongs) = (stream.try_clone().unwrap(), Arc::clone(&self.pongs));
        std::thread::spawn(move || count_pongs(back, &pongs));
        let mut given = stream.write_all(&self.begin);
        while given.is_ok() && !self.rest.is_empty() {
            std::thread::sleep(self.pause);
            given = stream.write_all(&self.rest);
        }
        // Stays until the other side goes, which its other thread waits for.
    }
}

fn count_pongs(mut stream: TcpStream, pongs: &AtomicUsize) {
    let (mut piece, mut seen) = ([0; 4096], Vec::new());
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        seen.extend_from_slice(&piece[..read]);
        while let Some(at) = seen.windows(PONG.len()).position(|bytes| bytes == PONG) {
            pongs.fetch_add(1, Ordering::Relaxed);
            seen.drain(..at + PONG.len());
        }
    }
}

/// The answer to a PING without context.
const PONG: &[u8] = b"\x04\x05\x04PONG";

/// ZMTP as RFC 23 and RFC 37 of ZeroMQ have it, written down a second time.
fn greeting(version: u8, mechanism: &str) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = version;
    bytes[12..][..mechanism.len()].copy_from_slice(mechanism.as_bytes());
    bytes
}

fn ready(socket: &str) -> Vec<u8> {
    let length = u8::try_from(socket.len()).unwrap();
    [&b"\x04"[..], &[22 + length], b"\x05READY\x0bSocket-Type", &[0, 0, 0, length], socket.as_bytes()].concat()
}

/// The beginning of a publisher, and what it goes on with.
fn publisher(rest: &[u8]) -> Vec<u8> {
    [greeting(3, "NULL"), ready("PUB"), rest.to_vec()].concat()
}

#[test]
fn a_hostile_publisher_ends_its_connection_and_nothing_else() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    // Some machines have no IPv6.
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(Mutex::new(Answer::new(vec![], vec![], Duration::ZERO)));
    let current = Arc::clone(&answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = current.lock().unwrap().clone();
            std::thread::spawn(move || answer.give(stream.unwrap()));
        }
    });
    let options = options()
        .env("KEYLIME_AGENT_ENABLE_REVOCATION_NOTIFICATIONS", "true")
        .env("KEYLIME_AGENT_REVOCATION_NOTIFICATION_IP", address.ip().to_string())
        .env("KEYLIME_AGENT_REVOCATION_NOTIFICATION_PORT", address.port().to_string())
        .env("KEYLIME_AGENT_REVOCATION_ACTIONS_DIR", "/");
    let mut agent = lab.agent(&options);
    let (waiting, ended) = (
        format!("> Waiting for revocation messages on 0mq tcp://{address}\n"),
        format!("> No revocation messages from tcp://{address}, trying again: the other side "),
    );

    let big = [b"\x02\0\0\0\0\0\x20\0\0".to_vec(), vec![b'a'; 2 << 20]].concat();
    let message = br#"{"msg": "{}", "signature": ""}"#;
    let message = [&[0, u8::try_from(message.len()).unwrap()], &message[..]].concat();
    let at_once = Duration::ZERO;
    let not_our_protocol = "does not speak ZeroMQ's protocol, ZMTP";
    let several = "has sent a message of several parts: expected one";
    for (begin, rest, pause, text) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), b"".to_vec(), at_once, not_our_protocol),
        (vec![], vec![0xff; 1 << 16], at_once, not_our_protocol),
        (
            greeting(2, ""),
            vec![],
            at_once,
            "speaks version 2 of ZMTP: expected version 3, which ZeroMQ 4.0 and later speak",
        ),
        (
            greeting(3, "CURVE"),
            vec![],
            at_once,
            "wants the security mechanism \"CURVE\": expected \"NULL\", as Keylime's verifier has it",
        ),
        (
            [greeting(3, "NULL"), ready("ROUTER")].concat(),
            vec![],
            at_once,
            "is a socket of type \"ROUTER\": expected a publisher, \"PUB\"",
        ),
        (vec![], vec![0xff], Duration::from_secs(1), "did not complete the handshake within 10 s"),
        (
            publisher(b"\x02\xff\xff\xff\xff\xff\xff\xff\xff"),
            vec![b'a'; 1 << 16],
            at_once,
            "has announced a frame of 18446744073709551615 bytes: at most 2097152 are read",
        ),
        (
            publisher(b"\x02\0\0\0\0\0\x20\0\x01"),
            vec![b'a'; 1 << 16],
            at_once,
            "has announced a frame of 2097153 bytes: at most 2097152 are read",
        ),
        (publisher(b""), b"\x01\x01a".repeat(1 << 12), at_once, several),
        (publisher(b""), b"\x01\0".repeat(1 << 12), at_once, several),
        (
            publisher(b""),
            b"\x04\x05\x04NOPE".to_vec(),
            at_once,
            "has sent the command \"NOPE\", which no publisher sends",
        ),
        (publisher(b""), b"\x04\x03\x09AB".to_vec(), at_once, "has sent something else than a command"),
        // These keep to the protocol, and are not what they seem.
        (publisher(b""), b"\x04\x07\x04PING\0\0".repeat(1 << 12), at_once, "PONG"),
        (publisher(b""), b"\0\x05hello".repeat(1 << 12), at_once, "> JSON decode error on 0mq message\n"),
        (publisher(b""), big, at_once, "> JSON decode error on 0mq message\n"),
        (publisher(b""), message.repeat(1 << 12), at_once, "> Revocation certificate not yet available\n"),
    ] {
        let now = Answer::new(begin, rest, pause);
        *answer.lock().unwrap() = now.clone();
        agent.restart().unwrap();
        let is_ping = text == "PONG";
        let is_an_end = !text.starts_with('>') && !is_ping;
        let words = if is_an_end { format!("{ended}{text}\n") } else { waiting.clone() };
        agent.part().ready(&words, LIMIT, |part| Ok(part.log().contains(&words).then_some(()))).unwrap();
        let is_seen = |log: String| if is_ping { now.pongs.load(Ordering::Relaxed) > 1 } else { log.contains(text) };
        agent.part().ready(text, LIMIT, |part| Ok(is_seen(part.log()).then_some(()))).unwrap();
        // It goes on while the TPM and the REST API are asked.
        for _ in 0..5 {
            assert_eq!(lab.curl(&agent, "/v2.5/quotes/identity?nonce=abc", &[]).status, 200, "{text}");
        }
        assert!(peak_rss_kib(agent.part().pid()).unwrap() < 40 << 10, "{text}");
        assert!(is_an_end || !agent.part().log().contains(&ended), "{}", agent.part().log());
        assert_eq!(now.pongs.load(Ordering::Relaxed) > 0, is_ping, "{text}");
    }

    // Whoever was bad may be replaced by a good one.
    *answer.lock().unwrap() = Answer::new(greeting(2, ""), vec![], at_once);
    agent.restart().unwrap();
    agent.part().wait_log(&ended, LIMIT).unwrap();
    *answer.lock().unwrap() = Answer::new(publisher(&message), vec![], at_once);
    agent.part().wait_log("> Revocation certificate not yet available", LIMIT).unwrap();
    assert_eq!(agent.part().log().matches(&ended).count(), 1);
    assert_eq!(agent.terminate().unwrap().code(), Some(0));
}
