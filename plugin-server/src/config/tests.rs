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
        ("quote_verification = \"verifier\"", "`quote_verification`: found `verifier`, allowed is `both` or `local`"),
        (
            "quote_verification = \"local\"\ninsecure_verifier_only_quote_verification = true",
            "`insecure_verifier_only_quote_verification` and `quote_verification` exclude each other: remove one of the two",
        ),
        (
            "insecure_verifier_only_quote_verification = true\nselectors = [\"ek_hash\"]",
            "`selectors`: with `insecure_verifier_only_quote_verification` only `agent_id` and `policy` can be had, because nothing else is verified",
        ),
        (
            "wait_for_verification = \"1h\"",
            "`wait_for_verification`: found `1h`, allowed is a time from `0s` to `5m`, for example `1m30s`",
        ),
        (
            "maximum_attestations_per_source = 0",
            "`maximum_attestations_per_source`: found `0`, allowed is a whole number from 1 to 512",
        ),
        ("keylime_verifiers = [\"a:1\", \"a:1\"]", "`keylime_verifiers`: a:1 is given twice"),
        (
            "keylime_registrars = [\"a\"]",
            "`keylime_registrars`: \"a\" has no port: expected host:port, or [address]:port for IPv6",
        ),
        ("keylime_registrars = []", "`keylime_registrars`: found 0 servers, allowed are 1 to 8"),
        (
            "keylime_verifiers = [\"a:1\"]\nkeylime_verifier_port = 8881",
            "`keylime_verifier_port` and `keylime_verifiers` exclude each other: name every server in the list, as host:port",
        ),
        ("selectors = [\"pcr\"]", "`selectors`: `pcr` needs `selector_pcrs`: set it, or remove `pcr`"),
        ("selector_pcrs = [7]", "`selector_pcrs` needs `pcr` in `selectors`: add it, or remove `selector_pcrs`"),
        (
            "selectors = [\"pcr\"]\nselector_pcrs = [10]",
            "`selector_pcrs`: PCR 10 cannot be a selector: every file that is measured changes it",
        ),
        (
            "selectors = [\"pcr\"]\nselector_pcrs = [16]",
            "`selector_pcrs`: PCR 16 cannot be a selector: each quote sets it",
        ),
        // One slip is one problem: what could not be read is not missed on top of it.
        (
            "selectors = [\"agent_id\", \"pcrs\"]\nselector_pcrs = [7]",
            "`selectors`, element 2: found `pcrs`, allowed is `agent_id`, `ek_hash`, `tpm`, `pcr`, `secure_boot` or `policy`",
        ),
        (
            "selectors = [\"pcr\"]\nselector_pcrs = [24]",
            "`selector_pcrs`, element 1: found `24`, allowed is a whole number from 0 to 23",
        ),
        (
            "selectors = [\"pcr\"]\nselector_pcrs = []",
            "`selectors`: `pcr` needs `selector_pcrs`: set it, or remove `pcr`",
        ),
        ("selectors = [\"tpm\"]", "`selectors`: `tpm` needs `ek_ca_path`: set it, or remove `tpm`"),
        ("spiffe_id_segment = \"a/b\"", "`spiffe_id_segment`: "),
        (
            "maximum_attestation_interval = 10",
            "`maximum_attestation_interval`: found `10`, allowed is a time from `1s` to `24h`, for example `1m30s`",
        ),
    ] {
        let (config, problems) = build(&format!("{tls}{text}"));
        assert!(config.is_none() || !problems.is_empty(), "{text}");
        let [problem] = &problems[..] else { panic!("{text}: {problems:?}") };
        assert!(problem == expected || expected.ends_with(": ") && problem.starts_with(expected), "{text}: {problem}");
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

#[test]
fn a_bad_store_of_ek_authorities_is_a_problem_of_its_option() {
    let (_folder, tls) = files();
    let (config, problems) = build(&format!("{tls}selectors = [\"tpm\"]\nek_ca_path = \"/nonexistent\""));
    assert!(config.is_none());
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.starts_with("`ek_ca_path`: ") && problem.contains("/nonexistent"), "{problem}");
}

#[test]
fn the_files_to_watch_and_their_certificates_are_told() {
    let (folder, tls) = files();
    let config = build(&tls).0.unwrap();
    assert_eq!(config.watched_files().len(), 3);
    assert!(config.watched_files().iter().all(|file| file.starts_with(folder.path())));
    let options: Vec<_> = config.certificates().iter().map(|certificate| certificate.option).collect();
    assert_eq!(options, ["keylime_tls_cert_file", "keylime_tls_ca_cert_file"]);
}

#[test]
fn the_registrar_is_looked_for_beside_the_first_verifier() {
    let (_folder, tls) = files();
    for (text, verifiers, registrars) in [
        ("", ["127.0.0.1:8881"].as_slice(), ["127.0.0.1:8891"].as_slice()),
        ("keylime_verifier_host = \"::1\"", &["[::1]:8881"], &["[::1]:8891"]),
        ("keylime_verifiers = [\"a:1\", \"b:2\"]", &["a:1", "b:2"], &["a:8891"]),
        ("keylime_registrars = [\"[::1]:3\", \"d:4\"]", &["127.0.0.1:8881"], &["[::1]:3", "d:4"]),
    ] {
        let (config, problems) = build(&format!("{tls}{text}"));
        assert_eq!(problems, [""; 0], "{text}");
        let config = config.unwrap();
        assert!(config.verifiers.peers().zip(verifiers).all(|(peer, at)| peer.ends_with(at)), "{text}");
        assert!(config.registrars.peers().zip(registrars).all(|(peer, at)| peer.ends_with(at)), "{text}");
        assert_eq!(
            (config.verifiers.peers().count(), config.registrars.peers().count()),
            (verifiers.len(), registrars.len())
        );
    }
}

#[test]
fn ids_lie_under_the_configured_segment() {
    let (_folder, tls) = files();
    let config = build(&format!("{tls}spiffe_id_segment = \"keylime-v2\"")).0.unwrap();
    let id = config.spiffe_id("d432fbb3").unwrap();
    assert_eq!(id.to_string(), "spiffe://tower.example/spire/agent/keylime-v2/d432fbb3");
}

#[test]
fn options_of_the_other_plugin_are_told_apart_and_ours_are_all_listed() {
    for text in ["keylime_agent_host = \"127.0.0.1\"", "Keylime_Agent_Host = [1]"] {
        let key = text.split(' ').next().unwrap();
        let expected =
            format!("`{key}`: unknown option here, it is one of keylime-attestor-agent, the SPIRE agent's plugin");
        assert!(build(text).1.contains(&expected), "{text}");
    }
    let known = plugins::SERVER.options.join("`, `");
    let expected = format!("`something_else`: unknown option, known are `{known}`");
    let (_, problems) = build("something_else = 1");
    assert!(problems.contains(&expected), "{problems:?}");
}

#[test]
fn a_store_that_went_bad_keeps_nothing_else_out() {
    let (folder, tls) = files();
    let store = TestCa::root("TPM vendor").unwrap().write(folder.path(), "vendor").unwrap();
    let text = format!("{tls}selectors = [\"tpm\"]\nek_ca_path = {store:?}");
    let rebuild = |now: &ServerConfig| {
        let core = CoreConfig::new("tower.example".parse().unwrap());
        let mut options = Options::new(hcl::parse(&text).unwrap());
        let config = ServerConfig::rebuild(&core, &mut options, now);
        (config, options.finish().into_texts())
    };
    let before = build(&text).0.unwrap();
    std::fs::write(&store, "no certificate").unwrap();
    let (after, problems) = rebuild(&before);
    let after = after.unwrap();
    assert_eq!(problems, [""; 0]);
    assert!(Arc::ptr_eq(before.selection.tpm.as_ref().unwrap(), after.selection.tpm.as_ref().unwrap()));
    let [kept] = &after.kept().into_texts()[..] else { panic!("{:?}", after.kept()) };
    assert!(kept.starts_with("`ek_ca_path`: ") && kept.contains("vendor"), "{kept}");
    assert_eq!(after.watched_files(), before.watched_files());
    // Where the TLS files are bad too, all is told and nothing taken.
    std::fs::write(folder.path().join("client.crt"), "no certificate").unwrap();
    let (none, problems) = rebuild(&after);
    assert!(none.is_none());
    let [tls, store] = &problems[..] else { panic!("{problems:?}") };
    assert!(tls.starts_with("`keylime_tls_cert_file`: ") && store.starts_with("`ek_ca_path`: "), "{problems:?}");
}
