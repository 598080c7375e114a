// SPDX-License-Identifier: Apache-2.0
//! Boot logs: any bytes are a log or refused, and against the PCRs of a seed nothing shows what the seed does not.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use boot_log::{BootLog, BootLogError, MAX_BOOT_LOG_LEN, MAX_EVENTS, SecureBoot};
use libfuzzer_sys::fuzz_target;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::PcrValues;

/// What a boot leaves in PCRs 0 to 7, and whether secure boot was on.
struct Boot {
    quoted: PcrValues,
    secure_boot: SecureBoot,
}

impl Boot {
    fn of(log: &[u8], secure_boot: SecureBoot) -> Self {
        let log = BootLog::parse(log).expect("the seed is a log");
        let values = log.replay(HashAlgorithm::Sha256).expect("the seed has the bank");
        Self { quoted: firmware(&values), secure_boot }
    }
}

static BOOTS: LazyLock<[Boot; 3]> = LazyLock::new(|| {
    [
        Boot::of(include_bytes!("../corpus/boot_log/on.bin"), SecureBoot::On),
        Boot::of(include_bytes!("../corpus/boot_log/off.bin"), SecureBoot::Off),
        Boot::of(include_bytes!("../corpus/boot_log/twice.bin"), SecureBoot::NotShown),
    ]
});

/// PCRs 0 to 7 of these values.
fn firmware(values: &PcrValues) -> PcrValues {
    let values: BTreeMap<_, _> =
        values.iter().filter(|(pcr, _)| *pcr < 8).map(|(pcr, value)| (pcr, value.to_vec())).collect();
    PcrValues::new(HashAlgorithm::Sha256, values).expect("they were PCR values before")
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(log) = BootLog::parse(bytes) else { return };
    assert!(bytes.len() <= MAX_BOOT_LOG_LEN);
    for boot in BOOTS.iter() {
        if let Ok(verified) = log.verify(&boot.quoted) {
            assert_eq!(verified.secure_boot(), boot.secure_boot, "the PCRs are the same, what they show is not");
        }
    }
    let Ok(values) = log.replay(HashAlgorithm::Sha256) else { return };
    // A log explains what it leads to itself, unless it lies.
    match log.verify(&firmware(&values)) {
        Ok(_) => assert!(values.get(7).is_some()),
        Err(BootLogError::NoPcr7) => assert!(values.get(7).is_none()),
        Err(BootLogError::SecureBootDigest { event }) => assert!(event < MAX_EVENTS),
        Err(error) => panic!("refused against its own values: {error}"),
    }
});
