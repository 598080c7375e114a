// SPDX-License-Identifier: Apache-2.0
//! Logs of real machines, and `tpm2_eventlog` of tpm2-tools as a second opinion on their replay.
//!
//! The logs are other projects' and stay there: `BOOT_LOG_SAMPLES` names a folder that holds those of
//! keylime/keylime, `test/data/create-mb-policy`, and of RedHat-SP-Security/keylime-tests as
//! `binary_bios_measurements-swtpm`. A test whose logs are not there says so.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use boot_log::{BootLog, BootLogError, SecureBoot};
use test_support::require;
use tpm_wire::hash::HashAlgorithm::{self, Sha256};
use tpm_wire::pcr::PcrValues;

/// A log with what it is known to lead to in bank sha256.
struct Sample {
    file: &'static str,
    pcr_0: &'static str,
    pcr_7: &'static str,
    secure_boot: SecureBoot,
}

/// The logs; the first one has a StartupLocality event and a SHA-1 bank, too.
const SAMPLES: [Sample; 3] = [
    Sample {
        file: "binary_bios_measurements",
        pcr_0: "0ee9a7feba8f4172f1a7451594aa5731665a4d353ac61814042ce107a00742f2",
        pcr_7: "741fd028c51b4d2fbdcc7f28014cc758d17ccc1fe2ea7ca17b0e8009480a557c",
        secure_boot: SecureBoot::Off,
    },
    Sample {
        file: "binary_bios_measurements-secureboot",
        pcr_0: "0d993cf4baec1dc2a47013c8bcc13e1593d5e6ba9cc4630f422e98d310212aff",
        pcr_7: "2f96e1f1bf7f91b6f17e1bcb823e717e43782ff75481237711f2ed7bf8a8edb1",
        secure_boot: SecureBoot::On,
    },
    Sample {
        file: "binary_bios_measurements-swtpm",
        pcr_0: "fcb620568efe4ac4e15f6dcbc6431cad79bc85c7f2f592e08dde0bf37da6df39",
        pcr_7: "10c2cd116c5792f513a38ce3915c593bf0e67c792d439e9143a8a3e10b080c38",
        secure_boot: SecureBoot::On,
    },
];

/// A file of the folder of samples, if it is there.
fn sample(name: &str) -> Option<(PathBuf, Vec<u8>)> {
    let Some(folder) = std::env::var_os("BOOT_LOG_SAMPLES").filter(|value| !value.is_empty()) else {
        return require::skip("boot logs of real machines", "BOOT_LOG_SAMPLES is not set");
    };
    let path = Path::new(&folder).join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Some((path, bytes)),
        Err(error) => require::skip("boot logs of real machines", &format!("{}: {error}", path.display())),
    }
}

/// PCRs 0 to 7 as a quote after this boot has them.
fn quoted(log: &BootLog) -> PcrValues {
    let values = log.replay(Sha256).unwrap();
    let values = values.iter().filter(|(pcr, _)| *pcr < 8).map(|(pcr, value)| (pcr, value.to_vec()));
    PcrValues::new(Sha256, values.collect()).unwrap()
}

#[test]
fn real_logs_lead_to_known_values_and_show_secure_boot() {
    for Sample { file, pcr_0, pcr_7, secure_boot } in SAMPLES {
        let Some((_, bytes)) = sample(file) else { continue };
        let log = BootLog::parse(&bytes).unwrap();
        let values = quoted(&log);
        assert_eq!(values.mask().bits(), 0xff, "{file}");
        assert_eq!(hex::encode(values.get(0).unwrap()), pcr_0, "{file}");
        assert_eq!(hex::encode(values.get(7).unwrap()), pcr_7, "{file}");
        assert_eq!(log.verify(&values).unwrap().secure_boot(), secure_boot, "{file}");
    }
    let Some((_, bytes)) = sample("binary_bios_measurements-empty") else { return };
    assert_eq!(BootLog::parse(&bytes), Err(BootLogError::Empty));
    let Some((_, bytes)) = sample("binary_bios_measurements-bogus") else { return };
    assert_eq!(BootLog::parse(&bytes), Err(BootLogError::NotCryptoAgile));
}

#[test]
fn no_prefix_of_a_real_log_says_anything_else() {
    for Sample { file, secure_boot, .. } in SAMPLES {
        let Some((_, bytes)) = sample(file) else { continue };
        let quoted = quoted(&BootLog::parse(&bytes).unwrap());
        for len in 0..bytes.len() {
            let Ok(log) = BootLog::parse(&bytes[..len]) else { continue };
            if let Ok(log) = log.verify(&quoted) {
                // Only events of PCRs above 7 were cut off.
                assert_eq!(log.secure_boot(), secure_boot, "{file}, {len} bytes");
            }
        }
    }
}

#[test]
fn no_flipped_byte_of_a_real_log_changes_what_it_shows() {
    for Sample { file, secure_boot, .. } in SAMPLES {
        let Some((_, mut bytes)) = sample(file) else { continue };
        let quoted = quoted(&BootLog::parse(&bytes).unwrap());
        for place in 0..bytes.len() {
            let flip = if place % 2 == 0 { 0xff } else { 0x01 };
            bytes[place] ^= flip;
            if let Ok(log) = BootLog::parse(&bytes)
                && let Ok(log) = log.verify(&quoted)
            {
                assert_eq!(log.secure_boot(), secure_boot, "{file}, byte {place}");
            }
            bytes[place] ^= flip;
        }
    }
}

/// Bank and PCR to value in hexadecimal, as `tpm2_eventlog` computes them.
fn tpm2_eventlog(tool: &Path, log: &Path) -> BTreeMap<(HashAlgorithm, u8), String> {
    let output = Command::new(tool).arg(log).output().unwrap();
    assert!(output.status.success(), "{}: {}", log.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut bank = None;
    let mut values = BTreeMap::new();
    for line in text.lines().skip_while(|line| *line != "pcrs:").skip(1) {
        match line.split_once(':').unwrap() {
            (name, "") => bank = Some(name.trim().parse().unwrap()),
            (pcr, value) => {
                let value = value.trim().strip_prefix("0x").unwrap().to_owned();
                values.insert((bank.unwrap(), pcr.trim().parse().unwrap()), value);
            }
        }
    }
    values
}

#[test]
fn tpm2_tools_replay_to_the_same_values() {
    let Some(tool) = require::program("tpm2_eventlog") else { return };
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/boot_log");
    let seeds = ["on.bin", "off.bin", "twice.bin"].map(|name| seeds.join(name));
    let samples = SAMPLES.iter().filter_map(|known| Some(sample(known.file)?.0));
    for file in seeds.into_iter().chain(samples) {
        let mut theirs = tpm2_eventlog(&tool, &file);
        let bytes = std::fs::read(&file).unwrap();
        let log = BootLog::parse(&bytes).unwrap();
        let mut ours = BTreeMap::new();
        for bank in HashAlgorithm::ALL {
            let Ok(values) = log.replay(bank) else { continue };
            ours.extend(values.iter().map(|(pcr, value)| ((bank, pcr), hex::encode(value))));
        }
        // tpm2-tools 5.4 extends the StartupLocality event into PCR 0, which no TPM does.
        if bytes.windows(16).any(|part| part == b"StartupLocality\0") {
            ours.retain(|(_, pcr), _| *pcr != 0);
            theirs.retain(|(_, pcr), _| *pcr != 0);
        }
        assert!(!ours.is_empty());
        assert_eq!(ours, theirs, "{}", file.display());
    }
}
