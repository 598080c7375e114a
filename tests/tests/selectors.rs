// SPDX-License-Identifier: Apache-2.0
//! The selectors of a host with a real (software) TPM, the real Keylime, and a boot log that its PCRs stand for.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;

use e2e::{Host, keylime_options, our_agent};
use spire_plugin::host::{Launch, SpireHost};
use test_support::{KeylimeServers, Swtpm, SwtpmOptions, require};
use tpm_wire::hash::HashAlgorithm;

/// A boot log of two PCRs: the firmware measures secure boot into PCR 7, then ends its part with the separators.
struct BootLog {
    bytes: Vec<u8>,
    extended: Vec<(u8, String)>,
}

impl BootLog {
    fn with_secure_boot(on: bool) -> Self {
        // TCG_PCClientPCREvent, EV_NO_ACTION, with a TCG_EfiSpecIDEvent for bank sha256 alone.
        let spec_id =
            [b"Spec ID Event03\0".as_slice(), &[0; 4], &[0, 2, 0, 2], &1_u32.to_le_bytes(), &[0x0b, 0, 32, 0, 0]];
        let spec_id = spec_id.concat();
        let mut log = Self { bytes: [0_u32, 3].map(u32::to_le_bytes).concat(), extended: Vec::new() };
        log.bytes.extend([0; 20]);
        log.bytes.extend(u32::try_from(spec_id.len()).unwrap().to_le_bytes());
        log.bytes.extend(spec_id);
        // UEFI_VARIABLE_DATA of SecureBoot in the EFI global variable GUID.
        let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let guid = [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
        let variable = [&guid, &10_u64.to_le_bytes()[..], &1_u64.to_le_bytes(), &name, &[u8::from(on)]].concat();
        log.event(7, 0x8000_0001, &variable);
        log.event(7, 4, &[0; 4]);
        log.event(0, 4, &[0; 4]);
        log
    }

    /// A TCG_PCR_EVENT2.
    fn event(&mut self, pcr: u8, kind: u32, data: &[u8]) {
        let hash = HashAlgorithm::Sha256.digest(data).unwrap();
        self.bytes.extend([u32::from(pcr), kind, 1].map(u32::to_le_bytes).concat());
        self.bytes.extend(0x0b_u16.to_le_bytes());
        self.bytes.extend(&hash);
        self.bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.bytes.extend(data);
        self.extended.push((pcr, hash.iter().map(|byte| format!("{byte:02x}")).collect()));
    }
}

#[tokio::test]
async fn selectors_say_what_was_verified_and_follow_the_pcrs() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let log = BootLog::with_secure_boot(true);
    for (pcr, hash) in &log.extended {
        tpm.tool("tpm2_pcrextend", &[&format!("{pcr}:sha256={hash}")]).unwrap();
    }
    let log_file = tpm.scratch().join("binary_bios_measurements");
    fs::write(&log_file, &log.bytes).unwrap();
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
