// SPDX-License-Identifier: Apache-2.0
//! One attested host, as the tests, the demo and the benchmark need it: a TPM, Keylime, and a Keylime agent that is
//! enrolled with an expected value for PCR 23.

pub mod quote;
mod software_agent;

use std::path::PathBuf;
use std::time::Duration;

pub use software_agent::SoftwareAgent;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use test_support::{
    KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, PluginSpec, SpireServer, Swtpm, SwtpmOptions,
    bin, process, wait,
};

/// How long anything on loopback may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A PCR that no firmware uses and anybody may extend, so a test can "change the boot" with it.
pub const WATCHED_PCR: u8 = 23;

/// The expected value of [`WATCHED_PCR`]: what it has after a start of the TPM.
#[must_use]
pub fn tpm_policy() -> String {
    format!("{{\"{WATCHED_PCR}\": [\"{}\"]}}", "0".repeat(64))
}

/// A host with its TPM, and the Keylime servers that watch it. Parts end in the order of the fields.
#[derive(Debug)]
pub struct Host {
    /// The Keylime agent.
    pub agent: KeylimeAgent,
    /// Verifier, registrar and tenant.
    pub servers: KeylimeServers,
    /// The TPM.
    pub tpm: Swtpm,
    /// The Keylime agent's id.
    pub id: String,
}

impl Host {
    /// Starts everything with our agent over mTLS and a Unix socket, registered over TLS, not enrolled yet.
    ///
    /// # Errors
    /// Of the part that does not come up.
    pub fn start() -> Result<Self> {
        let tpm = Swtpm::start(SwtpmOptions::default())?;
        let servers = KeylimeServers::start(&keylime_options(&tpm))?;
        let options = our_agent(&tpm)?;
        Self::with(tpm, servers, options)
    }

    /// Starts a Keylime agent on a TPM and beside servers that run.
    ///
    /// # Errors
    /// When the agent does not come up.
    pub fn with(tpm: Swtpm, servers: KeylimeServers, options: KeylimeAgentOptions) -> Result<Self> {
        let agent = KeylimeAgent::start(&tpm.tcti, &servers, &options)?;
        let id = agent.id()?;
        Ok(Self { agent, servers, tpm, id })
    }

    /// Enrols the host with the real tenant and waits for the first accepted quote.
    ///
    /// # Errors
    /// When the tenant refuses, or no quote is accepted.
    pub fn enrol(&self) -> Result<()> {
        self.servers.enrol(&self.id, self.agent.port, Some(&tpm_policy()))?;
        self.servers.wait_verified(&self.id, LIMIT)?;
        Ok(())
    }

    /// Enrols the host by an administrator's call, as if it were to be reached at another port. Other than the tenant
    /// this asks the host for nothing.
    ///
    /// # Errors
    /// When the registrar does not know the host or the verifier refuses.
    pub fn enrol_at(&self, port: u16) -> Result<()> {
        let known = self.servers.registrar_agent(&self.id)?.context("the registrar does not know the host")?;
        let member = |name: &str| known.get(name).cloned().unwrap_or_default();
        let policy = format!("{{\"mask\": \"{:#x}\", {}", 1_u32 << WATCHED_PCR, tpm_policy().trim_start_matches('{'));
        let body = json!({
            "v": null, "cloudagent_ip": "127.0.0.1", "cloudagent_port": port, "tpm_policy": policy,
            "runtime_policy": "", "runtime_policy_name": null, "runtime_policy_key": "", "mb_policy": null,
            "mb_policy_name": null, "ima_sign_verification_keys": "", "metadata": "{}", "revocation_key": "",
            "accept_tpm_hash_algs": ["sha256"], "accept_tpm_encryption_algs": ["rsa"],
            "accept_tpm_signing_algs": ["rsassa"], "ak_tpm": member("aik_tpm"), "mtls_cert": member("mtls_cert"),
            "supported_version": "2.5",
        });
        let answer = self.servers.verifier_call("POST", &format!("/v2.5/agents/{}", self.id), Some(&body))?;
        ensure!(answer.status == 200, "the verifier answered {}: {}", answer.status, answer.body);
        Ok(())
    }

    /// Has Keylime hold the host to the present value of [`WATCHED_PCR`], and waits for the first accepted quote.
    ///
    /// # Errors
    /// As [`Host::enrol`].
    pub fn expect_what_is(&self) -> Result<()> {
        let policy = format!("{{\"{WATCHED_PCR}\": [\"{}\"]}}", self.tpm.pcr_read("sha256", WATCHED_PCR)?);
        let output = self.servers.tenant_for("update", &self.id, self.agent.port, &["--tpm_policy", &policy])?;
        process::success("keylime_tenant -c update", output)?;
        self.servers.wait_verified(&self.id, LIMIT)?;
        Ok(())
    }

    /// The server plugin's configuration, with the client certificate that Keylime's own CA made.
    #[must_use]
    pub fn server_data(&self) -> String {
        let tls = self.servers.cv_ca.display();
        format!(
            "keylime_verifier_port = \"{}\"\nkeylime_registrar_port = \"{}\"\n\
             keylime_tls_ca_cert_file = \"{tls}/cacert.crt\"\nkeylime_tls_cert_file = \"{tls}/client-cert.crt\"\n\
             keylime_tls_key_file = \"{tls}/client-private.pem\"",
            self.servers.verifier_port, self.servers.registrar_tls_port
        )
    }

    /// The agent plugin's configuration for mTLS, with the agent's self-made certificate pinned.
    #[must_use]
    pub fn agent_data(&self) -> String {
        let (tls, folder) = (self.servers.cv_ca.display(), self.agent.folder.display());
        format!(
            "keylime_agent_port = \"{}\"\nkeylime_agent_use_tls = true\n\
             keylime_agent_ca_cert = \"{folder}/server-cert.crt\"\n\
             keylime_agent_client_cert = \"{tls}/client-cert.crt\"\n\
             keylime_agent_client_key = \"{tls}/client-private.pem\"",
            self.agent.port
        )
    }

    /// The agent plugin's configuration for the Unix socket of [`our_agent`].
    #[must_use]
    pub fn agent_socket_data(&self) -> String {
        format!("keylime_agent_unix_socket = {:?}", socket(&self.tpm))
    }

    /// Our server plugin as SPIRE's configuration names it.
    ///
    /// # Errors
    /// When the binary is not there.
    pub fn server_plugin(&self) -> Result<PluginSpec> {
        Ok(PluginSpec::keylime(bin::built("keylime-attestor-server")?, self.server_data()))
    }

    /// Our agent plugin as SPIRE's configuration names it, over mTLS.
    ///
    /// # Errors
    /// When the binary is not there.
    pub fn agent_plugin(&self) -> Result<PluginSpec> {
        Ok(PluginSpec::keylime(bin::built("keylime-attestor-agent")?, self.agent_data()))
    }
}

/// Keylime with the TPM's CA in the tenant's store.
#[must_use]
pub fn keylime_options(tpm: &Swtpm) -> KeylimeOptions {
    KeylimeOptions { ek_ca_certs: tpm.ca_certs.clone(), ..Default::default() }
}

/// Our Keylime agent: registers over TLS, and listens on a Unix socket in the TPM's folder too.
///
/// # Errors
/// When the binary is not there.
pub fn our_agent(tpm: &Swtpm) -> Result<KeylimeAgentOptions> {
    let options = KeylimeAgentOptions::new(bin::built("keylime_agent")?);
    let socket = socket(tpm).display().to_string();
    Ok(KeylimeAgentOptions { registrar_tls: true, ..options }.env("KEYLIME_AGENT_UNIX_SOCKET_PATH", socket))
}

fn socket(tpm: &Swtpm) -> PathBuf {
    tpm.scratch().join("keylime_agent.sock")
}

/// The reason that the server plugin logged for the refusal whose text SPIRE passed on.
///
/// The two travel separately, so the line with the text's attempt id is waited for.
///
/// # Errors
/// When the text names no attempt, or no line does.
pub fn logged_reason(server: &SpireServer, refusal: &str) -> Result<String> {
    let (_, rest) = refusal.split_once("(attempt ").with_context(|| format!("no attempt id in: {refusal}"))?;
    let attempt = rest.split(')').next().unwrap_or_default().to_owned();
    wait::until(&format!("the server's log line of attempt {attempt}"), LIMIT, || {
        let mut lines = server.log().into_iter();
        let line = lines.find(|line| {
            line.message == "Node attestation refused"
                && line.fields.get("attempt").and_then(|found| found.as_str()) == Some(&attempt)
        });
        Ok(line.map(|line| line.error))
    })
}
