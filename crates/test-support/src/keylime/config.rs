// SPDX-License-Identifier: Apache-2.0
//! Keylime's configuration files. The Python package brings none, and an option that is missing is an error at its
//! first use, so all are written.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::KeylimeOptions;

/// The ports that the servers are given.
pub(super) struct Ports {
    pub(super) verifier: u16,
    pub(super) registrar: u16,
    pub(super) registrar_tls: u16,
}

/// The options of one section, in file order.
type Section = Vec<(&'static str, String)>;

/// The attestation log options that verifier and registrar share, all unused.
const DURABLE: [&str; 9] = [
    "durable_attestation_import",
    "persistent_store_url",
    "transparency_log_url",
    "time_stamp_authority_url",
    "time_stamp_authority_certs_path",
    "persistent_store_format=json",
    "persistent_store_encoding",
    "transparency_log_sign_algo=sha256",
    "signed_attributes",
];

/// `name` or `name=value` lines as a section.
fn lines(text: &[&'static str]) -> Section {
    text.iter()
        .map(|line| match line.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim().to_owned()),
            None => (*line, String::new()),
        })
        .collect()
}

fn verifier(ports: &Ports, options: &KeylimeOptions) -> Section {
    let mut section = lines(&[
        "version=2.6",
        "uuid=default",
        "ip=\"127.0.0.1\"",
        "registrar_ip=127.0.0.1",
        "tls_dir=generate",
        "server_key=default",
        "server_key_password",
        "server_cert=default",
        "cert_subject_alternative_names",
        "trusted_client_ca=default",
        "client_key=default",
        "client_key_password",
        "client_cert=default",
        "trusted_server_ca=default",
        "authorization_provider=simple",
        "database_url=sqlite",
        "database_pool_sz_ovfl=5,10",
        "auto_migrate_db=True",
        "num_workers=1",
        "max_workers=2",
        "max_upload_size=104857600",
        "measured_boot_policy_name=accept-all",
        "measured_boot_imports=[]",
        "measured_boot_evaluate=once",
        r#"severity_labels=["info", "notice", "warning", "error", "critical", "alert", "emergency"]"#,
        r#"severity_policy=[{"event_id": ".*", "severity_label": "emergency"}]"#,
        "ignore_tomtou_errors=False",
        "require_allow_list_signatures=False",
        "mode=pull",
        "challenge_lifetime=1800",
        "verification_timeout=0",
        "session_create_rate_limit_per_ip=50",
        "session_create_rate_limit_window_ip=60",
        "session_create_rate_limit_per_agent=15",
        "session_create_rate_limit_window_agent=60",
        "session_lifetime=180",
        "extend_token_on_attestation=True",
        "auto_recover_attestation_failures=False",
        "shutdown_drain_timeout=1",
    ]);
    section.extend(lines(&DURABLE));
    section.push(("port", ports.verifier.to_string()));
    section.push(("registrar_port", ports.registrar_tls.to_string()));
    section.push(("enable_agent_mtls", python(options.agent_mtls).to_owned()));
    section.push(("quote_interval", options.quote_interval.to_string()));
    section.push(("exponential_backoff", python(options.exponential_backoff).to_owned()));
    section.push(("retry_interval", options.retry_interval.to_string()));
    section.push(("max_retries", options.max_retries.to_string()));
    section.push(("request_timeout", options.request_timeout.to_string()));
    section
}

fn registrar(ports: &Ports) -> Section {
    let mut section = lines(&[
        "version=2.6",
        "ip=\"127.0.0.1\"",
        "tls_dir=default",
        "server_key=default",
        "server_key_password",
        "server_cert=default",
        "cert_subject_alternative_names",
        "trusted_client_ca=default",
        "authorization_provider=simple",
        "database_url=sqlite",
        "database_pool_sz_ovfl=5,10",
        "max_workers=2",
        "auto_migrate_db=True",
        "tpm_identity=default",
        "malformed_cert_action=warn",
    ]);
    section.extend(lines(&DURABLE).into_iter().filter(|(name, _)| *name != "signed_attributes"));
    section.push(("signed_attributes", "ek_tpm,aik_tpm,ekcert".to_owned()));
    section.push(("port", ports.registrar.to_string()));
    section.push(("tls_port", ports.registrar_tls.to_string()));
    section
}

fn tenant(ports: &Ports, options: &KeylimeOptions, cert_store: &Path) -> Section {
    let mut section = lines(&[
        "version=2.6",
        "verifier_ip=127.0.0.1",
        "registrar_ip=127.0.0.1",
        "tls_dir=default",
        "client_key=default",
        "client_key_password",
        "client_cert=default",
        "trusted_server_ca=default",
        "max_payload_size=1048576",
        "accept_tpm_hash_algs=['sha512', 'sha384', 'sha256']",
        "accept_tpm_encryption_algs=['ecc', 'rsa']",
        "accept_tpm_signing_algs=['ecschnorr', 'rsassa', 'ecdsa', 'rsapss']",
        "exponential_backoff=True",
        "retry_interval=1",
        "max_retries=5",
        "request_timeout=60",
        "ek_check_script",
        "mb_refstate",
    ]);
    section.push(("verifier_port", ports.verifier.to_string()));
    section.push(("registrar_port", ports.registrar_tls.to_string()));
    section.push(("enable_agent_mtls", python(options.agent_mtls).to_owned()));
    section.push(("require_ek_cert", python(options.require_ek_cert).to_owned()));
    section.push(("tpm_cert_store", cert_store.display().to_string()));
    section
}

fn ca() -> Section {
    lines(&[
        "version=2.6",
        "password=default",
        "cert_country=US",
        "cert_ca_name=Keylime Certificate Authority",
        "cert_state=MA",
        "cert_locality=Lexington",
        "cert_organization=Test",
        "cert_org_unit=53",
        "cert_ca_lifetime=3650",
        "cert_lifetime=365",
        "cert_bits=2048",
        "cert_crl_dist=http://localhost:38080/crl",
    ])
}

/// A Python logging file: everything to the error stream.
const LOGGING: &str = "\
[logging]
version = 2.6
[loggers]
keys = root,keylime
[handlers]
keys = console
[formatters]
keys = line
[formatter_line]
format = %(asctime)s.%(msecs)03d - %(name)s - %(levelname)s - %(message)s
datefmt = %Y-%m-%d %H:%M:%S
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
level = DEBUG
formatter = line
args = (sys.stdout,)
[logger_keylime]
level = DEBUG
qualname = keylime
handlers =
";

fn python(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Writes the five files into `folder`; answers the variables that name them. `options.overrides` has the last word.
pub(super) fn write(
    folder: &Path,
    ports: &Ports,
    options: &KeylimeOptions,
    cert_store: &Path,
) -> Result<Vec<(&'static str, PathBuf)>> {
    let revocations = vec![
        ("enabled_revocation_notifications", options.revocation_notifications.clone()),
        ("zmq_ip", "127.0.0.1".to_owned()),
        ("zmq_port", "0".to_owned()),
        ("webhook_url", options.webhook_url.clone()),
    ];
    let files = [
        ("KEYLIME_VERIFIER_CONFIG", vec![("verifier", verifier(ports, options)), ("revocations", revocations)]),
        ("KEYLIME_REGISTRAR_CONFIG", vec![("registrar", registrar(ports))]),
        ("KEYLIME_TENANT_CONFIG", vec![("tenant", tenant(ports, options, cert_store))]),
        ("KEYLIME_CA_CONFIG", vec![("ca", ca())]),
    ];
    let mut written = Vec::new();
    for (variable, sections) in files {
        let mut text = String::new();
        let mut file = "logging";
        for (index, (name, section)) in sections.into_iter().enumerate() {
            if index == 0 {
                file = name;
            }
            writeln!(text, "[{name}]")?;
            let overrides = options.overrides.iter().filter(|entry| entry.0 == name);
            let overrides: Vec<_> = overrides.map(|(_, option, value)| (option.as_str(), value)).collect();
            for (option, value) in &section {
                if overrides.iter().all(|(name, _)| name != option) {
                    writeln!(text, "{option} = {value}")?;
                }
            }
            for (option, value) in overrides {
                writeln!(text, "{option} = {value}")?;
            }
        }
        written.push((variable, save(folder, file, &text)?));
    }
    written.push(("KEYLIME_LOGGING_CONFIG", save(folder, "logging", LOGGING)?));
    Ok(written)
}

fn save(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(format!("{name}.conf"));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
