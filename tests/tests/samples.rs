// SPDX-License-Identifier: Apache-2.0
//! Each sample in `spire-conf/` is parsed by what it is for.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use spire_plugin::hcl::{self, Body, Value};
use test_support::process::Program;
use test_support::scratch::Scratch;
use test_support::{bin, require};

fn sample(name: &str) -> std::path::PathBuf {
    bin::workspace().join("spire-conf").join(name)
}

/// The block `plugin_data` of the node attestor.
fn plugin_data(body: &Body) -> Vec<String> {
    let block = |body: &Body, key: &str, label: Option<&str>| {
        let found = body.items.iter().find(|item| {
            item.key == key && label.is_none_or(|label| item.labels.first().is_some_and(|found| found == label))
        });
        match found.map(|item| &item.value) {
            Some(Value::Object(body)) => body.clone(),
            other => panic!("no block {key}: {other:?}"),
        }
    };
    let attestor = block(&block(body, "plugins", None), "NodeAttestor", Some("keylime"));
    block(&attestor, "plugin_data", None).items.iter().map(|item| item.key.clone()).collect()
}

#[test]
fn the_plugins_know_the_options_of_the_samples() {
    for (name, page) in
        [("server.conf", "docs/keylime-attestor-server.md"), ("agent.conf", "docs/keylime-attestor-agent.md")]
    {
        let body = hcl::parse(&fs::read_to_string(sample(name)).unwrap()).unwrap();
        let page = fs::read_to_string(bin::workspace().join(page)).unwrap();
        let options = plugin_data(&body);
        assert!(!options.is_empty());
        for option in options {
            assert!(page.contains(&format!("`{option}`")), "{name}: {option} is on no page");
        }
    }
}

#[test]
fn spire_takes_the_agents_sample() {
    let Some(spire) = require::spire() else { return };
    let config = sample("agent.conf");
    let output = Program::new(spire.agent)
        .args(["validate".as_ref(), "-config".as_ref(), config.as_os_str()])
        .run(Duration::from_secs(20))
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn keylime_agent_takes_its_sample() {
    let text = fs::read_to_string(sample("keylime-agent.conf")).unwrap();
    let folder = Scratch::new("sample").unwrap();
    // The sample's folder and user are not on every machine, and what is wrong with them is not the sample's fault.
    let output = Program::new(bin::built("keylime_agent").unwrap())
        .env("KEYLIME_AGENT_CONFIG", sample("keylime-agent.conf"))
        .env("KEYLIME_AGENT_RUN_AS", "")
        .env("KEYLIME_AGENT_KEYLIME_DIR", folder.path())
        .env("TCTI", "swtpm:host=127.0.0.1,port=1")
        .run(Duration::from_secs(20))
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "the configuration is taken, the TPM is not there: {said}");
    assert!(!said.contains("unknown"), "{said}");
    assert!(text.contains("registrar_tls_enabled = true"));
}
