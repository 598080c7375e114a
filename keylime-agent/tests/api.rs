// SPDX-License-Identifier: Apache-2.0
//! The REST API as it is seen on the wire, by curl and by raw sockets.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use support::{Lab, options, text};
use test_support::keylime::{HttpAnswer, curl};
use test_support::payload::encrypt;
use test_support::process::peak_rss_kib;
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, require};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::{node_key_matches, verify_quote};

/// Checks a quote as the server plugin does and that PCR 16 is bound to the key.
fn check_quote(lab: &Lab, id: &str, quote: &str, nonce: &str, pubkey: &str) {
    let quote: QuoteString = quote.parse().unwrap();
    let ak = lab.registered_ak(id);
    let verified = verify_quote(&quote, &ak, nonce.as_bytes(), HashAlgorithm::Sha256).unwrap();
    assert_eq!(node_key_matches(&verified.pcrs, pubkey), Some(true));
}

fn refused(answer: &HttpAnswer, status: u16, text: &str, allow: Option<&str>) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.body, json!({"code": status, "status": text, "results": {}}));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("allow"), allow);
}

#[test]
fn resources_and_refusals() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let agent = lab.agent(&options());
    let id = agent.id().unwrap();
    let get = |path: &str| lab.curl(&agent, path, &[]);
    let post = |path: &str, body: &str| {
        lab.curl(&agent, path, &["--data-binary", body, "--header", "Content-Type: application/json"])
    };

    let version = get("/version");
    assert_eq!(version.status, 200);
    assert_eq!(version.header("content-type"), Some("application/json"));
    let all = ["2.1", "2.2", "2.3", "2.4", "2.5", "2.6"];
    let results = json!({"supported_version": "2.6", "supported_versions": all});
    assert_eq!(version.body, json!({"code": 200, "status": "Success", "results": results}));

    let info = get("/v2.2/agent/info").results().clone();
    assert_eq!(info["agent_uuid"], id.as_str());
    assert_eq!(info["tpm_hash_alg"], "sha256");
    assert_eq!(info["tpm_enc_alg"], "rsa");
    assert_eq!(info["tpm_sign_alg"], "rsassa");
    assert!(info["ak_handle"].as_u64().is_some_and(|handle| handle >> 24 == 0x80));
    assert_eq!(get("/v2.6/agent/info").results()["tpm_enc_alg"], "rsa2048");

    let pubkey = get("/v2.1/keys/pubkey").results()["pubkey"].as_str().unwrap().to_owned();
    assert!(pubkey.starts_with("-----BEGIN PUBLIC KEY-----\n") && pubkey.ends_with("-----END PUBLIC KEY-----\n"));

    // Quotes, with exactly the members they should have.
    let nonce = "1234567890ABCDEFabcd";
    let identity = get(&format!("/v2.5/quotes/identity?nonce={nonce}")).results().clone();
    let members = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&identity), ["enc_alg", "hash_alg", "pubkey", "quote", "sign_alg"]);
    assert_eq!(identity["enc_alg"], "rsa2048");
    assert_eq!(identity["pubkey"], pubkey.as_str());
    check_quote(&lab, &id, text(&identity, "quote"), nonce, &pubkey);
    let partial = get(&format!("/v2.4/quotes/integrity?nonce={nonce}&mask=0x800001&partial=1")).body;
    assert_eq!(members(&partial["results"]), ["enc_alg", "hash_alg", "quote", "sign_alg"]);
    assert_eq!(partial["results"]["enc_alg"], "rsa");
    check_quote(&lab, &id, text(&partial["results"], "quote"), nonce, &pubkey);
    let whole = get(&format!("/v2.4/quotes/integrity?nonce={nonce}&mask=10408&partial=0")).body;
    assert_eq!(whole["results"]["pubkey"], pubkey.as_str());

    // Refusals of parameters.
    let long = "a".repeat(65);
    for (path, text) in [
        ("identity".to_owned(), "Query deserialize error: missing field `nonce`".to_owned()),
        ("identity?nonce=a&nonce=b".to_owned(), "Query deserialize error: duplicate field `nonce`".to_owned()),
        ("identity?nonce=".to_owned(), "The nonce must not be empty".to_owned()),
        ("identity?nonce=a%20b".to_owned(), "Parameters should be strictly alphanumeric: a b".to_owned()),
        ("identity?nonce=%C3%A9".to_owned(), "Parameters should be strictly alphanumeric: é".to_owned()),
        (format!("identity?nonce={long}"), format!("Nonce is too long (max size 64): {long}")),
        ("integrity?nonce=a".to_owned(), "Query deserialize error: missing field `mask`".to_owned()),
        ("integrity?nonce=a&mask=1".to_owned(), "Query deserialize error: missing field `partial`".to_owned()),
        ("integrity?nonce=%22&mask=1&partial=0".to_owned(), "nonce should be strictly alphanumeric: \"".to_owned()),
        ("integrity?nonce=a&mask=-1&partial=0".to_owned(), "mask should be strictly alphanumeric: -1".to_owned()),
        (
            "integrity?nonce=a&mask=xyz&partial=0".to_owned(),
            "mask should be a hex encoded 32-bit integer: xyz".to_owned(),
        ),
        (
            "integrity?nonce=a&mask=1000000&partial=0".to_owned(),
            "mask should select PCRs 0 to 23 only: 1000000".to_owned(),
        ),
        (format!("integrity?nonce={long}&mask=1&partial=0"), "Nonce is too long (max size: 64): 65".to_owned()),
        (
            "integrity?nonce=a&mask=1&partial=2".to_owned(),
            "uri must contain key 'partial' and value '0' or '1'".to_owned(),
        ),
    ] {
        refused(&get(&format!("/v2.5/quotes/{path}")), 400, &text, None);
    }

    // Refusals of halves of the bootstrap key.
    for (body, text) in [
        ("{", "Json deserialize error: EOF while parsing an object at line 1 column 1"),
        (r#"{"auth_tag":""}"#, "Json deserialize error: missing field `encrypted_key` at line 1 column 15"),
        (
            r#"{"auth_tag":"","encrypted_key":"*"}"#,
            "Invalid base64 encoding in encrypted_key: Invalid symbol 42, offset 0.",
        ),
        (
            r#"{"auth_tag":"","encrypted_key":"AAAA"}"#,
            "Failed to decrypt encrypted_key: it is not encrypted with RSA-OAEP (SHA-1) for this agent's public key",
        ),
    ] {
        refused(&post("/v2.5/keys/ukey", body), 400, text, None);
    }
    let half_of = |length: usize| STANDARD.encode(encrypt(&pubkey, &vec![7; length]).unwrap());
    let half = half_of(32);
    let body = |tag: &str, payload: &str| format!(r#"{{"auth_tag":"{tag}","encrypted_key":"{half}"{payload}}}"#);
    let tag = "00".repeat(48);
    for (body, text) in [
        (body("x", ""), "Invalid hex encoding in auth_tag: Odd number of digits"),
        (body("00", ""), "Invalid auth_tag: auth_tag has 1 bytes, not 48"),
        (body(&tag, r#","payload":"*""#), "Invalid base64 encoding in payload: Invalid symbol 42, offset 0."),
    ] {
        refused(&post("/v2.5/keys/ukey", &body), 400, text, None);
    }
    let short = format!(r#"{{"auth_tag":"{tag}","encrypted_key":"{}"}}"#, half_of(31));
    refused(
        &post("/v2.5/keys/ukey", &short),
        400,
        "Invalid decrypted key: a key half has 16 or 32 bytes, not 31",
        None,
    );
    refused(
        &post("/v2.5/keys/vkey", &short),
        400,
        "Decrypted key is invalid: a key half has 16 or 32 bytes, not 31",
        None,
    );
    let success = json!({"code": 200, "status": "Success", "results": {}});
    assert_eq!(post("/v2.5/keys/ukey", &body(&tag, "")).body, success);
    assert_eq!(post("/v2.5/keys/vkey", &format!(r#"{{"encrypted_key":"{half}"}}"#)).body, success);
    for (query, text) in [
        ("", "Query deserialize error: missing field `challenge`"),
        ("?challenge=", "No challenge provided."),
        ("?challenge=a-b", "Parameters should be strictly alphanumeric: a-b"),
        ("?challenge=ab", "Bootstrap key not yet available."),
    ] {
        refused(&get(&format!("/v2.5/keys/verify{query}")), 400, text, None);
    }
    let huge = agent.scratch().join("huge");
    std::fs::write(&huge, vec![b'a'; (2 << 20) + 1]).unwrap();
    refused(
        &post("/v2.5/keys/ukey", &format!("@{}", huge.display())),
        413,
        "The request body is larger than 2097152 bytes",
        None,
    );

    // Unknown paths; all others are in the unit tests.
    refused(&get("/v3.0/agents"), 400, "API version not supported: v3.0", None);
    let put = |path| lab.curl(&agent, path, &["--request", "PUT"]);
    refused(&put("/v2.5/keys/x"), 405, "Method is not supported in /keys interface", Some("GET, POST"));
    let wrong = put("/version");
    assert_eq!((wrong.status, wrong.header("allow"), wrong.body.as_str()), (405, Some("GET"), Some("")));
    assert_eq!(wrong.header("content-type"), None);

    // What is secret is not logged.
    let log = std::fs::read_to_string(agent.scratch().join("agent.log")).unwrap();
    assert!(!log.contains(nonce) && !log.contains(&half[..20]), "{log}");
}

#[test]
fn logs_are_sent_as_asked_for() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (ima, boot) = (folder.path().join("ima"), folder.path().join("boot"));
    let line = |n: u32| format!("10 {n:040x} ima-ng sha256:{n:064x} /usr/bin/\"quoted\"\\{n}\n");
    let lines = |range: std::ops::Range<u32>| range.map(line).collect::<String>();
    std::fs::write(&ima, lines(0..10)).unwrap();
    let mut event_log: Vec<u8> = (0..=255).cycle().take(30_000).collect();
    std::fs::write(&boot, &event_log).unwrap();
    let mut agent = lab.agent(
        &options()
            .env("KEYLIME_AGENT_IMA_ML_PATH", ima.to_str().unwrap())
            .env("KEYLIME_AGENT_MEASUREDBOOT_ML_PATH", boot.to_str().unwrap()),
    );
    let get = |mask: &str, entry: &str| {
        let path = format!("/v2.5/quotes/integrity?nonce=abc&mask={mask}&partial=1{entry}");
        lab.curl(&agent, &path, &[])
    };
    let results = |mask: &str, entry: &str| get(mask, entry).results().clone();

    let nothing = results("0x800000", "");
    assert_eq!(nothing.as_object().unwrap().len(), 4, "{nothing}");
    let both = results("0x401", "&ima_ml_entry=8");
    assert_eq!(text(&both, "mb_measurement_list"), STANDARD.encode(&event_log));
    assert_eq!(both["ima_measurement_list_entry"], 8);
    assert_eq!(text(&both, "ima_measurement_list"), lines(8..10));
    let boottime = both["boottime"].as_u64().unwrap();
    assert!((1_000_000_000..4_000_000_000).contains(&boottime));
    for (entry, first, expected) in [
        ("", 0, lines(0..10)),
        ("&ima_ml_entry=0", 0, lines(0..10)),
        ("&ima_ml_entry=10", 10, String::new()),
        ("&ima_ml_entry=11", 0, lines(0..10)),
        ("&ima_ml_entry=x", 0, lines(0..10)),
    ] {
        let results = results("400", entry);
        assert_eq!(results["ima_measurement_list_entry"], first, "{entry}");
        assert_eq!(text(&results, "ima_measurement_list"), expected, "{entry}");
        assert_eq!(results.get("mb_measurement_list"), None);
    }

    // The logs grow.
    let append =
        |path, bytes: &[u8]| std::fs::File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
    append(&ima, lines(10..12).as_bytes());
    append(&boot, b"more");
    event_log.extend(b"more");
    let both = results("0x401", "&ima_ml_entry=10");
    assert_eq!(text(&both, "ima_measurement_list"), lines(10..12));
    assert_eq!(text(&both, "mb_measurement_list"), STANDARD.encode(&event_log));

    // A long list is sent in pieces and not held in memory.
    append(&ima, lines(12..200_000).as_bytes());
    let long = get("400", "");
    assert_eq!(long.header("transfer-encoding"), Some("chunked"));
    let long = long.results().clone();
    assert_eq!(long["ima_measurement_list_entry"], 0);
    assert!(text(&long, "ima_measurement_list") == lines(0..200_000), "the list differs");
    let late = results("400", "&ima_ml_entry=199990");
    assert_eq!(text(&late, "ima_measurement_list"), lines(199_990..200_000));
    let peak = peak_rss_kib(agent.part().pid()).unwrap();
    println!("peak memory {peak} kB with a list of {} kB", lines(0..200_000).len() / 1000);
    assert!(peak < 40_000, "{peak} kB");
}

#[test]
fn silent_connections_do_not_get_in_the_way() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let address = ("127.0.0.1", agent.port);
    let ask = || lab.curl(&agent, "/v2.5/quotes/identity?nonce=abc", &[]).status;
    let mut silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let start = Instant::now();
    assert_eq!(ask(), 200);
    silent.extend((0..400).map(|_| TcpStream::connect(address).unwrap()));
    assert_eq!(ask(), 200);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // They do not stay: the handshake has a time limit.
    let last = silent.last_mut().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0);
    assert_eq!(ask(), 200);
    // Nor do they delay the end.
    let silent = TcpStream::connect(address).unwrap();
    assert_eq!(ask(), 200);
    assert!(agent.terminate().unwrap().success());
    let log = agent.part().log();
    assert!(!log.contains("requests in progress"), "{log}");
    drop(silent);
}

#[test]
fn only_clients_of_the_configured_authority_are_heard() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let url = format!("https://127.0.0.1:{}/version", agent.port);
    let status = |arguments: &[&str]| {
        let answer = curl(&[&["--insecure", &url], arguments].concat());
        answer.ok().map(|answer| answer.status)
    };
    assert_eq!(status(&[]), None);
    let folder = tempfile::tempdir().unwrap();
    let foreign = test_support::TestCa::root("foreign").unwrap();
    let client = foreign.issue(&test_support::ca::LeafSpec::new("client").client_only()).unwrap();
    let (cert, key) = client.write(folder.path(), "client").unwrap();
    assert_eq!(status(&["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()]), None);
    let (cert, key) = (lab.servers.client_cert(), lab.servers.client_key());
    for version in ["1.2", "1.3"] {
        let max = ["--tlsv1.2", "--tls-max", version, "--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
        assert_eq!(status(&max), Some(200), "TLS {version}");
    }
    let log = agent.part().wait_log("TLS handshake with 127.0.0.1:", support::LIMIT).unwrap();
    assert!(log.contains(" failed: "), "{log}");
}

#[test]
fn the_unix_socket_answers_allowed_users_only() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("agent.sock");
    let socket_text = socket.to_str().unwrap().to_owned();
    let with_socket =
        options().env("KEYLIME_AGENT_UNIX_SOCKET_PATH", &socket_text).env("KEYLIME_AGENT_UNIX_SOCKET_MODE", "0666");
    let mut agent = lab.agent(&with_socket);
    assert!(support::has_mode(&socket, 0o666));
    let id = agent.id().unwrap();
    let ask = |path: &str| curl(&["--unix-socket", &socket_text, &format!("http://localhost{path}")]).unwrap();
    assert_eq!(ask("/v2.5/agent/info").results()["agent_uuid"], id.as_str());
    assert_eq!(ask("/v2.5/quotes/identity?nonce=abc").status, 200);
    assert!(agent.part().log().contains("> GET invoked from \"uid "));

    // Killed and started again: the socket it has left is replaced.
    agent.restart().unwrap();
    assert_eq!(ask("/version").status, 200);

    if require::root().is_some() {
        let as_nobody = |socket: &str| {
            let output = std::process::Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "--silent", "--include"])
                .args(["--max-time", "10", "--unix-socket", socket, "http://localhost/version"])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let answer = as_nobody(&socket_text);
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
        let body = r#"{"code":403,"status":"This user is not in option unix_socket_allowed_users","results":{}}"#;
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
        agent.part().wait_log("> Unix socket: uid 65534 pid ", support::LIMIT).unwrap();
        assert!(agent.terminate().unwrap().success());
        assert!(!socket.exists());
        let allowed = with_socket.env("KEYLIME_AGENT_UNIX_SOCKET_ALLOWED_USERS", "65534");
        let _agent = lab.agent(&KeylimeAgentOptions { folder: Some(agent.folder.clone()), ..allowed });
        assert!(as_nobody(&socket_text).starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(ask("/version").status, 403);
    }
}

#[test]
fn run_as_gives_up_root() {
    let (Some(()), Some(mut lab)) = (require::root(), Lab::start(KeylimeOptions::default())) else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let keylime = folder.path().join("keylime");
    std::fs::create_dir(&keylime).unwrap();
    // Readable by root alone: opened before the change of the user.
    let ima = folder.path().join("ima");
    std::fs::write(&ima, "10 0 ima-ng sha256:0 /x\n").unwrap();
    std::fs::set_permissions(&ima, std::fs::Permissions::from_mode(0o400)).unwrap();
    let ca = folder.path().join("cacert.crt");
    std::fs::copy(lab.servers.ca_cert(), &ca).unwrap();
    std::fs::set_permissions(&ca, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&keylime, Some(65534), Some(65534)).unwrap();
    let ca = ca.to_str().unwrap();
    let options = KeylimeAgentOptions { folder: Some(keylime.clone()), ..options() }
        .env("KEYLIME_AGENT_RUN_AS", "nobody:nogroup")
        .env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", ca)
        .env("KEYLIME_AGENT_REGISTRAR_TLS_CA_CERT", ca)
        .env("KEYLIME_AGENT_IMA_ML_PATH", ima.to_str().unwrap());
    let mut agent = lab.agent(&options);
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.part().pid())).unwrap();
    let line =
        |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(line("Uid:"), ["Uid:", "65534", "65534", "65534", "65534"]);
    assert_eq!(line("Gid:"), ["Gid:", "65534", "65534", "65534", "65534"]);
    assert_eq!(line("Groups:"), ["Groups:", "65534"]);
    assert!(line("CapEff:")[1].bytes().all(|digit| digit == b'0'));
    let quote = lab.curl(&agent, "/v2.5/quotes/integrity?nonce=abc&mask=400&partial=1", &[]).body;
    assert_eq!(text(&quote["results"], "ima_measurement_list"), "10 0 ima-ng sha256:0 /x\n");
    assert!(agent.part().log().contains("> Running the service as nobody:nogroup...\n"));
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(std::fs::metadata(keylime.join("agent_data.json")).unwrap().uid(), 65534);
    drop(agent);

    let wrong = options.env("KEYLIME_AGENT_RUN_AS", "no-such-user:tss");
    let (code, log) = lab.failing_agent(&wrong);
    assert_eq!(code, Some(2));
    let text = "> option 'run_as' (environment variable KEYLIME_AGENT_RUN_AS): there is no user 'no-such-user'\n";
    assert!(log.contains(text), "{log}");
    lab.tpm.flush_transient().unwrap();
    lab.tpm.power_off();
}

#[test]
fn a_tpm_that_was_reset_is_used_again() {
    let Some(mut lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let id = agent.id().unwrap();
    let pubkey = lab.curl(&agent, "/v2.5/keys/pubkey", &[]).results()["pubkey"].as_str().unwrap().to_owned();
    lab.tpm.power_off();
    // For the verifier this has to be a fault that passes.
    refused(&lab.curl(&agent, "/v2.5/quotes/identity?nonce=abc", &[]), 500, "Unable to retrieve quote", None);
    lab.tpm.power_on().unwrap();
    let start = Instant::now();
    let answer = loop {
        let answer = lab.curl(&agent, "/v2.5/quotes/identity?nonce=abc", &[]);
        if answer.status == 200 || start.elapsed() > support::LIMIT {
            break answer;
        }
        assert_eq!(answer.status, 500, "{answer:?}");
    };
    check_quote(&lab, &id, text(answer.results(), "quote"), "abc", &pubkey);
    assert!(agent.terminate().unwrap().success());
    assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new());
}

#[test]
fn a_second_agent_on_the_same_port_changes_nothing() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let agent = lab.agent(&options());
    let id = agent.id().unwrap();
    let count = || lab.servers.registrar_agent(&id).unwrap().unwrap()["regcount"].clone();
    let before = count();
    let port = agent.port.to_string();
    let (code, log) = lab.failing_agent(&options().env("KEYLIME_AGENT_PORT", port.clone()));
    assert_eq!(code, Some(1));
    let text = format!("> cannot listen on 127.0.0.1:{port} (options 'ip' and 'port'): Address already in use");
    assert!(log.contains(&text), "{log}");
    assert_eq!(count(), before);
    assert_eq!(lab.curl(&agent, "/v2.5/quotes/identity?nonce=abc", &[]).status, 200);
}

#[test]
fn one_of_several_agents_started_at_once_works_with_a_folder() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let options = KeylimeAgentOptions { folder: Some(folder.path().to_owned()), ..options() }
        .env("KEYLIME_AGENT_UNIX_SOCKET_PATH", socket.to_str().unwrap());
    let launch = || KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    let mut agents: Vec<_> = (0..4).map(|_| launch()).collect();
    let pids: Vec<_> = agents.iter_mut().map(|agent| agent.part().pid()).collect();
    let lock = folder.path().join("keylime_agent.lock");
    // The one that has it.
    let mut first = None;
    test_support::wait::until("a registered agent", support::LIMIT, || {
        first = agents.iter_mut().position(|agent| agent.part().log().contains("> Listening on Unix socket "));
        Ok(first)
    })
    .unwrap();
    let first = first.unwrap();
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), format!("{}\n", pids[first]));
    let text = format!(
        "> another keylime_agent (process {}) works with the folder {}: stop it, or give this one another keylime_dir \
         (lock file {})\n",
        pids[first],
        folder.path().display(),
        lock.display()
    );
    for (index, agent) in agents.iter_mut().enumerate().filter(|(index, _)| *index != first) {
        assert_eq!(agent.part().wait_end(support::LIMIT).unwrap().code(), Some(1));
        assert!(agent.part().log().ends_with(&text), "{index}: {}", agent.part().log());
    }
    assert!(socket.exists());
    assert_eq!(lab.curl(&agents[first], "/v2.5/quotes/identity?nonce=abc", &[]).status, 200);

    // Another folder and the same socket.
    let other = self::options().env("KEYLIME_AGENT_UNIX_SOCKET_PATH", socket.to_str().unwrap());
    let (code, log) = lab.failing_agent(&other);
    assert_eq!(code, Some(1));
    let text = format!("> another keylime_agent (process {}) works with the Unix socket ", pids[first]);
    assert!(log.contains(&text), "{log}");

    // A killed one leaves nothing in the way, one that ends leaves nothing.
    agents[first].part().kill();
    assert!(lock.exists());
    let mut next = lab.agent(&options);
    assert!(next.terminate().unwrap().success());
    assert!(!lock.exists() && !socket.exists() && !folder.path().join("agent.sock.lock").exists());
}
