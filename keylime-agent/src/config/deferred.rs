// SPDX-License-Identifier: Apache-2.0
//! Options of the stock agent that have no effect here, so that its configuration can be used unchanged.
//!
//! At its stock value such an option is accepted in silence. Any other value is warned about by name.

use super::Shown;
use super::reader::Reader;

/// What a value other than the stock one leads to.
enum Otherwise {
    /// A warning with this reason.
    Ignored(&'static str),
    /// Nothing: the option never had an effect in this kind of agent.
    Silent,
}
use Otherwise::{Ignored, Silent};

const PUSH: &str = "it belongs to the push model, and this agent serves the pull model: remove it, or run an agent of the \
                    push model on this host instead";
const VERIFIED: &str = "the certificate and name of the registrar are always checked: remove it, and set \
                        'registrar_tls_ca_cert' to the CA of that certificate";

/// Option, the values that are accepted in silence, and what happens at others.
const DEFERRED: &[(&str, &[&str], Otherwise)] = &[
    ("attestation_interval_seconds", &["60"], Ignored(PUSH)),
    ("verifier_url", &["https://localhost:8881", ""], Ignored(PUSH)),
    ("verifier_tls_ca_cert", &["default", ""], Ignored(PUSH)),
    ("registrar_api_versions", &["default", ""], Ignored(PUSH)),
    ("certification_keys_server_identifier", &["ak"], Ignored(PUSH)),
    ("uefi_logs_evidence_version", &["2.1"], Ignored(PUSH)),
    ("tls_accept_invalid_certs", &["false"], Ignored(VERIFIED)),
    ("tls_accept_invalid_hostnames", &["false"], Ignored(VERIFIED)),
    // The version of the file's format, and names that older templates carry without any effect.
    ("version", &[], Silent),
    ("tls_dir", &[], Silent),
    ("measure_payload_pcr", &[], Silent),
    ("exponential_backoff", &[], Silent),
    ("retry_interval", &[], Silent),
    ("max_retries", &[], Silent),
    ("enable_authentication", &[], Silent),
    ("receive_revocation_port", &[], Silent),
];

/// Checks all options of the table and warns.
pub(super) fn check(reader: &mut Reader<'_>) {
    for (name, stock, otherwise) in DEFERRED {
        let Some(setting) = reader.options.setting(name) else {
            if let Some(stock) = stock.first() {
                reader.note(name, Shown::value(stock), false);
            }
            continue;
        };
        let written = if setting.value.is_array() {
            reader.options.list(name).unwrap_or_default().join(", ")
        } else {
            reader.options.text(name).unwrap_or_default()
        };
        reader.note(name, Shown::value(&written), false);
        if stock.iter().any(|value| value.eq_ignore_ascii_case(written.trim())) {
            continue;
        }
        match otherwise {
            Ignored(reason) => {
                let source = &setting.source;
                reader.warn(format!("option '{name}' ({source}) has no effect: {reason}"));
            }
            Silent => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use service::layered::{Layered, Source};

    use super::*;
    use crate::config::Notice;

    fn check_one(name: &str, value: impl Into<toml::Value>) -> (Vec<String>, String) {
        let mut layered = Layered::new();
        layered.set(name, value.into(), Source::File("f".into()));
        let mut reader = Reader::new(&layered, Vec::new());
        check(&mut reader);
        let (_, notices, problems) = reader.finish();
        let problems = problems.map_or_else(String::new, |problems| problems.to_string());
        let warnings = notices.into_iter().map(|notice| match notice {
            Notice::Warning(text) | Notice::Info(text) | Notice::Debug(text) => text,
        });
        (warnings.collect(), problems)
    }

    #[test]
    fn stock_values_pass_in_silence() {
        for (name, stock, _) in DEFERRED {
            for value in *stock {
                assert_eq!(check_one(name, *value), (vec![], String::new()), "{name}");
            }
        }
        assert_eq!(check_one("attestation_interval_seconds", 60), (vec![], String::new()));
        assert_eq!(check_one("version", "9.9"), (vec![], String::new()));
    }

    #[test]
    fn other_values_are_named() {
        for (name, value, reason) in
            [("verifier_url", "https://verifier:8881", PUSH), ("tls_accept_invalid_certs", "true", VERIFIED)]
        {
            let (warnings, problems) = check_one(name, value);
            assert_eq!(problems, "");
            assert_eq!(warnings, [format!("option '{name}' (f) has no effect: {reason}")]);
        }
    }
}
