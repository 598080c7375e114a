// SPDX-License-Identifier: Apache-2.0
//! Each option of the stock agent: known under its name, with its default, from each source, with an effect or a reason why
//! not, and documented.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use keylime_agent::Config;
use keylime_agent::config::{Inspection, Notice, Shown, Sources};
use support::{LIMIT, Lab, options};
use test_support::{KeylimeAgentOptions, KeylimeOptions, require};

/// An option of the stock agent.
struct Row {
    name: &'static str,
    /// Its value in the configuration file that is shipped with the stock agent, in TOML.
    stock: &'static str,
    /// What ours shows without a setting, in TOML; `{}` is `keylime_dir`.
    default: &'static str,
    /// Another value, as text.
    other: &'static str,
    /// What ours shows of that.
    shown: &'static str,
    /// Settings without which the option does not count.
    with: &'static str,
}

const fn row(
    name: &'static str,
    stock: &'static str,
    default: &'static str,
    other: &'static str,
    shown: &'static str,
) -> Row {
    Row { name, stock, default, other, shown, with: "" }
}

const fn row_with(name: &'static str, [stock, default, other, shown]: [&'static str; 4], with: &'static str) -> Row {
    Row { name, stock, default, other, shown, with }
}

/// The shipped file, in its order.
const OPTIONS: &[Row] = &[
    row("version", "\"2.4\"", "", "2.0", "\"2.0\""),
    row("api_versions", "\"default\"", "\"2.1, 2.2, 2.3, 2.4, 2.5, 2.6\"", "2.5, 2.1", "\"2.1, 2.5\""),
    row("uuid", "\"d432fbb3-d2f1-4a97-9ef7-75bd81c00000\"", "\"hash_ek\"", "generate", "\"generate\""),
    row("ip", "\"127.0.0.1\"", "\"127.0.0.1\"", "[::1]", "\"::1\""),
    row("port", "9002", "9002", "9102", "9102"),
    row("contact_ip", "\"127.0.0.1\"", "\"127.0.0.1\"", "host.example", "\"host.example\""),
    row("contact_port", "9002", "9002", "9102", "9102"),
    row("registrar_ip", "\"127.0.0.1\"", "\"127.0.0.1\"", "192.0.2.1", "\"192.0.2.1\""),
    row("registrar_port", "8890", "8890", "8990", "8990"),
    row_with("registrar_tls_port", ["8891", "8891", "8991", "8991"], "registrar_tls_enabled = true\n"),
    row("registrar_tls_enabled", "false", "false", "True", "true"),
    row_with(
        "registrar_tls_ca_cert",
        ["\"default\"", "\"{}/cv_ca/cacert.crt\"", "ca.crt", "\"{}/ca.crt\""],
        "registrar_tls_enabled = true\n",
    ),
    row_with("enable_agent_mtls", ["true", "true", "False", "false"], "payload_script = \"\"\n"),
    row("keylime_dir", "\"/var/lib/keylime\"", "\"{}\"", "/", "\"/\""),
    row("server_key", "\"default\"", "\"{}/server-private.pem\"", "/k.pem", "\"/k.pem\""),
    row("server_key_password", "\"\"", "\"\"", "secret", "(hidden)"),
    row("payload_key", "\"default\"", "\"{}/payload-private.pem\"", "k.pem", "\"{}/k.pem\""),
    row("payload_key_password", "\"\"", "\"\"", "secret", "(hidden)"),
    row("server_cert", "\"default\"", "\"{}/server-cert.crt\"", "c.crt", "\"{}/c.crt\""),
    row("trusted_client_ca", "\"default\"", "\"{}/cv_ca/cacert.crt\"", "['/a.crt', b.crt]", "\"/a.crt, {}/b.crt\""),
    row("enc_keyname", "\"derived_tci_key\"", "\"derived_tci_key\"", "key", "\"key\""),
    row("dec_payload_file", "\"decrypted_payload\"", "\"decrypted_payload\"", "text", "\"text\""),
    row("secure_size", "\"1m\"", "\"1m\"", "2m", "\"2m\""),
    row("extract_payload_zip", "true", "true", "false", "false"),
    row_with("enable_revocation_notifications", ["false", "false", "true", "true"], "revocation_actions_dir = \"/\"\n"),
    row("revocation_actions_dir", "\"/usr/libexec/keylime\"", "\"/usr/libexec/keylime\"", "/opt", "\"/opt\""),
    row_with(
        "revocation_notification_ip",
        ["\"127.0.0.1\"", "\"127.0.0.1\"", "192.0.2.1", "\"192.0.2.1\""],
        "enable_revocation_notifications = true\nrevocation_actions_dir = \"/\"\n",
    ),
    row_with(
        "revocation_notification_port",
        ["8992", "8992", "8993", "8993"],
        "enable_revocation_notifications = true\nrevocation_actions_dir = \"/\"\n",
    ),
    row(
        "revocation_cert",
        "\"default\"",
        "\"{}/secure/unzipped/RevocationNotifier-cert.crt\"",
        "r.crt",
        "\"{}/r.crt\"",
    ),
    row("revocation_actions", "\"\"", "\"\"", "a, b", "\"a, b\""),
    row("payload_script", "\"autorun.sh\"", "\"autorun.sh\"", "run", "\"run\""),
    row("enable_insecure_payload", "false", "false", "true", "true"),
    row("allow_payload_revocation_actions", "true", "true", "false", "false"),
    row("tpm_hash_alg", "\"sha256\"", "\"sha256\"", "sha384", "\"sha384\""),
    row("tpm_encryption_alg", "\"rsa\"", "\"rsa2048\"", "rsa3072", "\"rsa3072\""),
    row("tpm_signing_alg", "\"rsassa\"", "\"rsassa\"", "rsapss", "\"rsapss\""),
    row("ek_handle", "\"generate\"", "\"generate\"", "81010001", "\"0x81010001\""),
    row("enable_iak_idevid", "false", "false", "true", "true"),
    row_with("iak_idevid_template", ["\"detect\"", "\"detect\"", "H-2", "\"H-2\""], "enable_iak_idevid = true\n"),
    row_with(
        "iak_idevid_asymmetric_alg",
        ["\"rsa\"", "\"rsa\"", "ecc", "\"ecc\""],
        "enable_iak_idevid = true\niak_idevid_template = \"manual\"\n",
    ),
    row_with(
        "iak_idevid_name_alg",
        ["\"sha256\"", "\"sha256\"", "sha512", "\"sha512\""],
        "enable_iak_idevid = true\niak_idevid_template = \"manual\"\n",
    ),
    row_with("idevid_password", ["\"\"", "\"\"", "secret", "(hidden)"], "enable_iak_idevid = true\n"),
    row_with("idevid_handle", ["\"\"", "\"\"", "0x81020001", "\"0x81020001\""], "enable_iak_idevid = true\n"),
    row_with("iak_password", ["\"\"", "\"\"", "secret", "(hidden)"], "enable_iak_idevid = true\n"),
    row_with("iak_handle", ["\"\"", "\"\"", "81020000", "\"0x81020000\""], "enable_iak_idevid = true\n"),
    row_with("iak_cert", ["\"default\"", "\"{}/iak-cert.crt\"", "", "\"\""], "enable_iak_idevid = true\n"),
    row_with(
        "idevid_cert",
        ["\"default\"", "\"{}/idevid-cert.crt\"", "i.crt", "\"{}/i.crt\""],
        "enable_iak_idevid = true\n",
    ),
    row("tpm_ownerpassword", "\"\"", "\"\"", "hex:0a", "(hidden)"),
    row("run_as", "\"keylime:tss\"", "\"keylime:tss\"", "me", "\"me\""),
    row("agent_data_path", "\"default\"", "\"{}/agent_data.json\"", "a.json", "\"{}/a.json\""),
    row(
        "ima_ml_path",
        "\"default\"",
        "\"/sys/kernel/security/ima/ascii_runtime_measurements\"",
        "tmp/ima",
        "\"/tmp/ima\"",
    ),
    row(
        "measuredboot_ml_path",
        "\"default\"",
        "\"/sys/kernel/security/tpm0/binary_bios_measurements\"",
        "/b",
        "\"/b\"",
    ),
    row("attestation_interval_seconds", "60", "\"60\"", "30", "\"30\""),
    row("verifier_url", "\"https://localhost:8881\"", "\"https://localhost:8881\"", "https://v", "\"https://v\""),
    row("verifier_tls_ca_cert", "\"default\"", "\"default\"", "v.crt", "\"v.crt\""),
    row("registrar_api_versions", "\"default\"", "\"default\"", "2.5", "\"2.5\""),
    row("certification_keys_server_identifier", "\"ak\"", "\"ak\"", "x", "\"x\""),
    row("uefi_logs_evidence_version", "\"2.1\"", "\"2.1\"", "3.0", "\"3.0\""),
    row("exponential_backoff_initial_delay", "10000", "10000", "20", "20"),
    row("exponential_backoff_max_retries", "5", "(no end)", "7", "7"),
    row("exponential_backoff_max_delay", "300000", "300000", "20", "20"),
    row("tls_accept_invalid_certs", "false", "\"false\"", "true", "\"true\""),
    row("tls_accept_invalid_hostnames", "false", "\"false\"", "true", "\"true\""),
];

/// Where ours has another default than the shipped file, as the table of differences says.
const OTHER_DEFAULTS: &[&str] = &["uuid", "exponential_backoff_max_retries"];
/// Says which version the file's format has, and never had an effect.
const FORMAT: &str = "version";

const PLAIN_HTTP: &str = "option 'registrar_tls_enabled' (FILE) is false: the registration goes over plain HTTP, where \
                          anyone on the way can read and change it: set it to true, with registrar_tls_port (8891) and \
                          registrar_tls_ca_cert";
const SAMPLE: &str = "option 'uuid' (FILE): d432fbb3-d2f1-4a97-9ef7-75bd81c00000 is a sample that every host with an unchanged \
                      configuration claims, so hosts may be taken for one another: set uuid = \"hash_ek\"; the agent \
                      id is another then, and the host has to be added anew";

/// The shipped file, without its comments.
fn stock_file() -> String {
    OPTIONS.iter().map(|row| format!("{} = {}\n", row.name, row.stock)).fold("[agent]\n".to_owned(), |a, b| a + &b)
}

fn inspect(files: &[(&str, String)], environment: &[(String, &str)]) -> (Inspection, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mut environment: Vec<_> = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let sets_folder = |text: &str| text.contains("keylime_dir = \"/\"");
    let is_set = environment.iter().any(|(name, _): &(std::ffi::OsString, _)| name == "KEYLIME_AGENT_KEYLIME_DIR");
    if !is_set && !files.iter().any(|(_, text)| sets_folder(text)) {
        environment.push(("KEYLIME_DIR".into(), dir.path().as_os_str().to_owned()));
    }
    let folders = vec![dir.path().join("usr"), dir.path().join("etc")];
    let inspection = Config::inspect(&Sources { folders, environment }).unwrap();
    (inspection, dir.path().display().to_string())
}

fn warnings(inspection: &Inspection) -> Vec<&str> {
    let notices = inspection.notices.iter();
    notices.filter_map(|notice| if let Notice::Warning(text) = notice { Some(text.as_str()) } else { None }).collect()
}

/// An option as it is shown, whether it has an effect, and where it is from.
fn option(inspection: &Inspection, name: &str) -> Option<(String, bool, String)> {
    let found = inspection.options.iter().find(|option| option.name == name)?;
    let shown = match &found.value {
        Shown::Value(value) => value.clone(),
        Shown::Hidden => "(hidden)".to_owned(),
        Shown::Nothing(meaning) => format!("({meaning})"),
        Shown::Wrong => "(wrong)".to_owned(),
    };
    Some((shown, found.has_effect, found.source.as_ref().map(ToString::to_string).unwrap_or_default()))
}

/// All settings without those that have no place in `Debug`.
fn debug(inspection: &Inspection, dir: &str) -> String {
    format!("{:?}", inspection.config).replace(dir, "{}")
}

#[test]
fn each_option_from_each_source() {
    let page = include_str!("../../docs/keylime-agent.md");
    for row in OPTIONS {
        let name = row.name;
        let quoted = |text: &str| format!("{name} = {text:?}\n");
        let file = |text: &str| format!("[agent]\n{}{text}", row.with);
        let variable = format!("KEYLIME_AGENT_{}", name.to_uppercase());
        let (plain, dir) = inspect(&[("etc/agent.conf", file(""))], &[]);
        if name != FORMAT {
            let (shown, ..) = option(&plain, name).unwrap_or_else(|| panic!("{name} is not known"));
            assert_eq!(shown, row.default.replace("{}", &dir), "{name}");
        }
        let before = debug(&plain, &dir);
        let main = ("usr/agent.conf", file(""));
        let below = ("etc/agent.conf.d/10-below", format!("[agent]\n{name} = {}\n", row.stock));
        for (files, environment, source) in [
            (vec![("etc/agent.conf", file(&quoted(row.other)))], vec![], "etc/agent.conf"),
            (
                vec![main.clone(), ("usr/agent.conf.d/x", format!("[agent]\n{}", quoted(row.other)))],
                vec![],
                "usr/agent.conf.d/x",
            ),
            (vec![main, below], vec![(variable.clone(), row.other)], variable.as_str()),
        ] {
            let (set, dir) = inspect(&files, &environment);
            assert_eq!(set.problems, None, "{name}");
            let (shown, has_effect, from) = option(&set, name).unwrap();
            // With another keylime_dir, its files are elsewhere.
            assert_eq!(shown, row.shown.replace("{}", &dir), "{name}");
            assert!(from.ends_with(source), "{name}: {from}");
            let warned = warnings(&set).into_iter().any(|text| text.starts_with(&format!("option '{name}' (")));
            if has_effect {
                assert!(!warned, "{name}");
                let is_secret = row.shown == "(hidden)";
                assert!(is_secret || debug(&set, &dir) != before, "{name} changes nothing");
            } else {
                assert!(warned || name == FORMAT, "{name} changes nothing in silence");
                assert_eq!(debug(&set, &dir), before, "{name}");
            }
        }
        let (_, tables) = page.split_once("\n| Option | Default | Meaning |").unwrap();
        let (tables, _) = tables.split_once("\n## Payload").unwrap();
        assert!(tables.contains(&format!("`{name}`")) || name == FORMAT, "{name} is not documented");
    }
}

#[test]
fn the_shipped_file_means_what_no_file_means() {
    let (shipped, dir) = inspect(&[("etc/agent.conf", stock_file())], &[]);
    assert_eq!(shipped.problems, None);
    let with_file = |text: &str, dir: &str| text.replace("FILE", &format!("{dir}/etc/agent.conf"));
    assert_eq!(warnings(&shipped), [with_file(SAMPLE, &dir), with_file(PLAIN_HTTP, &dir)]);
    let others: String = stock_file()
        .lines()
        .filter(|line| !OTHER_DEFAULTS.iter().any(|name| line.starts_with(&format!("{name} ="))))
        .map(|line| format!("{line}\n"))
        .collect();
    let (others, others_dir) = inspect(&[("etc/agent.conf", others)], &[]);
    let (nothing, nothing_dir) = inspect(&[], &[]);
    assert_eq!(debug(&others, &others_dir), debug(&nothing, &nothing_dir));
    assert_ne!(debug(&others, &others_dir), debug(&shipped, &dir));
    assert_eq!(warnings(&others), [with_file(PLAIN_HTTP, &others_dir)]);
}

#[test]
fn the_shipped_file_starts_the_agent_without_noise() {
    let (Some(()), Some(lab)) = (require::root(), Lab::start(KeylimeOptions::default())) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.conf");
    std::fs::write(&file, stock_file()).unwrap();
    let uuid = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000".to_owned();
    let options = KeylimeAgentOptions { uuid: uuid.clone(), registrar_tls: false, ..options() }
        .env("KEYLIME_AGENT_CONFIG", file.to_str().unwrap());
    let mut agent = lab.agent(&options);
    assert_eq!(agent.id().unwrap(), uuid);
    let log = agent.part().log();
    let of = |levels: [&str; 2]| -> Vec<String> {
        let lines = log.lines().filter(|line| levels.iter().any(|level| line.starts_with(&format!(" {level} "))));
        lines.map(|line| line.split_once(" > ").unwrap().1.to_owned()).collect()
    };
    let file = file.display().to_string();
    let variable = "environment variable KEYLIME_AGENT_UUID";
    let mut expected = vec![SAMPLE.replace("FILE", variable), PLAIN_HTTP.replace("FILE", &file)];
    for (name, path, what) in [
        ("IMA measurement list", "/sys/kernel/security/ima/ascii_runtime_measurements", "runtime"),
        ("Measured boot measurement list", "/sys/kernel/security/tpm0/binary_bios_measurements", "measured boot"),
    ] {
        if !std::path::Path::new(path).exists() {
            let text = format!("{name} not available: {path}: {what} policies cannot be checked on this host");
            expected.push(text);
        }
    }
    expected.push("Cannot drop privileges since 'run_as' is empty: everything here runs as root".to_owned());
    expected.push(format!(
        "No AK in {}: a new one is made. If this host is enrolled already, end the agent and restore the file",
        agent.folder.join("agent_data.json").display()
    ));
    let insecure = "INSECURE: ";
    let warned = of(["WARN ", "ERROR"]);
    let (software, others): (Vec<_>, Vec<_>) = warned.into_iter().partition(|text| text.starts_with(insecure));
    assert_eq!((software.len(), others), (3, expected), "{log}");
    lab.servers.enrol(&uuid, agent.port, None).unwrap();
    lab.servers.wait_verified(&uuid, LIMIT).unwrap();
}
