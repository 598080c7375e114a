// SPDX-License-Identifier: Apache-2.0
//! A damaged `agent_data.json` never leads to another AK: the agent does not start, a copy is kept, and the registrar hears
//! nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use support::{Lab, has_mode, options};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, Swtpm, SwtpmOptions, require};

/// What the message says after the reason.
const ADVICE: &str = ". A new AK would be a new identity, which the registrar refuses for this agent id, so none is made. \
                      Restore the file from a backup; or move it away and have the registration deleted with: \
                      keylime_tenant -c regdelete -u AGENT_ID (then `-c delete` and `-c add`, if the verifier has the host)";

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The copies of damaged files.
fn copies(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut copies: Vec<_> = entries.filter(|path| path.to_string_lossy().contains(".json.damaged-")).collect();
    copies.sort();
    copies
}

#[test]
fn no_damage_makes_another_identity() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("keylime");
    std::fs::create_dir(&folder).unwrap();
    let options = KeylimeAgentOptions { folder: Some(folder.clone()), ..options() };
    let data = folder.join("agent_data.json");
    let mut agent = lab.agent(&options);
    let id = agent.id().unwrap();
    assert!(agent.terminate().unwrap().success());
    let good = std::fs::read(&data).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let record = || lab.servers.registrar_agent(&id).unwrap().unwrap();
    let registered = record();
    assert_eq!(registered["regcount"], 1);

    // The AK of another TPM, said to be of this one.
    let other_tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let mut other = KeylimeAgent::start(&other_tpm.tcti, &lab.servers, &self::options()).unwrap();
    let mut foreign: serde_json::Value =
        serde_json::from_slice(&std::fs::read(other.folder.join("agent_data.json")).unwrap()).unwrap();
    assert!(other.terminate().unwrap().success());
    foreign["ek_hash"] = serde_json::from_str::<serde_json::Value>(&text).unwrap()["ek_hash"].clone();
    let foreign = serde_json::to_string_pretty(&foreign).unwrap();
    // The AK of this TPM, said to be of another EK, or of none.
    let mut this: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ek_hash = String::from_utf8(serde_json::from_value(this["ek_hash"].clone()).unwrap()).unwrap();
    let mut with_ek_hash = |ek_hash: &str| {
        this["ek_hash"] = ek_hash.as_bytes().into();
        this.to_string()
    };
    let flipped = if ek_hash.ends_with('0') { "1" } else { "0" };
    let other_ek = with_ek_hash(&format!("{}{flipped}", &ek_hash[..63]));
    let said = format!("its ek_hash names another EK, but the AK was made for this one ({ek_hash})");
    let no_ek = "its ek_hash is not 64 lower-case hexadecimal digits";

    let no_file = "it is not an agent data file (";
    for (damaged, reason) in [
        (String::new(), "it is not an agent data file (EOF while parsing a value at line 1 column 0)"),
        (text[..text.len() / 2].to_owned(), no_file),
        ("\0".repeat(text.len()), no_file),
        ("{}".to_owned(), "it is not an agent data file (missing field `ak_hash_alg` at line 1 column 2)"),
        (text.replace("\"Sha256\"", "256"), no_file),
        (text.replacen("0,", "9,", 1), "its public key is malformed ("),
        (with_ek_hash(""), no_ek),
        (with_ek_hash(&ek_hash[..40]), no_ek),
        (other_ek, &said),
        (foreign, "this TPM does not accept it, it was made by another TPM or is damaged: "),
    ] {
        std::fs::write(&data, &damaged).unwrap();
        set_mode(&data, 0o640);
        let before = copies(&folder);
        // Twice, with one copy.
        for _ in 0..2 {
            let (code, log) = lab.failing_agent(&options);
            assert_eq!(code, Some(1), "{log}");
            let begin = format!("> the AK in {} cannot be used: {reason}", data.display());
            let line = log.lines().rev().find(|line| line.contains(&begin)).unwrap_or_else(|| panic!("{log}"));
            let (message, copy) = line.split_once(". What it holds now is kept as ").unwrap();
            assert!(message.ends_with(ADVICE), "{message}");
            let copy = PathBuf::from(copy);
            assert_eq!(copies(&folder), [before.as_slice(), std::slice::from_ref(&copy)].concat());
            assert_eq!(std::fs::read(&copy).unwrap(), damaged.as_bytes());
            assert!(has_mode(&copy, 0o600));
            assert_eq!(std::fs::read(&data).unwrap(), damaged.as_bytes());
            assert!(!log.contains("Requesting agent registration"), "{log}");
        }
        assert_eq!(record(), registered);
    }

    // What cannot be copied.
    let made = copies(&folder).len();
    std::fs::write(&data, vec![b' '; 3 << 20]).unwrap();
    let large = "it has more than 1048576 bytes, which no AK has";
    let make_folder = || {
        std::fs::remove_file(&data).unwrap();
        std::fs::create_dir(&data).unwrap();
    };
    for (make, reason) in [(&(|| {}) as &dyn Fn(), large), (&make_folder, "it is not an ordinary file")] {
        make();
        let (code, log) = lab.failing_agent(&options);
        let message = format!("> the AK in {} cannot be used: {reason}{ADVICE}\n", data.display());
        assert!(code == Some(1) && log.ends_with(&message), "{log}");
        assert_eq!((copies(&folder).len(), record()), (made, registered.clone()));
    }
    std::fs::remove_dir(&data).unwrap();

    // The file comes back from a backup.
    std::fs::write(&data, &good).unwrap();
    let agent = lab.agent(&options);
    assert_eq!(agent.id().unwrap(), id);
    assert_eq!((record()["regcount"].clone(), &record()["aik_tpm"]), (2.into(), &registered["aik_tpm"]));
    assert_eq!(std::fs::read(&data).unwrap(), good);
}

#[test]
fn where_no_copy_can_be_made_the_message_is_the_same() {
    let (Some(()), Some(lab)) = (require::root(), Lab::start(KeylimeOptions::default())) else { return };
    let scratch = tempfile::tempdir().unwrap();
    set_mode(scratch.path(), 0o755);
    let folders = ["keylime", "data"].map(|name| scratch.path().join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    std::os::unix::fs::chown(&folders[0], Some(65534), Some(65534)).unwrap();
    let ca = scratch.path().join("cacert.crt");
    std::fs::copy(lab.servers.ca_cert(), &ca).unwrap();
    set_mode(&ca, 0o644);
    let data = folders[1].join("agent_data.json");
    let options = KeylimeAgentOptions { folder: Some(folders[0].clone()), ..options() }
        .env("KEYLIME_AGENT_RUN_AS", "65534:65534")
        .env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", ca.to_str().unwrap())
        .env("KEYLIME_AGENT_REGISTRAR_TLS_CA_CERT", ca.to_str().unwrap())
        .env("KEYLIME_AGENT_AGENT_DATA_PATH", data.to_str().unwrap());
    std::fs::write(&data, "{}").unwrap();
    let shown = data.display();
    for (mode, begin, end) in [
        (
            0o644,
            format!("the AK in {shown} cannot be used: it is not an agent data file ("),
            format!("{ADVICE}. No copy of what it holds now could be made: Permission denied (os error 13)"),
        ),
        (
            0o600,
            format!("cannot read the AK from {shown}: Permission denied (os error 13). "),
            "A new AK would be a new identity, so none is made: let the user that the agent runs as read the file, or \
             restore it from a backup"
                .to_owned(),
        ),
    ] {
        set_mode(&data, mode);
        let (code, log) = lab.failing_agent(&options);
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(&format!("> {begin}")) && log.ends_with(&format!("{end}\n")), "{log}");
        assert!(!log.contains("Agent UUID"), "{log}");
        assert_eq!(std::fs::read(&data).unwrap(), b"{}");
        assert_eq!(std::fs::read_dir(&folders[1]).unwrap().count(), 1);
    }
}
