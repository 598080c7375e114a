// SPDX-License-Identifier: Apache-2.0
//! The selectors of a host with a real (software) TPM, the real Keylime, and a boot log that its PCRs stand for.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;

use e2e::{Host, keylime_options, our_agent};
use spire_plugin::host::{Launch, SpireHost};
use test_support::boot_log::BootLog;
use test_support::{KeylimeServers, Swtpm, SwtpmOptions, require};

#[tokio::test]
async fn selectors_say_what_was_verified_and_follow_the_pcrs() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let log = BootLog::with_secure_boot(true);
    log.extend(&tpm).unwrap();
    let log_file = tpm.scratch().join("binary_bios_measurements");
    fs::write(&log_file, log.bytes()).unwrap();
    let authorities = tpm.scratch().join("tpm-ca.pem");
    let pem: Vec<String> = tpm.ca_certs.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    fs::write(&authorities, pem.concat()).unwrap();

    let servers = KeylimeServers::start(&keylime_options(&tpm)).unwrap();
    let options = our_agent(&tpm).unwrap();
    let options = options.env("KEYLIME_AGENT_MEASUREDBOOT_ML_PATH", log_file.display().to_string());
    let host = Host::with(tpm, servers, options).unwrap();
    host.enrol().unwrap();

    let spire = SpireHost::new("tower.example".parse().unwrap(), "keylime");
    let (server, agent) = (host.server_plugin().unwrap(), host.agent_plugin().unwrap());
    let data = format!(
        "{}\nselectors = [\"agent_id\", \"ek_hash\", \"tpm\", \"pcr\", \"secure_boot\", \"policy\"]\n\
         selector_pcrs = [7, 23]\nek_ca_path = {authorities:?}",
        server.data
    );
    let server = spire.load_server(Launch::new(server.command), &data).await.unwrap();
    let agent = spire.load_agent(Launch::new(agent.command), &agent.data).await.unwrap();

    let pcr_7 = host.tpm.pcr_read("sha256", 7).unwrap();
    let values = spire.attest(&agent, &server).await.unwrap().selector_values;
    // SPIRE sorts them.
    let [id, ek, pcr23, pcr7, policy, secure_boot, manufacturer, model, version] = &values[..] else {
        panic!("{values:?}")
    };
    assert_eq!(*id, format!("agent_id:{}", host.id));
    assert!(ek.starts_with("ek_hash:sha256:") && ek.len() == "ek_hash:sha256:".len() + 64, "{ek}");
    assert_eq!(*policy, "policy:pcr:23");
    assert_eq!(*pcr23, format!("pcr:sha256:23:{}", "0".repeat(64)));
    assert_eq!(*pcr7, format!("pcr:sha256:7:{pcr_7}"));
    assert_eq!(*secure_boot, "secure_boot:on");
    assert_eq!((&**manufacturer, &**model), ("tpm:manufacturer:id:00001014", "tpm:model:swtpm"));
    assert!(version.starts_with("tpm:version:id:"), "{version}");

    // Another value in PCR 7 than the log leads to: the value is told as it is, and the log is not believed any more.
    host.tpm.pcr_extend(7).unwrap();
    let values = spire.attest(&agent, &server).await.unwrap().selector_values;
    assert!(!values.contains(pcr7) && values.iter().any(|value| value.starts_with("pcr:sha256:7:")), "{values:?}");
    assert!(!values.iter().any(|value| value.starts_with("secure_boot:")), "{values:?}");
}
