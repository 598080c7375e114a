// SPDX-License-Identifier: Apache-2.0
//! Odd spellings of values: the stock agent and ours make the same of them, but for those that the table names, which the
//! documentation does, too. Without the stock agent, ours is compared with what that one did.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::path::Path;

use support::{BINARY, LIMIT, Lab};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, require, wait};

/// What comes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// A start as without the value.
    AsUsual,
    /// A start with these API versions.
    Versions(&'static str),
    /// A start with this id.
    Id(&'static str),
    /// A start with an id by chance.
    RandomId,
    /// No start.
    Refused,
}
use Then::{AsUsual, Id, RandomId, Refused, Versions};

const UUID: &str = "d432fbb3-d2f1-4a97-9ef7-75bd81c0000a";

/// A line of the configuration file, or the setting of a variable, and what comes of it.
const ALIKE: &[(&str, Then)] = &[
    ("KEYLIME_AGENT_UUID=D432FBB3-D2F1-4A97-9EF7-75BD81C0000A", Id(UUID)),
    ("KEYLIME_AGENT_UUID={d432fbb3-d2f1-4a97-9ef7-75bd81c0000a}", Id(UUID)),
    ("KEYLIME_AGENT_UUID=urn:uuid:d432fbb3-d2f1-4a97-9ef7-75bd81c0000a", Id(UUID)),
    ("KEYLIME_AGENT_UUID=d432fbb3d2f14a979ef775bd81c0000a", Id(UUID)),
    ("registrar_tls_port = \" 8891 \"", AsUsual),
    ("registrar_tls_port = 8891.0", AsUsual),
    ("extract_payload_zip = \"True\"", AsUsual),
    ("extract_payload_zip = \"ON\"", AsUsual),
    ("extract_payload_zip = 1", AsUsual),
    ("extract_payload_zip = \"y\"", Refused),
    ("extract_payload_zip = \"\"", Refused),
    ("enable_iak_idevid = \"False\"", AsUsual),
    ("version = 2.4", AsUsual),
    ("ek_handle = \"\"", AsUsual),
    ("ek_handle = \"0x81010001\"", AsUsual),
    ("ek_handle = \"81010001\"", AsUsual),
    ("ek_handle = 0x81010001", Refused),
    ("ek_handle = \"0x81000099\"", Refused),
    ("api_versions = \"\"", AsUsual),
    ("api_versions = \"[2.1, 2.2]\"", Versions("2.1, 2.2")),
    ("api_versions = \"2.5 2.1\"", Versions("2.1, 2.5")),
    ("api_versions = \"9.9\"", AsUsual),
    ("api_versions = 2.1", Versions("2.1")),
    ("api_versions = \"2.1,\"", Versions("2.1")),
    ("KEYLIME_AGENT_CONTACT_IP=", Refused),
    ("KEYLIME_AGENT_CONTACT_IP=[::1]", AsUsual),
    ("KEYLIME_AGENT_CONTACT_IP=a b", Refused),
    ("KEYLIME_AGENT_CONTACT_PORT=", Refused),
    ("KEYLIME_AGENT_IP=", Refused),
    ("KEYLIME_AGENT_ENABLE_AGENT_MTLS=True", AsUsual),
    ("KEYLIME_AGENT_TRUSTED_CLIENT_CA=", Refused),
    ("tpm_hash_alg = \"SHA256\"", Refused),
    ("tpm_encryption_alg = \"rsa2048\"", AsUsual),
    ("secure_size = \"\"", Refused),
    ("payload_script = \"\"", AsUsual),
    ("server_key = \"\"", AsUsual),
    ("agent_data_path = \"\"", AsUsual),
    ("revocation_cert = \"\"", AsUsual),
    ("revocation_actions = \"\"", AsUsual),
    ("iak_cert = \"\"", AsUsual),
    ("iak_idevid_template = \"\"", AsUsual),
    ("iak_idevid_asymmetric_alg = \"\"", AsUsual),
    ("iak_idevid_name_alg = \"\"", AsUsual),
    ("exponential_backoff_max_retries = \"\"", Refused),
    ("exponential_backoff_max_retries = \"5\"", AsUsual),
    ("exponential_backoff_max_delay = 0", Refused),
    ("verifier_url = \"\"", AsUsual),
    ("unknown_option = 1", AsUsual),
];

/// The same, what the stock agent does and what ours.
const OTHERWISE: &[(&str, Then, Then)] = &[
    ("KEYLIME_AGENT_UUID= d432fbb3-d2f1-4a97-9ef7-75bd81c0000a", RandomId, Id(UUID)),
    ("KEYLIME_AGENT_UUID=", RandomId, Refused),
    ("KEYLIME_AGENT_UUID=HASH_EK", RandomId, Refused),
    ("registrar_tls_port = \"\"", AsUsual, Refused),
    ("registrar_tls_port = 70000", AsUsual, Refused),
    ("registrar_tls_port = true", AsUsual, Refused),
    ("extract_payload_zip = 2", AsUsual, Refused),
    ("exponential_backoff_initial_delay = 0", AsUsual, Refused),
    ("KEYLIME_AGENT_CONTACT_PORT=99999", AsUsual, Refused),
    ("ek_handle = \"0X81010001\"", Refused, AsUsual),
    ("KEYLIME_AGENT_CONTACT_IP=host_name.example", Refused, AsUsual),
    ("api_versions = \"['2.1', '2.2']\"", AsUsual, Versions("2.1, 2.2")),
    ("api_versions = [\"2.1\", \"2.2\"]", Refused, Versions("2.1, 2.2")),
    ("api_versions = \"default, 2.1\"", Versions("2.1"), AsUsual),
    ("revocation_actions = [\"a\", \"b\"]", Refused, AsUsual),
    ("revocation_actions_dir = \"\"", AsUsual, Refused),
    ("dec_payload_file = \"\"", AsUsual, Refused),
    ("enc_keyname = \"\"", AsUsual, Refused),
    ("iak_idevid_template = \"nonsense\"", AsUsual, Refused),
];

/// Starts agents in one folder, so that they share AK and keys.
struct Starter {
    lab: Lab,
    folder: tempfile::TempDir,
}

impl Starter {
    /// The API versions and the id of an agent with this setting, or `None` if it does not start.
    fn start(&self, binary: &Path, setting: &str) -> Option<(String, String)> {
        let variable = setting.strip_prefix("KEYLIME_AGENT_").and_then(|rest| rest.split_once('='));
        let line = if variable.is_some() { "" } else { setting };
        let config = self.folder.path().join("agent.conf");
        std::fs::write(&config, format!("[agent]\n{line}\n")).unwrap();
        let folder = Some(self.folder.path().to_owned());
        let mut options = KeylimeAgentOptions { folder, ..KeylimeAgentOptions::new(binary) }
            .env("KEYLIME_AGENT_CONFIG", config.to_str().unwrap());
        if let Some((name, value)) = variable {
            options = options.env(&format!("KEYLIME_AGENT_{name}"), value);
        }
        let mut agent = KeylimeAgent::launch(&self.lab.tpm.tcti, &self.lab.servers, &options).unwrap();
        let started = wait::until("a start or an end", LIMIT, || {
            Ok(match agent.part().exited() {
                Some(_) => Some(false),
                None => agent.part().log().contains("> Listening on ").then_some(true),
            })
        });
        let found = started.unwrap().then(|| {
            let log = agent.part().log();
            let (_, versions) = log.split_once("> Starting server with API versions: ").unwrap();
            (versions.lines().next().unwrap().to_owned(), agent.id().unwrap())
        });
        // The stock agent does not always end in good order.
        let _ = agent.terminate();
        self.lab.tpm.flush_all().unwrap();
        found
    }

    fn check(&self, binary: &Path, setting: &str, usual: &(String, String), then: Then) {
        let found = self.start(binary, setting);
        let (versions, id) = usual;
        let expected = match then {
            Refused => None,
            AsUsual => Some(usual.clone()),
            Versions(versions) => Some((versions.to_owned(), id.clone())),
            Id(id) => Some((versions.clone(), id.to_owned())),
            RandomId => {
                let (_, id) = found.clone().unwrap_or_else(|| panic!("{setting}"));
                assert!(id != UUID && id.len() == 36, "{setting}: {id}");
                return;
            }
        };
        assert_eq!(found, expected, "{setting} ({})", binary.display());
    }
}

#[test]
fn both_agents_make_the_same_of_them() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let stock = require::stock_agent();
    let starter = Starter { lab, folder: tempfile::tempdir().unwrap() };
    for (binary, is_stock) in stock.iter().map(|stock| (stock.as_path(), true)).chain([(Path::new(BINARY), false)]) {
        let usual = starter.start(binary, "").unwrap();
        assert_eq!(usual.1.len(), 64);
        for (setting, then) in ALIKE {
            starter.check(binary, setting, &usual, *then);
        }
        for (setting, of_stock, of_ours) in OTHERWISE {
            starter.check(binary, setting, &usual, if is_stock { *of_stock } else { *of_ours });
        }
    }
}
