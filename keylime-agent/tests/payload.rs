// SPDX-License-Identifier: Apache-2.0
//! Payloads that the real tenant delivers once the real verifier has seen a good quote.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use support::{BINARY, LIMIT, Lab, options};
use test_support::payload::zip;
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, require};

/// A file as the agent sees it, which may have mounts of its own.
fn seen(agent: &mut KeylimeAgent, path: &Path) -> PathBuf {
    let root = format!("/proc/{}/root", agent.part().pid());
    Path::new(&root).join(path.strip_prefix("/").unwrap())
}

#[test]
fn a_payload_script_runs_as_the_user_of_run_as() {
    let (Some(()), Some(mut lab)) = (require::root(), Lab::start(KeylimeOptions::default())) else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let keylime = folder.path().join("keylime");
    std::fs::create_dir(&keylime).unwrap();
    std::os::unix::fs::chown(&keylime, Some(65534), Some(65534)).unwrap();
    let ca = folder.path().join("cacert.crt");
    std::fs::copy(lab.servers.ca_cert(), &ca).unwrap();
    std::fs::set_permissions(&ca, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ca = ca.to_str().unwrap();
    let options = KeylimeAgentOptions { folder: Some(keylime.clone()), ..options() }
        .env("KEYLIME_AGENT_RUN_AS", "nobody:nogroup")
        .env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", ca)
        .env("KEYLIME_AGENT_REGISTRAR_TLS_CA_CERT", ca);
    // The agent silences libtss2 itself, and keeps that to itself.
    let binary = folder.path().join("keylime_agent");
    std::fs::write(&binary, format!("#!/bin/sh\nunset TSS2_LOG\nexec '{BINARY}'\n")).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut agent = lab.agent(&KeylimeAgentOptions { binary, ..options });
    let payload = folder.path().join("payload.zip");
    let script = "#!/bin/sh\nid -u > result\nenv | grep -c -e KEYLIME_AGENT_ -e TSS2_LOG >> result\n\
                  [ \"$USER $LOGNAME\" = \"nobody nobody\" ] && [ \"$HOME\" = ~nobody ] && echo own >> result\n";
    zip(
        &payload,
        &[("autorun.sh", script), ("data", "data"), ("action_list", "local_action_x"), ("local_action_x", "")],
    )
    .unwrap();
    lab.tenant(&agent, "add", &["-f", payload.to_str().unwrap(), "--verify"]);
    agent.part().wait_log("> Successfully executed encrypted payload", LIMIT).unwrap();
    lab.servers.wait_verified(&agent.id().unwrap(), LIMIT).unwrap();

    let secure = keylime.canonicalize().unwrap().join("secure");
    let log = agent.part().log();
    let shown = secure.display();
    for line in [
        format!("Directory \"{shown}\" created."),
        format!("Mounting secure storage location \"{shown}\" on tmpfs."),
        "Successfully derived symmetric payload decryption key".to_owned(),
        "GET key challenge returning 200 response.".to_owned(),
        "Successfully decrypted payload".to_owned(),
        format!("Wrote payload decryption key to {shown}/unzipped/derived_tci_key"),
        format!("Wrote decrypted payload to {shown}/unzipped/decrypted_payload"),
        format!("Permission set for action: {shown}/unzipped/local_action_x"),
        "Payload init script indicated: autorun.sh".to_owned(),
        format!("Running script: {shown}/unzipped/autorun.sh"),
        format!("Executing payload script: {shown}/unzipped/autorun.sh"),
        format!("{shown}/unzipped/autorun.sh ran successfully"),
    ] {
        assert_eq!(log.matches(&format!("> {line}\n")).count(), 1, "{line}: {log}");
    }
    let unzipped = seen(&mut agent, &secure).join("unzipped");
    let read = |name: &str| std::fs::read_to_string(unzipped.join(name)).unwrap();
    assert_eq!((read("result").as_str(), read("data").as_str()), ("65534\n0\nown\n", "data"));
    for (name, mode) in [("..", 0o700), ("", 0o700), ("derived_tci_key", 0o600), ("data", 0o600)] {
        let found = std::fs::metadata(unzipped.join(name)).unwrap();
        assert_eq!((found.uid(), found.permissions().mode() & 0o7777), (65534, mode), "{name}");
    }
    // Nothing of it has reached the disk.
    assert_eq!(std::fs::read_dir(&secure).unwrap().count(), 0);
    drop(agent);
    lab.tpm.flush_transient().unwrap();
    lab.tpm.power_off();
}

#[test]
fn a_certificate_package_is_unpacked() {
    // Without a password of its own the tenant would ask for one.
    let overrides = vec![("ca".to_owned(), "password".to_owned(), "secret".to_owned())];
    let keylime = KeylimeOptions { overrides, ..KeylimeOptions::default() };
    let (Some(()), Some(lab)) = (require::root(), Lab::start(keylime)) else { return };
    let mut agent = lab.agent(&options());
    let id = agent.id().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ca, include) = (folder.path().join("ca"), folder.path().join("include"));
    std::fs::create_dir(&include).unwrap();
    // Without the first line that names its interpreter.
    std::fs::write(include.join("autorun.sh"), "echo failing on purpose >&2\nexit 9\n").unwrap();
    lab.tenant(&agent, "add", &["--cert", ca.to_str().unwrap(), "--include", include.to_str().unwrap()]);
    agent.part().wait_log("> Failed to run encrypted payload: ", LIMIT).unwrap();
    let log = agent.part().log();
    let secure = agent.folder.canonicalize().unwrap().join("secure");
    let text = format!("the script {}/unzipped/autorun.sh ended with exit status: 9\n", secure.display());
    assert!(log.contains(&text) && log.contains("> Script stderr: failing on purpose\n"), "{log}");
    let unzipped = seen(&mut agent, &secure).join("unzipped");
    let names = [&format!("{id}-cert.crt"), &format!("{id}-private.pem"), "cacert.crt", "RevocationNotifier-cert.crt"];
    for name in names {
        assert!(unzipped.join(name).metadata().unwrap().len() > 0, "{name}");
    }
    lab.servers.wait_verified(&id, LIMIT).unwrap();
}

#[test]
fn without_mtls_a_payload_has_to_be_allowed() {
    let Some(lab) = Lab::start(KeylimeOptions { agent_mtls: false, ..KeylimeOptions::default() }) else { return };
    let payload = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(payload.path(), "just text").unwrap();
    let mut agent = lab.agent(&KeylimeAgentOptions { mtls: false, ..options() });
    lab.tenant(&agent, "add", &["-f", payload.path().to_str().unwrap()]);
    agent.part().wait_log("payloads cannot be deployed", LIMIT).unwrap();
    assert!(!agent.part().log().contains("decrypted payload"));
    lab.servers.wait_verified(&agent.id().unwrap(), LIMIT).unwrap();
}
