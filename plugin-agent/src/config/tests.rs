// SPDX-License-Identifier: Apache-2.0
use spire_plugin::hcl;
use test_support::ca::{LeafSpec, TestCa};
use test_support::scratch::Scratch;

use super::*;

/// Builds a configuration; answers every problem, those of unknown options included.
fn build(text: &str) -> (Option<AgentConfig>, Vec<String>) {
    let core = CoreConfig::new("tower.example".parse().unwrap());
    let mut options = Options::new(hcl::parse(text).unwrap());
    let config = AgentConfig::build(&core, &mut options);
    (config, options.finish().into_texts())
}

#[test]
fn old_configurations_are_taken_as_they_are() {
    for text in ["", "keylime_agent_host = \"127.0.0.1\"\nkeylime_agent_port = \"9002\"", "KEYLIME_AGENT_PORT = 9002"] {
        let (config, problems) = build(text);
        assert_eq!(problems, [""; 0], "{text}");
        // Plain HTTP on loopback, as the Go plugin's default is, with a warning.
        let warnings = config.unwrap().files.warnings;
        assert_eq!(
            warnings,
            ["The Keylime agent at 127.0.0.1:9002 is reached over plain HTTP: whoever can reach that port, or stands \
              on the way, can attest as this host. Use keylime_agent_use_tls or keylime_agent_unix_socket."]
        );
    }
}

#[test]
fn a_unix_socket_needs_nothing_else() {
    let (config, problems) = build("keylime_agent_unix_socket = \"/run/keylime/agent.sock\"");
    assert_eq!(problems, [""; 0]);
    assert!(config.unwrap().files.warnings.is_empty());
}

#[test]
fn each_problem_names_its_option() {
    for (text, expected) in [
        (
            "require_agent_nonce = \"yes\"",
            "`require_agent_nonce`: found text in double quotes, allowed is `true` or `false`, without quotes",
        ),
        ("require_agent_nonces = true", "`require_agent_nonces`: unknown option, did you mean `require_agent_nonce`?"),
        ("keylime_agent_prot = \"1\"", "`keylime_agent_prot`: unknown option, did you mean `keylime_agent_port`?"),
        ("keylime_agent_port = \"0\"", "`keylime_agent_port`: found `0`, allowed is a port from 1 to 65535"),
        (
            "keylime_agent_use_tls = \"true\"",
            "`keylime_agent_use_tls`: found text in double quotes, allowed is `true` or `false`, without quotes",
        ),
        (
            "keylime_agent_host = \"a b\"",
            "`keylime_agent_host`: \"a b\" is neither a host name nor an IP address (it goes without https:// and port)",
        ),
        (
            "keylime_agent_host = \"192.0.2.1\"",
            "`keylime_agent_use_tls`: plain HTTP to 192.0.2.1:9002, which is not this host, lets anybody on the way \
             attest as it: set it to `true`, or accept that with `insecure_plain_http = true`",
        ),
        (
            "keylime_agent_ca_cert = \"/ca.crt\"",
            "`keylime_agent_ca_cert` is set but `keylime_agent_use_tls` is not `true`: set it, or remove \
             `keylime_agent_ca_cert`",
        ),
        (
            "keylime_agent_unix_socket = \"agent.sock\"",
            "`keylime_agent_unix_socket`: found `agent.sock`, allowed is an absolute path",
        ),
        (
            "keylime_agent_unix_socket = \"/a\"\nkeylime_agent_port = \"1\"",
            "`keylime_agent_port` and `keylime_agent_unix_socket` exclude each other: the socket is reached without \
             network and TLS",
        ),
    ] {
        let (config, problems) = build(text);
        assert!(config.is_none() || !problems.is_empty(), "{text}");
        assert_eq!(problems, [expected], "{text}");
    }
}

#[test]
fn tls_problems_are_told_together() {
    let text = "keylime_agent_use_tls = true\ninsecure_plain_http = true\nkeylime_agent_client_cert = \"/c.crt\"\n\
                keylime_agent_ca_cert = \"/nonexistent/ca.crt\"";
    let (config, problems) = build(text);
    assert!(config.is_none());
    let [first, second, third] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(first, "`insecure_plain_http` contradicts `keylime_agent_use_tls = true`: remove it");
    assert_eq!(second, "`keylime_agent_client_cert` and `keylime_agent_client_key` go together: set both or neither");
    assert!(third.starts_with("`keylime_agent_ca_cert`: ") && third.contains("/nonexistent/ca.crt"), "{third}");
}

#[test]
fn the_nonce_of_the_server_alone_is_taken_unless_refused() {
    for (text, required) in [("", false), ("require_agent_nonce = false", false), ("Require_Agent_Nonce = true", true)]
    {
        let (config, problems) = build(text);
        assert_eq!(problems, [""; 0]);
        let config = config.unwrap();
        assert_eq!((config.require_agent_nonce, config.trust_domain.as_str()), (required, "tower.example"));
    }
}

#[test]
fn tls_files_are_watched_and_their_end_is_known() {
    let scratch = Scratch::new("config").unwrap();
    let root = TestCa::root("Root").unwrap();
    let ca = root.write(scratch.path(), "ca").unwrap();
    let (cert, key) = root.issue(&LeafSpec::new("client")).unwrap().write(scratch.path(), "client").unwrap();
    let (config, problems) = build(&format!(
        "keylime_agent_use_tls = true\nkeylime_agent_ca_cert = {ca:?}\nkeylime_agent_client_cert = {cert:?}\n\
         keylime_agent_client_key = {key:?}"
    ));
    assert_eq!(problems, [""; 0]);
    let config = config.unwrap();
    assert_eq!(config.watched_files(), [ca.clone(), cert.clone(), key]);
    let certificates: Vec<_> =
        config.certificates().into_iter().map(|c| (c.option, c.path, c.not_after > c.not_before)).collect();
    assert_eq!(certificates, [("keylime_agent_client_cert", cert, true), ("keylime_agent_ca_cert", ca, true)]);

    let (config, _) = build("keylime_agent_unix_socket = \"/run/keylime/agent.sock\"");
    let config = config.unwrap();
    assert!(config.watched_files().is_empty() && config.certificates().is_empty());
}

#[test]
fn options_of_the_other_plugin_are_told_apart_and_ours_are_all_listed() {
    for text in ["keylime_verifier_host = \"127.0.0.1\"", "Keylime_Verifier_Host = [1]"] {
        let key = text.split(' ').next().unwrap();
        let expected =
            format!("`{key}`: unknown option here, it is one of keylime-attestor-server, the SPIRE server's plugin");
        assert!(build(text).1.contains(&expected), "{text}");
    }
    let known = plugins::AGENT.options.join("`, `");
    let expected = format!("`something_else`: unknown option, known are `{known}`");
    let (_, problems) = build("something_else = 1");
    assert!(problems.contains(&expected), "{problems:?}");
}
