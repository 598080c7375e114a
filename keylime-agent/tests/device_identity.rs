// SPDX-License-Identifier: Apache-2.0
//! IAK and IDevID with a real registrar that asks for them (`tpm_identity = iak_idevid`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use support::BINARY;
use support::device::Device;
use test_support::KeylimeAgentOptions;
use test_support::device_identity::{DeviceCa, DeviceKey};

#[test]
fn the_registrar_takes_keys_of_each_template_and_of_handles() {
    let Some(device) = Device::new() else { return };
    let lab = &device.lab;
    let template = "KEYLIME_AGENT_IAK_IDEVID_TEMPLATE";
    device.certified("rsa", "DER", ["rsa2048", "sha256"], None);
    device.certified("p256", "PEM", ["ecc256", "sha256"], None);
    device.certified("p384", "DER", ["ecc384", "sha384"], None);
    let handles = [("0x81020000", "secret"), ("0x81020001", "device")];
    device.certified("stored", "PEM", ["ecc256", "sha256"], Some(handles));
    let manual = device.named("p384").env(template, "manual");
    let manual = manual.env("KEYLIME_AGENT_IAK_IDEVID_ASYMMETRIC_ALG", "ecc");
    let stored = device.named("stored").env(template, "H-1").env("KEYLIME_AGENT_IAK_HANDLE", "0x81020000");
    let stored = stored.env("KEYLIME_AGENT_IDEVID_HANDLE", "81020001").env("KEYLIME_AGENT_IDEVID_PASSWORD", "device");
    let hash_ek = KeylimeAgentOptions { uuid: "hash_ek".to_owned(), ..device.named("rsa") };
    let made = "Recreating";
    for (row, options, how) in [
        ("detected from RSA", device.named("rsa"), made),
        ("H-1", device.named("rsa").env(template, "H-1"), made),
        ("detected from P-256", device.named("p256"), made),
        ("detected from P-384", device.named("p384"), made),
        ("manual", manual.env("KEYLIME_AGENT_IAK_IDEVID_NAME_ALG", "sha384"), made),
        ("at handles", stored.clone().env("KEYLIME_AGENT_IAK_PASSWORD", "hex:736563726574"), "Collecting persisted"),
        // The agent id itself, of 36 and of 64 bytes, instead of its digest.
        ("API 2.5", device.named("rsa").env("KEYLIME_AGENT_API_VERSIONS", "2.5"), made),
        ("API 2.5 and hash_ek", hash_ek.env("KEYLIME_AGENT_API_VERSIONS", "2.5"), made),
    ] {
        let mut agent = lab.agent(&options);
        let log = agent.part().log();
        for line in [
            format!("> {how} IDevID.\n"),
            format!("> {how} IAK.\n"),
            "> IDevID public key matches certificate.\n".to_owned(),
            "> IAK public key matches certificate.\n".to_owned(),
            "> AK certified with IAK.\n".to_owned(),
        ] {
            assert!(log.contains(&line), "{row}: {line}: {log}");
        }
        assert!(lab.servers.registrar_agent(&agent.id().unwrap()).unwrap().is_some(), "{row}");
        assert!(agent.terminate().unwrap().success(), "{row}");
        assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new(), "{row}");
    }
    let (code, log) = lab.failing_agent(&stored.env("KEYLIME_AGENT_IAK_PASSWORD", "wrong"));
    assert_eq!(code, Some(1));
    assert!(log.contains("> the TPM refuses the IAK's authorization value (Keylime option iak_password): "), "{log}");
    let advice =
        "; each start with a wrong one counts towards the TPM's lockout: stop the service before you correct it\n";
    assert!(log.ends_with(advice), "{log}");

    // Attested like any other, and registered again after a restart.
    let id = uuid::Uuid::new_v4().hyphenated().to_string();
    let mut agent = lab.agent(&KeylimeAgentOptions { uuid: id.clone(), ..device.named("rsa") });
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, support::LIMIT).unwrap();
    agent.restart().unwrap();
    lab.wait_quotes(&id, 2);
}

#[test]
fn what_is_not_right_is_refused_here_or_by_the_registrar() {
    let Some(device) = Device::new() else { return };
    let lab = &device.lab;
    device.certified("good", "PEM", ["ecc256", "sha256"], None);
    let fails = |row: &str, options: KeylimeAgentOptions, texts: &[&str]| {
        let (code, log) = lab.failing_agent(&options);
        assert_eq!(code, Some(1), "{row}: {log}");
        for text in texts {
            assert!(log.contains(text), "{row}: {text}: {log}");
        }
        assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new(), "{row}");
    };
    // Each has the other's certificate.
    let text = format!(
        "> the IDevID certificate {} is for another key than the TPM's IDevID: check 'iak_idevid_template' and \
         'idevid_handle', and whether the certificate is this host's\n",
        device.path("good-iak").display()
    );
    fails("exchanged", device.options("good-idevid", "good-iak"), &[&text]);
    let empty = device.named("good").env("KEYLIME_AGENT_IAK_HANDLE", "0x81020009");
    let text = "> no usable IAK at persistent handle 0x81020009 (Keylime option iak_handle): the handle is empty\n";
    fails("empty handle", empty, &[text]);
    // What the registrar says: none of its CAs, no certificate, nothing at all.
    let stranger = DeviceCa::new(device.folder.path(), "stranger").unwrap();
    lab.tpm.device_key(DeviceKey::Iak, "ecc256", "sha256", "").unwrap();
    stranger.certify(&lab.tpm.scratch().join("key.pem"), &device.path("strange"), "PEM").unwrap();
    let refused = "> Failed to register agent: ";
    let invalid = "Could not register agent with invalid data: the registrar's log has the reason (option \
                   'enable_iak_idevid' is on: it takes IAK and IDevID only with both certificates, and only if the tenant's \
                   'tpm_cert_store' holds the CA that has issued them)\n";
    fails("unknown CA", device.options("strange", "good-idevid"), &[refused, invalid]);
    let without = device.named("good").env("KEYLIME_AGENT_IAK_CERT", "").env("KEYLIME_AGENT_IDEVID_CERT", "");
    fails("no certificates", without, &["> AK certified with IAK.\n", refused, invalid]);
    let off = device.named("good").env("KEYLIME_AGENT_ENABLE_IAK_IDEVID", "false");
    let invalid = "Could not register agent with invalid data: the registrar's log has the reason\n";
    fails("off", off, &[refused, invalid]);
}

#[test]
fn files_are_checked_before_the_tpm_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display();
    let check = |lines: &str| {
        let config = format!(
            "[agent]\nrun_as = \"\"\nkeylime_dir = \"{folder}\"\nenable_agent_mtls = false\npayload_script = \"\"\n\
             enable_iak_idevid = true\n{lines}"
        );
        std::fs::write(dir.path().join("agent.conf"), config).unwrap();
        let mut command = std::process::Command::new(BINARY);
        command.arg("--check-config").env_clear().env("KEYLIME_AGENT_CONFIG", dir.path().join("agent.conf"));
        command.env("TCTI", "swtpm:path=nowhere");
        let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("ERROR ")?.split_once("> "));
        lines.map(|(_, message)| message.to_owned()).collect::<Vec<_>>()
    };
    let missing = "No such file or directory (os error 2)";
    assert_eq!(
        check(""),
        [
            format!("cannot read the IAK certificate {folder}/iak-cert.crt (option 'iak_cert'): {missing}"),
            format!("cannot read the IDevID certificate {folder}/idevid-cert.crt (option 'idevid_cert'): {missing}"),
        ]
    );
    assert_eq!(check("iak_cert = \"\"\nidevid_cert = \"\""), Vec::<String>::new());
    for (content, text) in [
        (&b"hello"[..], "option 'iak_cert': the certificate file FILE holds no certificate: expected PEM text"),
        (&[0x30, 3, 2, 1, 1], "the IAK certificate FILE (option 'iak_cert') is no X.509 certificate: "),
        (&[0x30; 70_000], "the IAK certificate FILE (option 'iak_cert') is larger than 65536 bytes"),
    ] {
        std::fs::write(dir.path().join("bad"), content).unwrap();
        let errors = check("iak_cert = \"bad\"\nidevid_cert = \"\"");
        let begin = text.replace("FILE", &format!("{folder}/bad"));
        assert!(errors.len() == 1 && errors[0].starts_with(&begin), "{errors:?}");
    }
}
