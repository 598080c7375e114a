// SPDX-License-Identifier: Apache-2.0
//! A wall clock that is not set yet, and one that jumps.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use test_support::ca::LeafSpec;
use test_support::{KeylimeAgent, KeylimeOptions, TestCa, require, wait};
use tls::rustls::HandshakeKind;

use crate::honest::HonestVerifier;
use crate::network::{client, handshake};
use crate::support::{LIMIT, Lab, options};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

#[test]
fn the_clock_may_jump() {
    let (Some(cc), Some(lab)) = (require::program("cc"), Lab::start(KeylimeOptions::default())) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (library, offset) = (folder.path().join("clock.so"), folder.path().join("offset"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/clock.c");
    let compiled = Command::new(cc).args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(compiled.success());
    let file = std::fs::File::create(&offset).unwrap();
    let set = |seconds: i64| file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();

    // A host without a battery begins in 1970, where no certificate is valid.
    set(HOUR - i64::try_from(now()).unwrap());
    let callers = TestCa::root("callers").unwrap();
    let ca = folder.path().join("callers.crt");
    std::fs::write(&ca, callers.pem()).unwrap();
    let options = options()
        .env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", format!("{}, {}", lab.servers.ca_cert().display(), ca.display()))
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("CLOCK_OFFSET", offset.to_str().unwrap())
        .env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_INITIAL_DELAY", "100")
        .env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_MAX_DELAY", "500");
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    agent.part().wait_log("Z on, and it is 1970-01-01T01:00:", LIMIT).unwrap();
    agent.part().wait_log("> Trying to register again in ", LIMIT).unwrap();
    set(0);
    agent.wait_listening().unwrap();
    // The certificate that was made in 1970 is good today.
    let certificate = agent.folder.join("server-cert.crt");
    let validity = tls::load_validity(&certificate, tls::FileKind::Certificate).unwrap();
    assert!(validity[0].not_after > SystemTime::now() + Duration::from_secs(YEAR.unsigned_abs()), "{validity:?}");
    let id = agent.id().unwrap();
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();

    // Back and forth, as far as the verifier's certificate is valid.
    let verifier = HonestVerifier::of(&lab, &agent, None);
    for seconds in [60, 24 * HOUR, 100 * 24 * HOUR, 0, 30 * 24 * HOUR, 0] {
        set(seconds);
        lab.wait_quotes(&id, 2);
    }
    verifier.was_content();
    // Beyond it nobody is let in, and the log says why, until the clock is right again.
    set(20 * YEAR);
    assert!(agent.get("/version").is_err());
    agent.part().wait_log("expired", LIMIT).unwrap();
    set(0);
    assert_eq!(agent.get("/version").unwrap().status, 200);

    // Nor does a resumed session last longer than its certificate.
    let refusals =
        |agent: &mut KeylimeAgent| agent.part().log().matches("failed: the peer's certificate expired on ").count();
    let spec = LeafSpec { not_after: SystemTime::now() + Duration::from_secs(3600), ..LeafSpec::new("caller") };
    let (cert, key) = callers.issue(&spec).unwrap().write(folder.path(), "caller").unwrap();
    let config = client(&agent, (&cert, &key));
    let ask = |agent: &KeylimeAgent| -> std::io::Result<_> {
        let mut stream = handshake(agent, &config)?;
        stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok((stream.conn.handshake_kind(), answer.starts_with("HTTP/1.1 200 ")))
    };
    assert_eq!(ask(&agent).unwrap(), (Some(HandshakeKind::Full), true));
    assert_eq!(ask(&agent).unwrap(), (Some(HandshakeKind::Resumed), true));
    let before = refusals(&mut agent);
    set(2 * HOUR);
    assert!(!matches!(ask(&agent), Ok((_, true))));
    wait::until("the refusal in the log", LIMIT, || Ok((refusals(&mut agent) > before).then_some(()))).unwrap();
    set(-HOUR);
    assert!(agent.terminate().unwrap().success());
}
