// SPDX-License-Identifier: Apache-2.0
//! Measured boot: the real verifier replays the boot log that our agent sends.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use support::{LIMIT, Lab, options};
use test_support::boot_log::BootLog;
use test_support::{KeylimeOptions, require};

#[test]
fn the_boot_log_has_to_lead_to_the_quoted_pcrs() {
    // The verifier reads boot logs with these.
    let (Some(_), Some(())) = (require::program("tpm2_eventlog"), require::library("libefivar.so.1")) else { return };
    let always = ("verifier".into(), "measured_boot_evaluate".into(), "always".into());
    let lab = Lab::start(KeylimeOptions { overrides: vec![always], ..KeylimeOptions::default() });
    let Some(lab) = lab else { return };
    let log = BootLog::with_secure_boot(true);
    log.extend(&lab.tpm).unwrap();
    let path = lab.tpm.scratch().write("binary_bios_measurements", log.bytes()).unwrap();
    // Keylime's default policy (`accept-all`) looks at the PCRs alone; an empty one would not even do that.
    let policy = lab.tpm.scratch().write("mb-policy.json", r#"{"has_secureboot": true}"#).unwrap();
    let mut agent = lab.agent(&options().env("KEYLIME_AGENT_MEASUREDBOOT_ML_PATH", path.to_str().unwrap()));
    let location = format!("> Measured boot measurement list location override: {}\n", path.display());
    assert!(agent.part().log().contains(&location));
    let id = agent.id().unwrap();
    let enrol = |command: &str| lab.tenant(&agent, command, &["--mb-policy", policy.to_str().unwrap()]);
    enrol("add");
    let record = lab.servers.wait_verified(&id, LIMIT).unwrap();
    assert_eq!(record["has_mb_refstate"], 1);

    let tampered = BootLog::with_secure_boot(false);
    let mut longer = log.clone();
    longer.event(4, 0x0d, b"one event more");
    for (what, bytes, event) in [
        ("secure boot turned over", tampered.bytes(), Some("measured_boot.invalid_pcr_7")),
        ("one event more", longer.bytes(), Some("measured_boot.invalid_pcr_4")),
        ("as it is", log.bytes(), None),
    ] {
        std::fs::write(&path, bytes).unwrap();
        enrol("update");
        match event {
            None => drop(lab.servers.wait_verified(&id, LIMIT).unwrap()),
            Some(event) => {
                let record = lab.servers.wait_state(&id, 9, LIMIT).unwrap();
                assert_eq!(record["last_event_id"], event, "{what}");
            }
        }
    }
    // The firmware has measured something that is not in the log.
    lab.tpm.pcr_extend(7).unwrap();
    let record = lab.servers.wait_state(&id, 9, LIMIT).unwrap();
    assert_eq!(record["last_event_id"], "measured_boot.invalid_pcr_7");
}
