// SPDX-License-Identifier: Apache-2.0
//! Which plugin has which options: the two are configured by the same person, in files that look alike.

/// One of the two plugins, as far as the other one has to know it.
#[derive(Debug)]
pub struct Plugin {
    /// The binary, and where it is loaded.
    pub name: &'static str,
    /// Its options.
    pub options: &'static [&'static str],
}

/// The SPIRE agent's plugin.
pub const AGENT: Plugin = Plugin {
    name: "keylime-attestor-agent, the SPIRE agent's plugin",
    options: &[
        "require_agent_nonce",
        "keylime_agent_unix_socket",
        "keylime_agent_host",
        "keylime_agent_port",
        "keylime_agent_use_tls",
        "keylime_agent_ca_cert",
        "keylime_agent_client_cert",
        "keylime_agent_client_key",
        "keylime_agent_server_name",
        "insecure_plain_http",
    ],
};

/// The SPIRE server's plugin.
pub const SERVER: Plugin = Plugin {
    name: "keylime-attestor-server, the SPIRE server's plugin",
    options: &[
        "keylime_verifiers",
        "keylime_registrars",
        "keylime_verifier_host",
        "keylime_verifier_port",
        "keylime_registrar_host",
        "keylime_registrar_port",
        "keylime_tls_ca_cert_file",
        "keylime_tls_cert_file",
        "keylime_tls_key_file",
        "quote_verification",
        "insecure_verifier_only_quote_verification",
        "selectors",
        "selector_pcrs",
        "ek_ca_path",
        "maximum_attestation_interval",
        "wait_for_verification",
        "maximum_attestations_per_source",
        "spiffe_id_segment",
    ],
};
