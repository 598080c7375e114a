// SPDX-License-Identifier: Apache-2.0
//! The agent with the real Keylime verifier, registrar and tenant and a software TPM.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Lab, has_mode, options};
use test_support::keylime::Server;
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions};

use crate::support::LIMIT;

/// A policy that PCR 23 has its start value.
fn policy() -> String {
    format!("{{\"23\": [\"{}\"]}}", "0".repeat(64))
}

#[test]
fn enrolment_reaches_get_quote_and_stays() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let id = agent.id().unwrap();
    assert_eq!(id.len(), 64, "{id}");
    for (name, mode) in [
        ("agent_data.json", 0o600),
        ("payload-private.pem", 0o600),
        ("server-private.pem", 0o600),
        ("server-cert.crt", 0o644),
    ] {
        assert!(has_mode(&agent.folder.join(name), mode), "{name}");
    }
    lab.servers.enrol(&id, agent.port, Some(&policy())).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    assert_eq!(lab.wait_quotes(&id, 5)["operational_state"], 3);
    let log = agent.part().log();
    for line in [
        "INFO  keylime_agent::startup > Starting server with API versions: 2.1, 2.2, 2.3, 2.4, 2.5, 2.6\n".to_owned(),
        format!("> SUCCESS: Agent {id} registered\n"),
        format!("> SUCCESS: Agent {id} activated\n"),
        format!("> Listening on https://127.0.0.1:{}\n", agent.port),
    ] {
        assert!(log.contains(&line), "{line}: {log}");
    }

    // A restart keeps AK, payload key and certificate, so the verifier notices nothing.
    assert!(agent.terminate().unwrap().success());
    assert!(agent.part().log().ends_with("> Shutting down keylime agent\n"));
    assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new());
    assert_eq!(lab.tpm.session_handles().unwrap(), Vec::<u32>::new());
    agent.restart().unwrap();
    assert_eq!(lab.wait_quotes(&id, 2)["operational_state"], 3);
    assert!(agent.part().log().contains("> Loaded old AK key from "));

    lab.tpm.pcr_extend(23).unwrap();
    let record = lab.servers.wait_state(&id, 9, LIMIT).unwrap();
    assert_eq!(record["last_event_id"], "pcr_validation.invalid_pcr_23");
}

#[test]
fn a_registrar_that_is_not_up_yet_is_waited_for() {
    let Some(mut lab) = Lab::start(KeylimeOptions::default()) else { return };
    lab.servers.stop(Server::Registrar);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let options = options()
        .env("KEYLIME_AGENT_UNIX_SOCKET_PATH", socket.to_str().unwrap())
        .env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_INITIAL_DELAY", "500")
        .env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_MAX_DELAY", "1000");
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    let port = lab.servers.registrar_tls_port;
    agent
        .part()
        .wait_log(&format!("> Requesting registrar API version to https://127.0.0.1:{port}/version"), LIMIT)
        .unwrap();
    agent.part().wait_log("> Network error (connection failed): ", LIMIT).unwrap();
    // Nothing listens before the registration.
    assert!(std::net::TcpStream::connect(("127.0.0.1", agent.port)).is_err());
    let connect = || std::os::unix::net::UnixStream::connect(&socket).map(drop).map_err(|error| error.kind());
    assert_eq!(connect(), Err(std::io::ErrorKind::ConnectionRefused));
    lab.servers.restart(Server::Registrar).unwrap();
    agent.wait_listening().unwrap();
    agent.part().wait_log("> Listening on Unix socket ", LIMIT).unwrap();
    assert_eq!(connect(), Ok(()));

    // A signal ends the waiting at once, and nothing is left in the TPM.
    lab.servers.stop(Server::Registrar);
    assert!(agent.terminate().unwrap().success());
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
    agent.part().wait_log("> Trying to register again in ", LIMIT).unwrap();
    assert!(agent.terminate().unwrap().success());
    assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new());

    // With a configured number of retries it gives up.
    let (code, log) = lab.failing_agent(&options.env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_MAX_RETRIES", "1"));
    assert_eq!(code, Some(1));
    assert!(
        log.contains("> Failed to register agent after retrying: cannot connect to the Keylime registrar"),
        "{log}"
    );
    assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new());
}

#[test]
fn what_is_not_the_registrar_is_told_so() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    // A verifier's refusal is no reason to delete a record.
    let verifier = lab.servers.verifier_port.to_string();
    let (code, log) = lab.failing_agent(&options().env("KEYLIME_AGENT_REGISTRAR_TLS_PORT", &verifier));
    let message = format!(
        "> Failed to register agent: Registration forbidden - Forbidden: Action create_agent requires admin authentication \
         (mTLS certificate): is https://127.0.0.1:{verifier} the registrar (option 'registrar_tls_port', usually 8891), and \
         not the verifier?\n"
    );
    assert!(code == Some(1) && log.ends_with(&message), "{log}");
    // Plain HTTP to a TLS port.
    let tls = lab.servers.registrar_tls_port.to_string();
    let plain = KeylimeAgentOptions { registrar_tls: false, ..options() }
        .env("KEYLIME_AGENT_REGISTRAR_PORT", &tls)
        .env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_MAX_RETRIES", "1")
        .env("KEYLIME_AGENT_EXPONENTIAL_BACKOFF_INITIAL_DELAY", "10");
    let (code, log) = lab.failing_agent(&plain);
    let begin =
        format!("the connection to the Keylime registrar at http://127.0.0.1:{tls} broke during GET /version: ");
    for line in [
        format!("> Network error: {begin}"),
        "> The host is not registered yet: verifier and tenant cannot connect until it is\n".to_owned(),
        format!("> Failed to register agent after retrying: {begin}"),
    ] {
        assert_eq!((code, log.contains(&line)), (Some(1), true), "{line}: {log}");
    }
    assert_eq!(log.matches("does that port speak TLS?\n").count(), 3, "{log}");
}

#[test]
fn a_known_id_with_another_ak_is_refused_at_once() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let id = agent.id().unwrap();
    assert!(agent.terminate().unwrap().success());
    let data = agent.folder.join("agent_data.json");

    // A damaged file is no reason for a new identity.
    let good = std::fs::read(&data).unwrap();
    std::fs::write(&data, &good[..good.len() / 2]).unwrap();
    let again = KeylimeAgentOptions { folder: Some(agent.folder.clone()), ..options() };
    let (code, log) = lab.failing_agent(&again);
    assert_eq!(code, Some(1));
    assert!(log.contains("cannot be used: it is not an agent data file"), "{log}");
    assert_eq!(std::fs::read(&data).unwrap(), &good[..good.len() / 2]);

    // Nor is an AK that the TPM does not take.
    let mut record: serde_json::Value = serde_json::from_slice(&good).unwrap();
    record["ak_private"][20] = json!(record["ak_private"][20].as_u64().unwrap() ^ 1);
    std::fs::write(&data, record.to_string()).unwrap();
    let (code, log) = lab.failing_agent(&again);
    assert_eq!(code, Some(1));
    assert!(log.contains("> Loading old AK key from "), "{log}");
    assert!(log.contains("Restore the file from a backup"), "{log}");

    // Without the file the registrar decides.
    std::fs::remove_file(&data).unwrap();
    let (code, log) = lab.failing_agent(&again);
    assert_eq!(code, Some(1));
    let warning = format!(
        "> No AK in {}: a new one is made. If this host is enrolled already, end the agent and restore the file\n",
        data.display()
    );
    assert!(log.contains(&warning), "{log}");
    let message = format!(
        "> Failed to register agent: Registration forbidden - Agent re-registration with different TPM identity is forbidden \
         for security reasons. The existing agent record must be deleted before re-registering with a different TPM or AK. \
         Restore the former AK ({}), if this is the same TPM. Or run `keylime_tenant -c regdelete -u {id}`, start the agent \
         again, and have the verifier forget the former AK, too: `keylime_tenant -c delete -u {id}`, then `-c add`\n",
        data.display()
    );
    assert!(log.ends_with(&message), "{log}");
    assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new());
}

#[test]
fn an_ak_of_other_settings_is_kept() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    assert!(agent.terminate().unwrap().success());
    let data = agent.folder.join("agent_data.json");
    let good = std::fs::read(&data).unwrap();

    let again = KeylimeAgentOptions { folder: Some(agent.folder.clone()), ..options() };
    let changed = again.clone().env("KEYLIME_AGENT_TPM_SIGNING_ALG", "rsapss");
    let (code, log) = lab.failing_agent(&changed);
    assert_eq!(code, Some(1));
    assert!(log.contains("> Failed to register agent: Registration forbidden - "), "{log}");
    let begin = format!(
        "> Not using old {} because it is not valid with current configuration: it is kept as {}.backup-",
        data.display(),
        data.display()
    );
    let (_, rest) = log.split_once(&begin).unwrap_or_else(|| panic!("{log}"));
    let backup = agent.folder.join(format!("agent_data.json.backup-{}", rest.lines().next().unwrap()));
    assert_ne!(std::fs::read(&data).unwrap(), good);
    assert!(has_mode(&backup, 0o600));

    // Nor is another EK's used, and the message says what is different.
    let mut record: serde_json::Value = serde_json::from_slice(&good).unwrap();
    let ek_hash = String::from_utf8(serde_json::from_value(record["ek_hash"].clone()).unwrap()).unwrap();
    record["ek_hash"] = json!([b'0'; 64].to_vec());
    // The TPM takes no other's AK.
    record["ak_private"][20] = json!(record["ak_private"][20].as_u64().unwrap() ^ 1);
    let other = record.to_string();
    std::fs::write(&data, &other).unwrap();
    let away = agent.folder.join("away");
    std::fs::rename(&backup, &away).unwrap();
    let (code, log) = lab.failing_agent(&again);
    assert_eq!(code, Some(1));
    let reason = format!(
        "> Not using old {}: it was made for the EK {}, and the EK is {ek_hash} now (another TPM, or another 'ek_handle' or \
         'tpm_encryption_alg')",
        data.display(),
        "0".repeat(64)
    );
    let anew = format!("{reason}, so the agent id changes and the host must be enrolled anew: it is kept as ");
    assert!(log.contains(&anew), "{log}");

    // Back in the right TPM, or with the option put back, the host is the same again. The newest backup of this EK is one
    // that the TPM does not take.
    std::fs::rename(&away, &backup).unwrap();
    record = serde_json::from_slice(&good).unwrap();
    record["ak_private"][20] = json!(record["ak_private"][20].as_u64().unwrap() ^ 1);
    let newest = agent.folder.join("agent_data.json.backup-99991231-235959");
    std::fs::write(&newest, record.to_string()).unwrap();
    let taken = |log: &str, text: &str| {
        assert!(log.contains(text), "{log}");
        assert!(log.contains(&format!("> The TPM does not take the AK in {}: ", newest.display())), "{log}");
        assert_eq!(std::fs::read(&data).unwrap(), good);
    };
    std::fs::write(&data, &other).unwrap();
    let mut same = lab.agent(&again);
    let log = same.part().log();
    assert!(log.contains(&format!("{reason}: it is kept as ")), "{log}");
    taken(&log, &format!("> Taking the AK from {} instead, which fits\n", backup.display()));
    assert!(same.terminate().unwrap().success());
    std::fs::remove_file(&data).unwrap();
    let mut same = lab.agent(&again);
    let text = format!("> There is no {}: taking the AK from {}, which fits\n", data.display(), backup.display());
    taken(&same.part().log(), &text);
    same.restart().unwrap();
    assert!(same.part().log().contains("> Loaded old AK key from "));
}

#[test]
fn a_stalled_tpm_does_not_keep_a_signal_waiting() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let begun = "> Starting server with API versions: ";
    let limit = Duration::from_secs(11);
    lab.tpm.part().unwrap().pause();
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options()).unwrap();
    agent.part().wait_log(begun, LIMIT).unwrap();
    assert!(agent.part().terminate(limit).unwrap().success());
    assert!(agent.part().log().ends_with("> Shutting down keylime agent\n"), "{}", agent.part().log());
    lab.tpm.part().unwrap().resume();

    let mut agent = lab.agent(&options());
    lab.tpm.part().unwrap().pause();
    // Has the TPM thread wait for an answer, and is itself a request in progress.
    let caller = agent.caller();
    let asked = std::thread::spawn(move || drop(caller.get("/v2.5/quotes/identity?nonce=abc")));
    agent.part().wait_log("with uri /v2.5/quotes/identity", LIMIT).unwrap();
    assert!(agent.part().terminate(limit).unwrap().success());
    let log = agent.part().log();
    assert!(log.contains("> the TPM may still hold keys of this agent: "), "{log}");
    lab.tpm.part().unwrap().resume();
    asked.join().unwrap();
}

#[test]
fn elliptic_curve_keys_are_attested() {
    let options_ecc = KeylimeOptions {
        require_ek_cert: false,
        overrides: vec![("tenant".into(), "accept_tpm_signing_algs".into(), "['ecdsa', 'rsassa']".into())],
        ..KeylimeOptions::default()
    };
    let Some(lab) = Lab::start(options_ecc) else { return };
    let options = options()
        .env("KEYLIME_AGENT_TPM_ENCRYPTION_ALG", "ecc256")
        .env("KEYLIME_AGENT_TPM_SIGNING_ALG", "ecdsa")
        .env("KEYLIME_AGENT_UUID", "generate");
    let agent = lab.agent(&options);
    let id = agent.id().unwrap();
    assert_eq!(id.len(), 36);
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    assert_eq!(agent.get("/v2.4/agent/info").unwrap().results()["tpm_enc_alg"], "ecc");
    assert_eq!(agent.get("/v2.5/agent/info").unwrap().results()["tpm_enc_alg"], "ecc256");
}

#[test]
fn without_mtls_plain_http_is_served() {
    let Some(lab) = Lab::start(KeylimeOptions { agent_mtls: false, ..KeylimeOptions::default() }) else { return };
    let mut agent = lab.agent(&KeylimeAgentOptions { mtls: false, ..options() });
    let id = agent.id().unwrap();
    assert_eq!(lab.servers.registrar_agent(&id).unwrap().unwrap()["mtls_cert"], "disabled");
    lab.servers.enrol(&id, agent.port, Some(&policy())).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    assert!(agent.part().log().contains("> mTLS disabled, Tenant and Verifier will reach out to agent via HTTP\n"));
}
