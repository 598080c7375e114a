// SPDX-License-Identifier: Apache-2.0
//! A host fails, and the real verifier tells the others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use support::{LIMIT, Lab, options};
use test_support::keylime::Server;
use test_support::process::Part;
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
            let (id, port) = (agent.id().unwrap(), agent.port.to_string());
            let common = ["-c", "add", "-t", "127.0.0.1", "-tp", &port, "-u", &id, "--tpm_policy", &policy];
            let package = ["--cert", ca.to_str().unwrap(), "--include", include.to_str().unwrap()];
            let output = lab.servers.tenant(&[&common[..], &package].concat()).unwrap();
            assert!(output.status.success(), "{output:?}");
            lab.servers.wait_verified(&id, LIMIT).unwrap();
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
    assert_eq!(answer.json(), serde_json::json!({"code": 200, "status": "Success", "results": {}}));
    let text = "> Failed to process revocation: the signature is not by the key of the certificate";
    witness.part().wait_log(text, LIMIT).unwrap();
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
