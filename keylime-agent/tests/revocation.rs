// SPDX-License-Identifier: Apache-2.0
//! A host fails, and the real verifier tells the others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use support::{LIMIT, Lab, options};
use test_support::{KeylimeAgent, KeylimeOptions, Swtpm, SwtpmOptions};

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn a_failed_host_sets_off_the_actions_of_the_others() {
    let overrides = vec![("ca".to_owned(), "password".to_owned(), "secret".to_owned())];
    let keylime = KeylimeOptions { overrides, require_ek_cert: false, ..KeylimeOptions::default() };
    let (Some(()), Some(lab)) = (test_support::require::root(), Lab::start(keylime)) else { return };
    let other_tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ca, include) = (folder.path().join("ca"), folder.path().join("include"));
    std::fs::create_dir(&include).unwrap();
    let script = "#!/bin/sh\nip=$(sed 's/.*\"ip\":\"\\([^\"]*\\)\".*/\\1/' \"$1\")\n\
                  echo \"A node in the network has been compromised: $ip\"\necho careful >&2\n";
    std::fs::write(include.join("local_action_warn"), script).unwrap();
    std::fs::write(include.join("action_list"), "local_action_warn\n").unwrap();

    let mut witness = lab.agent(&options());
    let failing = KeylimeAgent::start(&other_tpm.tcti, &lab.servers, &options()).unwrap();
    let policy = format!(r#"{{"23": ["{ZEROS}"]}}"#);
    for agent in [&witness, &failing] {
        let (id, port) = (agent.id().unwrap(), agent.port.to_string());
        let common = ["-c", "add", "-t", "127.0.0.1", "-tp", &port, "-u", &id, "--tpm_policy", &policy];
        let package = ["--cert", ca.to_str().unwrap(), "--include", include.to_str().unwrap()];
        let output = lab.servers.tenant(&[&common[..], &package].concat()).unwrap();
        assert!(output.status.success(), "{output:?}");
        lab.servers.wait_verified(&id, LIMIT).unwrap();
    }
    witness.part().wait_log("> Successfully executed encrypted payload", LIMIT).unwrap();
    assert!(witness.part().log().contains("> Permission set for action: "));

    other_tpm.pcr_extend(23).unwrap();
    witness.part().wait_log("> Revocation processed successfully", LIMIT).unwrap();
    let log = witness.part().log();
    let (_, rest) = log.split_once("> Received revocation\n").unwrap_or_else(|| panic!("{log}"));
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
    lab.servers.wait_state(&failing.id().unwrap(), 9, LIMIT).unwrap();
    lab.servers.wait_verified(&witness.id().unwrap(), LIMIT).unwrap();

    // Somebody else who may call the agent cannot set them off.
    let body = r#"{"msg": "{}", "signature": "AAAA"}"#;
    let answer = lab.curl(&witness, "/v2.5/notifications/revocation", &["--data-binary", body]);
    assert_eq!(answer.json(), serde_json::json!({"code": 200, "status": "Success", "results": {}}));
    let text = "> Failed to process revocation: the signature is not by the key of the certificate";
    witness.part().wait_log(text, LIMIT).unwrap();
}
