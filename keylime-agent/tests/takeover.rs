// SPDX-License-Identifier: Apache-2.0
//! Our agent takes the place of the stock one and the other way round, with the same settings, folder and id, while the
//! real verifier asks for quotes all the time: verifier and registrar notice nothing, and a payload stays.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::path::{Path, PathBuf};

use support::device::Device;
use support::watch::watched;
use support::{BINARY, LIMIT, Lab, mounts};
use test_support::payload::zip;
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, require};

/// An id that somebody has given.
const GIVEN: &str = "5d41402a-bc4b-4a76-b971-9d911017c592";

/// The stock agent, where its payloads can be mounted.
fn stock() -> Option<PathBuf> {
    require::root()?;
    require::stock_agent()
}

/// All that is kept in the folder, apart from locks and the AK file, in which each agent may write the same in its way.
fn contents(folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let names = [
        "payload-private.pem",
        "server-private.pem",
        "server-cert.crt",
        "runs",
        "secure/unzipped/derived_tci_key",
        "secure/unzipped/decrypted_payload",
        "secure/unzipped/autorun.sh",
    ];
    names.into_iter().filter_map(|name| Some((name, std::fs::read(folder.join(name)).ok()?))).collect()
}

/// Starts the stock agent with these settings, has it enrolled, and then lets ours and the stock one follow each other,
/// each at the end or at the violent death of the other.
fn take_turns(lab: &Lab, stock: &KeylimeAgentOptions, payload: Option<&Path>) {
    let scripts = tempfile::tempdir().unwrap();
    mounts::have_own();
    let programs = [&stock.binary, Path::new(BINARY)].map(|program| mounts::script(scripts.path(), program));
    let with = |program: &Path| KeylimeAgentOptions { binary: program.to_owned(), ..stock.clone() };
    let mut running = lab.agent(&with(&programs[0]));
    let (id, folder, port) = (running.id().unwrap(), running.folder.clone(), running.port.to_string());
    let with_payload = payload.map(|payload| ["-f", payload.to_str().unwrap(), "--verify"]);
    lab.tenant(&running, "add", with_payload.as_ref().map_or(&[], |arguments| arguments));
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    if payload.is_some() {
        running.part().wait_log("Successfully executed encrypted payload", LIMIT).unwrap();
    }
    let record = lab.servers.registrar_agent(&id).unwrap().unwrap();
    let before = contents(&folder);
    assert_eq!(before.len() == 7, payload.is_some());
    let mut ended = Vec::new();
    watched(&lab.servers, &id, || {
        for (program, is_killed) in [(1, false), (0, false), (1, true), (0, true), (1, false)] {
            if is_killed {
                running.part().kill();
            } else {
                assert!(running.terminate().unwrap().success());
            }
            // The stock agent leaves its keys in a TPM without resource manager.
            lab.tpm.flush_all().unwrap();
            let options = KeylimeAgentOptions { folder: Some(folder.clone()), ..with(&programs[program]) }
                .env("KEYLIME_AGENT_PORT", &port)
                .env("KEYLIME_AGENT_CONTACT_PORT", &port);
            let mut next = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, &options).unwrap();
            next.part().wait_log("Listening on", LIMIT).unwrap();
            let who = format!("by {:?} {is_killed}", programs[program].file_name());
            assert_eq!(next.id().unwrap(), id, "{who}");
            let mut now = lab.servers.registrar_agent(&id).unwrap().unwrap();
            now["regcount"] = record["regcount"].clone();
            assert_eq!(now, record, "{who}");
            assert!(contents(&folder) == before, "{who}");
            lab.wait_quotes(&id, 2);
            // Its folder must outlive it.
            ended.push(std::mem::replace(&mut running, next));
        }
    });
}

#[test]
fn hash_of_the_ek_and_a_payload() {
    let (Some(stock), Some(lab)) = (stock(), Lab::start(KeylimeOptions::default())) else { return };
    let payload = lab.tpm.scratch().join("payload.zip");
    zip(&payload, &[("autorun.sh", "#!/bin/sh\necho once >> ../../runs\n"), ("data", "data")]).unwrap();
    take_turns(&lab, &KeylimeAgentOptions::new(stock), Some(&payload));
}

#[test]
fn given_id_and_elliptic_curve_keys() {
    let (Some(stock), Some(()), Some(_)) = (stock(), require::swtpm(), require::keylime()) else { return };
    // The stock agent sends the certificate of the RSA EK if there is one.
    let tpm = Swtpm::start(SwtpmOptions { ek_certificate: false, ..SwtpmOptions::default() }).unwrap();
    let keylime = KeylimeOptions { require_ek_cert: false, quote_interval: 0.5, ..KeylimeOptions::default() };
    let lab = Lab { tpm, servers: KeylimeServers::start(&keylime).unwrap() };
    let options = KeylimeAgentOptions { uuid: GIVEN.to_owned(), ..KeylimeAgentOptions::new(stock) }
        .env("KEYLIME_AGENT_TPM_ENCRYPTION_ALG", "ecc256")
        .env("KEYLIME_AGENT_TPM_SIGNING_ALG", "ecdsa");
    take_turns(&lab, &options, None);
}

#[test]
fn keys_that_the_maker_has_certified() {
    let (Some(stock), Some(device)) = (stock(), Device::new()) else { return };
    device.certified("maker", "PEM", ["rsa2048", "sha256"], None);
    let (uuid, binary) = (GIVEN.to_owned(), stock);
    let options = KeylimeAgentOptions { uuid, binary, registrar_tls: false, ..device.named("maker") };
    take_turns(&device.lab, &options, None);
}

#[test]
fn without_mtls() {
    let keylime = KeylimeOptions { agent_mtls: false, ..KeylimeOptions::default() };
    let (Some(stock), Some(lab)) = (stock(), Lab::start(keylime)) else { return };
    let options = KeylimeAgentOptions { mtls: false, uuid: GIVEN.to_owned(), ..KeylimeAgentOptions::new(stock) };
    take_turns(&lab, &options, None);
}
