// SPDX-License-Identifier: Apache-2.0
//! Each source of the agent id, as the real registrar knows the host by it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{BINARY, Lab, options};
use test_support::{KeylimeAgentOptions, KeylimeOptions, require};

const PRODUCT_UUID: &str = "4c4c4544-0042-3510-8053-b4c04f564433";

/// A program that starts the agent in namespaces of its own, where the host has a product UUID that root may read.
fn with_product_uuid(folder: &Path) -> PathBuf {
    script(
        &folder.join("with-product-uuid"),
        &format!(
            "mount -t tmpfs tmpfs /sys/class && mkdir -p /sys/class/dmi/id && cd /sys/class/dmi/id &&\n\
             echo {} > product_uuid && chmod 400 product_uuid && exec {BINARY} \"$@\"",
            PRODUCT_UUID.to_uppercase()
        ),
    )
}

/// A program that starts the agent where the host has this name and this hosts file.
fn with_host_name(folder: &Path, name: &str, hosts: &str) -> PathBuf {
    let file = folder.join(format!("hosts-of-{name}"));
    std::fs::write(&file, hosts).unwrap();
    let inner = script(
        &folder.join(format!("inner-{name}")),
        &format!("hostname {name} && mount --bind {} /etc/hosts && exec {BINARY} \"$@\"", file.display()),
    );
    script(&folder.join(format!("with-name-{name}")), &format!("exec unshare --uts {} \"$@\"", inner.display()))
}

fn script(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

#[test]
fn the_registrar_knows_the_host_by_each_of_them() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let given = "5d01d4f6-3c2e-4b36-9a57-1f3c7ed9a001";
    let of = |uuid: &str| KeylimeAgentOptions { uuid: uuid.to_owned(), ..options() };
    let by = |binary: PathBuf, uuid: &str| KeylimeAgentOptions { binary, ..of(uuid) };
    let asks = folder.path().join("asks-for-environment.conf");
    std::fs::write(&asks, "[agent]\nuuid = \"environment\"\n").unwrap();
    let mut rows = vec![
        (of("hash_ek"), None),
        (of("5D01D4F63C2E4B369A571F3C7ED9A001"), Some(given)),
        (of("generate"), None),
        (of("rack-7.host_12").env("KEYLIME_AGENT_CONFIG", asks.to_str().unwrap()), Some("rack-7.host_12")),
    ];
    if require::root().is_some() {
        let hosts = "127.0.0.1 localhost\n192.0.2.7 host7.tower.example host7\n";
        rows.push((by(with_product_uuid(folder.path()), "dmidecode"), Some(PRODUCT_UUID)));
        rows.push((by(with_host_name(folder.path(), "host7", hosts), "hostname"), Some("host7.tower.example")));
        rows.push((by(with_host_name(folder.path(), "h8.example", hosts), "hostname"), Some("h8.example")));
    }
    for (options, expected) in rows {
        let mut agent = lab.agent(&options);
        let id = agent.id().unwrap();
        if let Some(expected) = expected {
            assert_eq!(id, expected, "{}", options.uuid);
        }
        let record = lab.servers.registrar_agent(&id).unwrap().unwrap();
        assert_eq!(record["port"], agent.port);
        if options.uuid == "generate" {
            let log = agent.part().log();
            assert!(log.contains(&format!("> Generated a new UUID: {id}\n")), "{log}");
            agent.restart().unwrap();
            let log = agent.part().log();
            let (_, second) = log.rsplit_once("Agent UUID: ").unwrap();
            assert_ne!(second.lines().next().unwrap(), id);
        }
        assert!(agent.terminate().unwrap().success());
    }
}

#[test]
fn the_ek_at_a_handle_with_its_chain_behind_passwords() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    // The issuer's certificate, as makers store it beside the EK's own.
    let issuer = std::fs::read(&lab.tpm.ca_certs[0]).unwrap();
    let pem = String::from_utf8(issuer).unwrap();
    let output = lab.tpm.scratch().join("issuer.der");
    let convert =
        ["x509", "-in", lab.tpm.ca_certs[0].to_str().unwrap(), "-outform", "DER", "-out", output.to_str().unwrap()];
    assert!(Command::new("openssl").args(convert).status().unwrap().success());
    let size = std::fs::metadata(&output).unwrap().len().to_string();
    let define = ["0x01C00100", "-C", "o", "-s", &size, "-a", "ownerwrite|ownerread"];
    lab.tpm.tool("tpm2_nvdefine", &define).unwrap();
    lab.tpm.tool("tpm2_nvwrite", &["0x01C00100", "-C", "o", "-i", "issuer.der"]).unwrap();
    for hierarchy in ["owner", "endorsement"] {
        lab.tpm.tool("tpm2_changeauth", &["-c", hierarchy, "hex:0a0b00ff"]).unwrap();
    }
    let options = || options().env("KEYLIME_AGENT_EK_HANDLE", "81010001");
    let (code, log) = lab.failing_agent(&options().env("KEYLIME_AGENT_TPM_OWNERPASSWORD", "wrong"));
    assert_eq!(code, Some(1));
    let refused = "the TPM refuses the endorsement hierarchy's authorization value (Keylime option tpm_ownerpassword)";
    assert!(log.contains(refused), "{log}");
    let mut agent = lab.agent(&options().env("KEYLIME_AGENT_TPM_OWNERPASSWORD", "hex:0a0b00ff"));
    assert!(agent.part().log().contains("> Found EK certificate chain in TPM NVRAM\n"));
    assert!(!agent.part().log().contains("0a0b00ff"));
    let id = agent.id().unwrap();
    let record = lab.servers.registrar_agent(&id).unwrap().unwrap();
    // The registrar keeps the first certificate.
    assert!(record["ekcert"].as_str().is_some_and(|text| !text.is_empty() && !pem.contains(text)), "{record}");
    // The tenant checks it against its store.
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, support::LIMIT).unwrap();
    assert!(agent.terminate().unwrap().success());
    assert!(lab.tpm.persistent_handles().unwrap().contains(&0x8101_0001));

    // The EK by template is the same one.
    let again = KeylimeAgentOptions { folder: Some(agent.folder.clone()), ..options() };
    let again = again.env("KEYLIME_AGENT_TPM_OWNERPASSWORD", "hex:0a0b00ff").env("KEYLIME_AGENT_EK_HANDLE", "generate");
    assert_eq!(lab.agent(&again).id().unwrap(), id);
}

/// Standard error of `keylime_agent --check-config`, or of a program that runs it.
fn check(program: &Path, folder: &Path, lines: &str) -> String {
    let config = folder.join("agent.conf");
    let lines = format!(
        "[agent]\nkeylime_dir = \"{}\"\nenable_agent_mtls = false\npayload_script = \"\"\n{lines}",
        folder.display()
    );
    std::fs::write(&config, lines).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--"])
        .arg(program)
        .arg("--check-config")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("KEYLIME_AGENT_CONFIG", &config)
        .env("TCTI", "swtpm:path=nowhere")
        .output()
        .unwrap();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_product_uuid_is_read_before_the_change_of_the_user() {
    let Some(()) = require::root() else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(folder, Some(65534), Some(65534)).unwrap();
    let lines = "uuid = \"dmidecode\"\nrun_as = \"65534:65534\"";
    // Only root may read this one either, and it is read after the change.
    let data = folder.join("agent_data.json");
    std::fs::write(&data, "{}").unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o600)).unwrap();
    let log = check(&with_product_uuid(folder), folder, lines);
    let denied = "agent_data.json: Permission denied (os error 13)";
    assert!(log.contains(denied) && log.matches("ERROR").count() == 1, "{log}");
    // Without SMBIOS; the other problems come along.
    let nothing =
        script(&folder.join("no-smbios"), &format!("mount -t tmpfs tmpfs /sys/class && exec {BINARY} \"$@\""));
    let log = check(&nothing, folder, lines);
    assert!(
        log.contains(&format!(
            "> option 'uuid' ({}/agent.conf): cannot read the product UUID from /sys/class/dmi/id/product_uuid: No such \
             file or directory (os error 2). The machine's firmware must have one, and the agent be started as root\n",
            folder.display()
        )),
        "{log}"
    );
    assert!(log.contains(denied), "{log}");
}

#[test]
fn what_a_host_is_called_that_has_no_name_is_warned_about() {
    let Some(()) = require::root() else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = with_host_name(dir.path(), "localhost", "127.0.0.1 localhost\n");
    let log = check(&program, dir.path(), "uuid = \"hostname\"\nrun_as = \"\"");
    let warning = "> option 'uuid': localhost is what hosts report that have been given nothing of their own, so hosts \
                   may be taken for one another: set uuid = \"hash_ek\"; the agent id is another then, and the host has to be \
                   added anew\n";
    assert!(log.contains(warning), "{log}");
}
