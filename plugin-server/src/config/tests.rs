// SPDX-License-Identifier: Apache-2.0
use spire_plugin::hcl;
use test_support::TestCa;
use test_support::ca::LeafSpec;

use super::*;

/// Builds a configuration; answers every problem, those of unknown options included.
fn build(text: &str) -> (Option<ServerConfig>, Vec<String>) {
    let core = CoreConfig::new("tower.example".parse().unwrap());
    let mut options = Options::new(hcl::parse(text).unwrap());
    let config = ServerConfig::build(&core, &mut options);
    (config, options.finish().into_texts())
}

/// Files that a configuration can name, and the lines that name them.
fn files() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::root("Test CA").unwrap();
    let ca_file = ca.write(folder.path(), "ca").unwrap();
    let (cert, key) = ca.issue(&LeafSpec::new("client")).unwrap().write(folder.path(), "client").unwrap();
    let text = format!(
        "keylime_tls_ca_cert_file = {ca_file:?}\nkeylime_tls_cert_file = {cert:?}\nkeylime_tls_key_file = {key:?}\n"
    );
    (folder, text)
}

#[test]
fn old_configurations_are_taken_as_they_are() {
    let (_folder, tls) = files();
    let (config, problems) =
        build(&format!("{tls}keylime_verifier_host = \"127.0.0.1\"\nKeylime_Verifier_Port = \"8881\""));
    assert_eq!(problems, [""; 0]);
    assert_eq!(config.unwrap().maximum_attestation_interval, None);
}

#[test]
fn each_problem_names_its_option() {
    let (_folder, tls) = files();
    for (text, expected) in [
        (
            "keylime_verifier_hots = \"a\"",
            "`keylime_verifier_hots`: unknown option, did you mean `keylime_verifier_host`?",
        ),
        ("keylime_verifier_port = \"0\"", "`keylime_verifier_port`: found `0`, allowed is a port from 1 to 65535"),
        ("keylime_registrar_port = true", "`keylime_registrar_port`: found `true`, allowed is a port from 1 to 65535"),
        // Named once, although the registrar's host is taken from it.
        (
            "keylime_verifier_host = \"a b\"",
            "`keylime_verifier_host`: \"a b\" is neither a host name nor an IP address (it goes without https:// and port)",
        ),
        (
            "keylime_registrar_host = \"a b\"",
            "`keylime_registrar_host`: \"a b\" is neither a host name nor an IP address (it goes without https:// and port)",
        ),
        (
            "maximum_attestation_interval = \"0s\"",
            "`maximum_attestation_interval`: found `0s`, allowed is a time from `1s` to `24h`, for example `1m30s`",
        ),
        (
            "maximum_attestation_interval = 10",
            "`maximum_attestation_interval`: found `10`, allowed is a time from `1s` to `24h`, for example `1m30s`",
        ),
    ] {
        let (config, problems) = build(&format!("{tls}{text}"));
        assert!(config.is_none() || !problems.is_empty(), "{text}");
        assert_eq!(problems, [expected], "{text}");
    }
}

#[test]
fn without_files_nothing_is_built() {
    let (config, problems) = build(
        "keylime_tls_ca_cert_file = \"/nonexistent/ca.crt\"\nkeylime_tls_cert_file = \"/nonexistent/client.crt\"\n\
         keylime_tls_key_file = \"/nonexistent/client.key\"\nkeylime_verifier_port = \"x\"",
    );
    assert!(config.is_none());
    let [port, ca, cert, key] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(port, "`keylime_verifier_port`: found `x`, allowed is a port from 1 to 65535");
    assert!(ca.starts_with("`keylime_tls_ca_cert_file`: ") && ca.contains("/nonexistent/ca.crt"), "{ca}");
    assert!(cert.starts_with("`keylime_tls_cert_file`: ") && cert.contains("/nonexistent/client.crt"), "{cert}");
    assert!(key.starts_with("`keylime_tls_key_file`: ") && key.contains("/nonexistent/client.key"), "{key}");
}
