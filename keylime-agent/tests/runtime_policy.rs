// SPDX-License-Identifier: Apache-2.0
//! Runtime policies: the real verifier replays what our agent sends of an IMA list that grows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use support::{LIMIT, Lab, options};
use test_support::ima::{ImaList, Template, content_digest};
use test_support::{KeylimeAgent, KeylimeOptions};

/// A policy file that allows files with these contents.
struct Policy {
    path: PathBuf,
    digests: Map<String, Value>,
    buffers: Map<String, Value>,
}

impl Policy {
    fn new(folder: &Path) -> Self {
        Self { path: folder.join("policy.json"), digests: Map::new(), buffers: Map::new() }
    }

    fn allow(&mut self, path: &str, contents: &[u8]) {
        let all = self.digests.entry(path).or_insert_with(|| json!([]));
        all.as_array_mut().unwrap().push(content_digest(contents).into());
    }

    fn write(&self) -> &str {
        let policy = json!({
            "meta": {"version": 1, "generator": 0},
            "release": 0,
            "digests": self.digests,
            "excludes": ["/tmp/.*"],
            "keyrings": {},
            "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null},
            "ima-buf": self.buffers,
            "verification-keys": ""
        });
        std::fs::write(&self.path, policy.to_string()).unwrap();
        self.path.to_str().unwrap()
    }
}

/// Enrols the agent, or enrols it anew, with a policy.
fn enrol(lab: &Lab, agent: &KeylimeAgent, command: &str, policy: &Policy) {
    lab.tenant(agent, command, &["--runtime-policy", policy.write()]);
    lab.servers.wait_verified(&agent.id().unwrap(), LIMIT).unwrap();
}

#[test]
fn a_growing_list_is_attested_in_parts_until_something_is_wrong() {
    let strict = ("verifier".into(), "ignore_tomtou_errors".into(), "True".into());
    let lab = Lab::start(KeylimeOptions { overrides: vec![strict], ..KeylimeOptions::default() });
    let Some(mut lab) = lab else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut policy = Policy::new(folder.path());
    let mut list = ImaList::new(&lab.tpm).unwrap();
    let program = |number: usize| (format!("/usr/bin/program-{number}"), b"contents".as_slice());
    let first: Vec<_> = (0..20).map(program).collect();
    list.measure(&lab.tpm, Template::Ng, &first).unwrap();
    // The policy knows what will be run later, too.
    for (path, contents) in (0..40).map(program) {
        policy.allow(&path, contents);
    }
    policy.buffers.insert("kexec-cmdline".to_owned(), json!([content_digest(b"quiet")]));

    let mut agent = lab.agent(&options().env("KEYLIME_AGENT_IMA_ML_PATH", list.path().to_str().unwrap()));
    let location = format!("> IMA measurement list location override: {}\n", list.path().display());
    assert!(agent.part().log().contains(&location));
    let id = agent.id().unwrap();
    enrol(&lab, &agent, "add", &policy);
    for (template, measured) in [
        (Template::Ng, vec![program(20), program(21)]),
        (Template::Sig, vec![program(22)]),
        (Template::Buf, vec![("kexec-cmdline".to_owned(), b"quiet".as_slice())]),
        (Template::Ng, vec![("/tmp/excluded".to_owned(), b"anything")]),
    ] {
        list.measure(&lab.tpm, template, &measured).unwrap();
        assert_eq!(lab.wait_quotes(&id, 2)["operational_state"], 3, "{template:?}");
    }
    let record = lab.servers.verifier_agent(&id).unwrap().unwrap();
    assert!(record["ima_pcrs"] != json!([]), "{record}");

    let failed = |event: &str| {
        let record = lab.servers.wait_state(&id, 9, LIMIT).unwrap();
        assert_eq!(record["last_event_id"], event);
    };
    // A program that the policy does not know; then it does.
    list.measure(&lab.tpm, Template::Ng, &[("/usr/bin/unknown", b"x".as_slice())]).unwrap();
    failed("ima.validation.ima-ng.not_in_allowlist");
    policy.allow("/usr/bin/unknown", b"x");
    enrol(&lab, &agent, "update", &policy);
    // Other contents than it allows.
    list.measure(&lab.tpm, Template::Sig, &[("/usr/bin/program-30", b"changed".as_slice())]).unwrap();
    failed("ima.validation.ima-ng.runtime_policy_hash");
    policy.allow("/usr/bin/program-30", b"changed");
    enrol(&lab, &agent, "update", &policy);
    // A file written to while it was executed.
    list.violation(&lab.tpm, "/usr/bin/program-31").unwrap();
    failed("ima.validation.tomtou");

    // After a reboot all begins anew.
    assert!(agent.terminate().unwrap().success());
    // A TPM that is not told of the end does not vouch for its clock afterwards, and Keylime wants it to.
    lab.tpm.tool("tpm2_shutdown", &["--clear"]).unwrap();
    lab.tpm.restart().unwrap();
    let mut list = ImaList::new(&lab.tpm).unwrap();
    list.measure(&lab.tpm, Template::Ng, &[program(0), program(1)]).unwrap();
    agent.restart().unwrap();
    enrol(&lab, &agent, "update", &policy);
    list.measure(&lab.tpm, Template::Ng, &[program(2)]).unwrap();
    assert_eq!(lab.wait_quotes(&id, 2)["operational_state"], 3);
    // Somebody extends the PCR and leaves no trace in the list.
    lab.tpm.pcr_extend(10).unwrap();
    let record = lab.servers.wait_state(&id, 9, LIMIT).unwrap();
    assert_eq!(record["last_event_id"], "ima.pcr_mismatch");
}

#[test]
fn a_policy_is_known_by_its_name() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut policy = Policy::new(folder.path());
    let mut list = ImaList::new(&lab.tpm).unwrap();
    let run =
        |list: &mut ImaList, path: &str| list.measure(&lab.tpm, Template::Ng, &[(path, b"x".as_slice())]).unwrap();
    policy.allow("/usr/bin/first", b"x");
    let agent = lab.agent(&options().env("KEYLIME_AGENT_IMA_ML_PATH", list.path().to_str().unwrap()));
    let id = agent.id().unwrap();
    let named = ["--runtime-policy-name", "programs"];
    let tenant = |command: &str, arguments: &[&str]| lab.tenant(&agent, command, &[&named, arguments].concat());
    run(&mut list, "/usr/bin/first");
    tenant("addruntimepolicy", &["--runtime-policy", policy.write()]);
    assert!(tenant("showruntimepolicy", &[]).contains("/usr/bin/first"));
    assert!(tenant("listruntimepolicy", &[]).contains("programs"));
    tenant("add", &[]);
    lab.servers.wait_verified(&id, LIMIT).unwrap();

    run(&mut list, "/usr/bin/second");
    let record = lab.servers.wait_state(&id, 9, LIMIT).unwrap();
    assert_eq!(record["last_event_id"], "ima.validation.ima-ng.not_in_allowlist");
    policy.allow("/usr/bin/second", b"x");
    tenant("updateruntimepolicy", &["--runtime-policy", policy.write()]);
    tenant("update", &[]);
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    run(&mut list, "/usr/bin/first");
    lab.wait_quotes(&id, 2);

    tenant("delete", &[]);
    tenant("deleteruntimepolicy", &[]);
    assert!(!tenant("listruntimepolicy", &[]).contains("programs"));
}
