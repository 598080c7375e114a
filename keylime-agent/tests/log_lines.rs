// SPDX-License-Identifier: Apache-2.0
//! What Keylime's functional tests and operators look for in the agent's log, with grep, as they do it. Lines that go with
//! a feature are also looked for where that feature is tested.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use support::{BINARY, LIMIT, Lab};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, Swtpm, SwtpmOptions, require, wait};

/// The level that Keylime's test library sets.
const TRACE: &str = "keylime_agent=trace,keylime=trace";

fn options() -> KeylimeAgentOptions {
    KeylimeAgentOptions { log: TRACE.to_owned(), ..support::options() }
}

/// Whether grep finds the pattern; with `-E` if it has an alternative.
fn grep(log: &str, pattern: &str) -> bool {
    let kind = if pattern.contains('|') { "-Eq" } else { "-q" };
    let mut grep = Command::new("grep").args([kind, "-e", pattern]).stdin(Stdio::piped()).spawn().unwrap();
    // It may have seen enough before the end.
    let _ = grep.stdin.take().unwrap().write_all(log.as_bytes());
    grep.wait().unwrap().success()
}

fn has_all(log: &str, patterns: &[&str]) {
    for pattern in patterns {
        assert!(grep(log, pattern), "{pattern}\n{log}");
    }
}

/// Each line is a message: ` LEVEL target > message`.
fn is_regular(log: &str) {
    for line in log.lines() {
        let is_regular = line.split_once(" > ").is_some_and(|(head, _)| {
            let level = [" ERROR ", " WARN  ", " INFO  ", " DEBUG ", " TRACE "];
            let target = level.iter().find_map(|level| head.strip_prefix(level));
            target.is_some_and(|target| target.bytes().all(|b| b.is_ascii_lowercase() || b"_:0123456789".contains(&b)))
        });
        assert!(is_regular && !line.chars().any(char::is_control), "{line:?}");
    }
}

/// The last lines, as `tail` shows them.
fn tail(log: &str, lines: usize) -> String {
    let all: Vec<_> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[test]
fn from_the_start_to_the_end() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let (id, port) = (agent.id().unwrap(), agent.port);
    let folder = agent.folder.canonicalize().unwrap();
    let secure = format!("Directory \"{}/secure\" created", folder.display());
    let data = agent.folder.join("agent_data.json");
    has_all(
        &agent.part().log(),
        &[
            "> Starting server with API version.*2\\.1.*2\\.2.*2\\.3.*2\\.4.*2\\.5.*2\\.6$",
            &secure,
            "> INSECURE: Keylime is using a software TPM emulator",
            &format!("> Agent Data not found in: {}$", data.display()),
            "> Using hashed EK as UUID$",
            &format!("> Agent UUID: {id}$"),
            "> Configuration replaced by KEYLIME_AGENT_CONFIG: /",
            "> Building Registrar client: scheme=https",
            "> Requesting registrar API version",
            &format!("> Requesting agent registration from https://127.0.0.1:.* for {id}$"),
            &format!("SUCCESS: Agent {id} registered"),
            &format!("> Requesting agent activation from https://127.0.0.1:.* for {id}$"),
            &format!("SUCCESS: Agent {id} activated"),
            &format!("INFO  keylime_agent.* > Listening on https://127.0.0.1:{port}$"),
            "^ DEBUG keylime_agent",
            "^ TRACE ",
        ],
    );
    assert!(!grep(&agent.part().log(), "ERROR"));

    // Requests, refused ones at WARN, and what strangers would like to have in the log.
    let log_of = |agent: &mut KeylimeAgent, path: &str| {
        let before = agent.part().log().len();
        lab.curl(agent, path, &[]);
        agent.part().log()[before..].to_owned()
    };
    for (path, level, line) in [
        ("/v2.5/quotes/identity?nonce=abc", "INFO ", "GET identity quote returning 200 response"),
        ("/v2.5/quotes/integrity?nonce=abc&mask=1&partial=1", "INFO ", "GET integrity quote returning 200 response"),
        ("/v2.5/keys/pubkey", "INFO ", "GET pubkey returning 200 response\\."),
        ("/v2.5/agent/info", "INFO ", "GET info returning 200 response"),
        (
            "/v2.5/quotes/identity?nonce=a%0Ab",
            "WARN ",
            "Get quote returning 400 response\\. Parameters should be strictly",
        ),
        ("/v2.5/keys/verify?challenge=abc", "WARN ", "GET key challenge returning 400 response\\. Bootstrap key not"),
        ("/v2.5/nothing%0A/%1b%5b31m", "WARN ", "GET returning 40[04] response\\."),
    ] {
        let log = log_of(&mut agent, path);
        let uri = path.split('?').next().unwrap();
        let request = format!("> GET invoked from \"127.0.0.1:.*\" with uri {uri}$");
        has_all(&log, &[&request, &format!("^ {level} keylime_agent.* > {line}")]);
    }
    let body = "{\"msg\": \"x\\n ERROR keylime_agent > forged\", \"signature\": \"\\u001b[31m\\n\"}";
    lab.curl(&agent, "/v2.5/notifications/revocation", &["--data-binary", body]);
    let mut raw = TcpStream::connect(("127.0.0.1", port)).unwrap();
    raw.write_all(b"GET / HTTP/1.1\n ERROR forged\r\n\x1b[31m\r\n\r\n").unwrap();
    let _ = raw.read_to_end(&mut Vec::new());
    agent.part().wait_log("> TLS handshake with 127.0.0.1:", LIMIT).unwrap();
    assert!(!grep(&agent.part().log(), "^ ERROR.* forged|> forged"));

    assert!(agent.terminate().unwrap().success());
    let log = agent.part().log();
    is_regular(&log);
    // At trace level the TPM's last commands follow.
    has_all(&tail(&log, 10), &["> Shutting down keylime agent$"]);
    agent.restart().unwrap();
    has_all(&agent.part().log(), &[&format!("> Loaded old AK key from {}$", data.display())]);
}

#[test]
fn settings_show() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    // One AK for all.
    let folder = tempfile::tempdir().unwrap();
    let options = || KeylimeAgentOptions { folder: Some(folder.path().to_owned()), ..options() };
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let unused =
        |name: &str, value: &str| options().env("KEYLIME_AGENT_REGISTRAR_TLS_ENABLED", "false").env(name, value);
    let unreachable = unused("KEYLIME_AGENT_REGISTRAR_PORT", &nobody);
    let (ima, boot) = ("KEYLIME_AGENT_IMA_ML_PATH", "KEYLIME_AGENT_MEASUREDBOOT_ML_PATH");
    for (options, patterns, absent) in [
        (
            options().env("KEYLIME_AGENT_API_VERSIONS", "2.5"),
            vec!["Starting server with API versions: 2\\.5$", "> Listening on "],
            "2\\.6$",
        ),
        (
            options().env("KEYLIME_AGENT_API_VERSIONS", "9.9, 2.1"),
            vec![
                "> Skipping API version \"9\\.9\" obtained from 'api_versions' configuration option (environment variable KEYLIME_AGENT_API_VERSIONS)$",
                "Starting server with API versions: 2\\.1$",
            ],
            "ERROR",
        ),
        (
            KeylimeAgentOptions { uuid: "generate".to_owned(), ..options() },
            vec!["Generated a new UUID: ", "> Listening on "],
            "ERROR",
        ),
        // An address that nobody has (RFC 5737).
        (
            unused("KEYLIME_AGENT_REGISTRAR_IP", "192.0.2.4"),
            vec!["Environment configuration registrar_ip=192.0.2.4", "connecting to 192.0.2.4"],
            "connecting to 127\\.0\\.0\\.1",
        ),
        (
            unreachable.clone(),
            vec![
                "Requesting registrar API version",
                "Network error.*connection failed",
                "> Trying to register again in ",
            ],
            "ERROR",
        ),
        (
            unreachable.env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_MAX_RETRIES", "0"),
            vec![
                "^ ERROR keylime_agent > Failed to register agent after retrying: ",
                "^ ERROR keylime_agent > Exiting due to registration failure\\.$",
            ],
            "Listening",
        ),
        (
            KeylimeAgentOptions { mtls: false, ..options() },
            vec!["mTLS disabled, Tenant and Verifier will reach out to agent via HTTP$", "> Listening on http://127"],
            "Listening on https",
        ),
        (
            options().env("KEYLIME_AGENT_ENABLE_AGENT_MTLS", "False"),
            vec![
                "enable_insecure_payload. has to be set to .True.",
                "> Configuration error: The agent mTLS is disabled",
            ],
            "Starting server",
        ),
        (
            options().env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", ""),
            vec!["> Agent mTLS is enabled, but trusted_client_ca option was not provided$"],
            "Starting server",
        ),
        (
            options().env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", "/nowhere.crt"),
            vec![
                "> Could not load certs from /nowhere.crt",
                "> Trusted client CA certificate list is empty: could not load any certificate",
            ],
            "Starting server",
        ),
        (
            options().env("KEYLIME_AGENT_SERVER_CERT", ""),
            vec!["> Empty string provided in configuration option server_cert, using default /"],
            "ERROR",
        ),
        (
            options().env(ima, "/nowhere/ima").env(boot, "/nowhere/boot"),
            vec![
                "> IMA measurement list location override: /nowhere/ima$",
                "> IMA measurement list not available: /nowhere/ima",
                "> Measured boot measurement list location override: /nowhere/boot$",
                "> Measured boot measurement list not available: /nowhere/boot",
            ],
            "ERROR",
        ),
    ] {
        let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
        let complete = wait::until("the lines", LIMIT, || {
            let log = agent.part().log();
            Ok(patterns.iter().all(|pattern| grep(&log, pattern)).then_some(()))
        });
        assert!(complete.is_ok(), "{patterns:?}\n{}", agent.part().log());
        let _ = agent.terminate();
        let log = agent.part().log();
        assert!(!grep(&log, absent), "{absent}\n{log}");
        is_regular(&log);
        lab.tpm.flush_all().unwrap();
    }
}

#[test]
fn somebody_elses_mount() {
    let (Some(()), Some(lab)) = (require::root(), Lab::start(KeylimeOptions::default())) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().canonicalize().unwrap().join("keylime");
    let secure = folder.join("secure");
    std::fs::create_dir_all(&secure).unwrap();
    let binary = scratch.path().join("keylime_agent");
    std::fs::write(&binary, format!("#!/bin/sh\nmount -t ramfs ramfs {} && exec {BINARY}\n", secure.display()))
        .unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, log) = lab.failing_agent(&KeylimeAgentOptions { folder: Some(folder), binary, ..options() });
    assert_eq!(code, Some(1));
    let text = format!(
        "Secure mount error: Secure storage location {} already mounted on wrong file system type:",
        secure.display()
    );
    has_all(&log, &[&text]);
}

/// The tests look at the end of the log, once a second, while the verifier goes on asking for quotes.
#[test]
fn a_revocation_is_at_the_end() {
    let overrides = vec![("ca".to_owned(), "password".to_owned(), "secret".to_owned())];
    let keylime = KeylimeOptions { overrides, require_ek_cert: false, ..KeylimeOptions::default() };
    let (Some(()), Some(lab)) = (require::root(), Lab::start(keylime)) else { return };
    let other_tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ca, include) = (folder.path().join("ca"), folder.path().join("include"));
    std::fs::create_dir(&include).unwrap();
    let name = "local_action_modify_payload";
    let script = "#!/bin/sh\nip=$(sed 's/.*\"ip\":\"\\([^\"]*\\)\".*/\\1/' \"$1\")\n\
                  printf \"A node in the network has been compromised: $ip\\n\\033[31m ERROR forged\\n\\n\"\n";
    std::fs::write(include.join(name), script).unwrap();
    std::fs::write(include.join("action_list"), name).unwrap();
    let mut witness = lab.agent(&options());
    let failing = KeylimeAgent::start(&other_tpm.tcti, &lab.servers, &options()).unwrap();
    let policy = format!(r#"{{"23": ["{}"]}}"#, "0".repeat(64));
    for agent in [&witness, &failing] {
        let package = ["--cert", ca.to_str().unwrap(), "--include", include.to_str().unwrap(), "--tpm_policy", &policy];
        lab.tenant(agent, "add", &package);
        lab.servers.wait_verified(&agent.id().unwrap(), LIMIT).unwrap();
    }
    witness.part().wait_log("> Successfully executed encrypted payload", LIMIT).unwrap();
    other_tpm.pcr_extend(23).unwrap();
    let said = format!("> Executing revocation action {name}$");
    let seen = wait::until("the action", LIMIT, || {
        let log = witness.part().log();
        let is_there = grep(&tail(&log, 10), "A node in the network has been compromised: 127\\.0\\.0\\.1");
        Ok((is_there && grep(&tail(&log, 20), &said)).then_some(log))
    });
    let log = seen.unwrap();
    let id = witness.id().unwrap();
    lab.wait_quotes(&id, 2);
    let log_after = witness.part().log();
    is_regular(&log_after);
    assert!(log_after.starts_with(&log) && !grep(&log_after, "^ ERROR"), "{log_after}");
    // How much one quote logs: less than what would push the lines out of ten within a second.
    let quotes = log_after.matches("> GET integrity quote returning 200 response").count();
    let (_, quoting) = log_after.rsplit_once("> Revocation processed successfully\n").unwrap();
    let each = quoting.lines().count() / quoting.matches("> GET integrity quote returning 200").count().max(1);
    assert!(quotes > 2 && each < 5, "{each} lines for a quote: {quoting}");
}
