// SPDX-License-Identifier: Apache-2.0
//! A disk without room, at each of the agent's writes, and a payload folder without room.

use std::collections::BTreeSet;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, require, wait};

use crate::honest::HonestVerifier;
use crate::support::{BINARY, LIMIT, Lab, mounts, options};

fn resize(path: &Path, pages: usize) {
    let size = format!("size={}k", 4 * pages);
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_REMOUNT, Some(size.as_str())).unwrap();
}

/// Starts the agent: its exit code, or `None` once it listens.
fn start(lab: &Lab, options: &KeylimeAgentOptions) -> (KeylimeAgent, Option<i32>) {
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, options).unwrap();
    let code = wait::until("an end or a start", LIMIT, || {
        if let Some(status) = agent.part().exited() {
            return Ok(Some(status.code()));
        }
        Ok(agent.part().log().contains("> Listening on ").then_some(None))
    });
    (agent, code.unwrap())
}

#[test]
fn a_full_disk_leaves_no_half_of_anything() {
    let (Some(()), Some(lab)) = (require::root(), Lab::start(KeylimeOptions::default())) else { return };
    let (folder, scripts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    mounts::have_own();
    mount(Some("small"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=4k")).unwrap();
    let binary = mounts::script(scripts.path(), Path::new(BINARY));
    let options = KeylimeAgentOptions { folder: Some(folder.path().to_owned()), binary, ..options() }
        .env("KEYLIME_AGENT_SECURE_SIZE", "8k");
    let shown = folder.path().display();
    let full = "No space left on device (os error 28)\n";
    let mut left: BTreeSet<_> = [
        format!("> cannot store the AK in {shown}/agent_data.json: {full}"),
        format!("{shown}/payload-private.pem: cannot write the file: {full}"),
        format!("> cannot write {shown}/server-private.pem: {full}"),
        format!("> cannot write {shown}/server-cert.crt: {full}"),
    ]
    .into();
    let (mut id, mut ak, mut pages) = (None, None, 1);
    let mut agent = loop {
        let (mut agent, code) = start(&lab, &options);
        let log = agent.part().log();
        if code.is_none() {
            break agent;
        }
        assert_eq!(code, Some(1), "{log}");
        let before = left.len();
        left.retain(|text| !log.ends_with(text));
        assert!(left.len() < before || ak.is_none(), "{pages} pages: {log}");
        // Nothing half written, nothing under another name, nothing registered.
        let names = ["agent_data.json", "payload-private.pem", "server-private.pem", "server-cert.crt", "secure"];
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            assert!(names.iter().any(|name| entry.file_name() == *name), "{entry:?}");
            assert!(entry.file_name() == "secure" || entry.metadata().unwrap().len() > 0, "{entry:?}");
        }
        id = id.or(agent.id().ok());
        if let Some(id) = &id {
            assert_eq!(lab.servers.registrar_agent(id).unwrap(), None);
        }
        // An AK that was stored is the one for good.
        let stored = std::fs::read(folder.path().join("agent_data.json")).ok();
        assert!(ak.is_none() || stored == ak);
        ak = stored;
        pages += 1;
        assert!(pages < 20, "{log}");
        resize(folder.path(), pages);
    };
    assert_eq!(left, BTreeSet::new());
    assert_eq!(std::fs::read(folder.path().join("agent_data.json")).ok(), ak);
    let id = id.unwrap();
    assert_eq!(agent.id().unwrap(), id);

    // Full to the last page, the agent starts again all the same.
    assert!(agent.terminate().unwrap().success());
    std::fs::write(folder.path().join("more"), vec![0; 1 << 20]).unwrap_err();
    let (agent_again, code) = start(&lab, &options);
    agent = agent_again;
    assert_eq!((code, agent.id().unwrap()), (None, id.clone()), "{}", agent.part().log());

    // A payload that has no room does not disturb the attestation.
    let payload = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(payload.path(), vec![b'x'; 100_000]).unwrap();
    let verifier = HonestVerifier::of(&lab, &agent, None);
    lab.tenant(&agent, "add", &["-f", payload.path().to_str().unwrap()]);
    let log = agent.part().wait_log("> Failed to run encrypted payload: ", LIMIT).unwrap();
    let text = format!(
        "the payload takes 104 KiB, and {shown}/secure has 8 KiB without the payload before: the payload needs "
    );
    assert!(log.contains(&text), "{log}");
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    lab.wait_quotes(&id, 2);
    verifier.was_content();
}
