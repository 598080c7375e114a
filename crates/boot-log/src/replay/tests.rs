// SPDX-License-Identifier: Apache-2.0
use tpm_wire::hash::HashAlgorithm::{Sha1, Sha256, Sha384, Sha512, Sm3_256};

use super::*;
use crate::testing::*;

fn one(bank: HashAlgorithm, pcr: u8, value: &[u8]) -> PcrValues {
    PcrValues::new(bank, [(pcr, value.to_vec())].into()).unwrap()
}

fn verify(log: &BootLog, quoted: &PcrValues) -> Result<SecureBoot, String> {
    log.verify(quoted).map(|verified| verified.secure_boot()).map_err(|error| error.to_string())
}

/// What PCRs 0 to 7 hold after a separator alone; each PC with nothing else in PCR 3 or 6 has it.
#[test]
fn a_separator_gives_the_value_that_every_pc_has() {
    let rows = [
        (Sha1, "b2a83b0ebf2f8374299a5b2bdfc31ea955ad7236"),
        (Sha256, "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"),
    ];
    let log = Builder::new(&[Sha1, Sha256]).separator(3).parse();
    for (bank, expected) in rows {
        let values = log.replay(bank).unwrap();
        assert_eq!(hex::encode(values.get(3).unwrap()), expected);
        assert_eq!(values.mask().iter().collect::<Vec<_>>(), [3]);
    }
}

#[test]
fn every_bank_verifies_and_shows_secure_boot() {
    for bank in [Sha256, Sha384, Sha512] {
        for (value, expected) in [(&[1][..], SecureBoot::On), (&[0], SecureBoot::Off)] {
            for locality in [None, Some(0), Some(3), Some(4)] {
                let log = ordinary(&[Sha1, Sha256, Sha384, Sha512, Sm3_256], locality, value).parse();
                assert_eq!(verify(&log, &quoted(&log, bank)), Ok(expected));
            }
        }
    }
}

#[test]
fn the_startup_locality_is_the_first_value_of_pcr_0() {
    let replay = |locality| {
        let log = ordinary(&[Sha256], locality, &[1]).parse();
        log.replay(Sha256).unwrap()
    };
    let (none, zero, three) = (replay(None), replay(Some(0)), replay(Some(3)));
    assert_eq!(none, zero);
    assert_ne!(none.get(0), three.get(0));
    assert!((1..8).all(|pcr| none.get(pcr) == three.get(pcr)));

    // Where nothing follows, PCR 0 holds it as it is.
    let mut pcr_0 = [0; 32];
    pcr_0[31] = 4;
    let log = Builder::new(&[Sha256]).not_extended(b"StartupLocality\0\x04").separator(7).parse();
    let pcr_7 = log.replay(Sha256).unwrap().get(7).unwrap().to_vec();
    let quoted = PcrValues::new(Sha256, [(0, pcr_0.to_vec()), (7, pcr_7)].into()).unwrap();
    assert_eq!(verify(&log, &quoted), Ok(SecureBoot::NotShown));
}

#[test]
fn events_that_are_not_extended_change_no_pcr() {
    let plain = ordinary(&[Sha256], None, &[1]);
    let more = plain.clone().event(7, EV_NO_ACTION, b"anything").event(0, EV_NO_ACTION, &[0; 4]);
    assert_eq!(more.parse().replay(Sha256), plain.parse().replay(Sha256));
}

#[test]
fn pcrs_that_software_resets_are_not_told() {
    let log = (0..24).fold(Builder::new(&[Sha256]), Builder::separator).parse();
    assert_eq!(log.replay(Sha256).unwrap().mask().bits(), 0xffff);
}

#[test]
fn pcrs_above_7_are_not_compared() {
    let log = ordinary(&[Sha256], None, &[1]).parse();
    let mut values: BTreeMap<u8, Vec<u8>> =
        quoted(&log, Sha256).iter().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    values.extend((8..24).map(|pcr| (pcr, vec![0xee; 32])));
    assert_eq!(verify(&log, &PcrValues::new(Sha256, values).unwrap()), Ok(SecureBoot::On));
    // Nor those that are not quoted.
    let seven = log.replay(Sha256).unwrap().get(7).unwrap().to_vec();
    assert_eq!(verify(&log, &one(Sha256, 7, &seven)), Ok(SecureBoot::On));
}

/// One row per way not to go together with a quote.
#[test]
fn a_log_that_does_not_explain_the_quote_is_refused() {
    let log = ordinary(&[Sha256], None, &[1]).parse();
    let seven = log.replay(Sha256).unwrap().get(7).unwrap().to_vec();
    let partial = Builder::new(&[Sha256, Sha384])
        .raw(8, EV_IPL, &[(Sha256.tpm_id(), vec![0; 32])], &[])
        .raw(7, EV_SEPARATOR, &[(Sha384.tpm_id(), vec![0; 48])], &[])
        .parse();
    let empty = Builder::new(&[Sha256]).parse();
    let chinese = Builder::new(&[Sm3_256]).separator(7).parse();
    let lying = Builder::new(&[Sha256]).measured(
        7,
        EV_EFI_VARIABLE_DRIVER_CONFIG,
        &secure_boot::variable_data(&[0]),
        &secure_boot::variable_data(&[1]),
    );
    let lying = lying.separator(7).parse();
    let rows = [
        (&log, one(Sha256, 0, &[0; 32]), "a boot log is verified against a quote of PCR 7 at least"),
        (&log, one(Sha1, 7, &[0; 20]), "a boot log is not verified in bank sha1, whose digests can be forged"),
        (&log, one(Sha384, 7, &[0; 48]), "the boot log has no digests of bank sha384"),
        (&log, one(Sm3_256, 7, &[0; 32]), "the boot log has no digests of bank sm3_256"),
        (
            &chinese,
            one(Sm3_256, 7, &[0; 32]),
            "the boot log cannot be replayed: sm3_256 digests cannot be computed here",
        ),
        (&partial, one(Sha256, 7, &[0; 32]), "event 2 of the boot log has no digest of bank sha256"),
        (&partial, one(Sha384, 7, &[0; 48]), "event 1 of the boot log has no digest of bank sha384"),
        (&log, one(Sha256, 7, &[0; 32]), "the boot log does not lead to the quoted value of PCR 7 in bank sha256"),
        (&empty, one(Sha256, 7, &seven), "the boot log does not lead to the quoted value of PCR 7 in bank sha256"),
        (
            &log,
            PcrValues::new(Sha256, [(0, vec![1; 32]), (4, vec![0; 32]), (7, seven.clone())].into()).unwrap(),
            "the boot log does not lead to the quoted value of PCR 0, 4 in bank sha256",
        ),
        (
            &lying,
            quoted(&lying, Sha256),
            "the data of event 1 of the boot log, SecureBoot, are not what PCR 7 was extended with",
        ),
    ];
    for (log, quoted, expected) in rows {
        assert_eq!(verify(log, &quoted).unwrap_err(), expected);
    }
    // A PCR that nothing was measured into must hold its first value.
    let some = Builder::new(&[Sha256]).separator(7).parse();
    let pcrs = |six| {
        let seven = some.replay(Sha256).unwrap().get(7).unwrap().to_vec();
        PcrValues::new(Sha256, [(6, vec![six; 32]), (7, seven)].into()).unwrap()
    };
    assert_eq!(verify(&some, &pcrs(0)), Ok(SecureBoot::NotShown));
    assert_eq!(
        verify(&some, &pcrs(1)).unwrap_err(),
        "the boot log does not lead to the quoted value of PCR 6 in bank sha256"
    );
}

#[test]
fn each_pcr_is_named() {
    let log = ordinary(&[Sha256], None, &[1]).parse();
    for wrong in 0..8 {
        let value = |(pcr, value): (u8, &[u8])| (pcr, if pcr == wrong { vec![0xab; 32] } else { value.to_vec() });
        let values = PcrValues::new(Sha256, quoted(&log, Sha256).iter().map(value).collect()).unwrap();
        assert_eq!(
            verify(&log, &values).unwrap_err(),
            format!("the boot log does not lead to the quoted value of PCR {wrong} in bank sha256")
        );
    }
}

/// Order counts, and so does each event.
#[test]
fn logs_with_events_swapped_left_out_or_doubled_are_refused() {
    let value = |data: &[u8]| variable(0x0a, "db", data);
    let build = |order: &[u8]| {
        let log = order
            .iter()
            .fold(Builder::new(&[Sha256]), |log, n| log.event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &value(&[*n])));
        log.separator(7).parse()
    };
    let true_log = build(&[1, 2, 3]);
    let quoted = quoted(&true_log, Sha256);
    assert!(true_log.verify(&quoted).is_ok());
    for order in [&[1, 3, 2][..], &[1, 2], &[2, 3], &[1, 2, 2, 3], &[1, 2, 3, 3], &[]] {
        assert_eq!(
            verify(&build(order), &quoted).unwrap_err(),
            "the boot log does not lead to the quoted value of PCR 7 in bank sha256"
        );
    }
}

/// Whatever one changes in a log, it shows what it showed, or it is refused.
#[test]
fn no_flipped_byte_changes_what_a_verified_log_shows() {
    for (value, expected) in [(&[1][..], SecureBoot::On), (&[0], SecureBoot::Off), (&[], SecureBoot::Off)] {
        let bytes = ordinary(&[Sha1, Sha256], Some(3), value).bytes();
        let quoted = quoted(&BootLog::parse(&bytes).unwrap(), Sha256);
        let mut verified = 0;
        for place in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[place] ^= flip;
                let Ok(log) = BootLog::parse(&bytes) else { continue };
                let Ok(log) = log.verify(&quoted) else { continue };
                assert_eq!(log.secure_boot(), expected, "byte {place} changed by {flip:#x}");
                verified += 1;
            }
        }
        // Data that no PCR vouches for may change: the test is not empty.
        assert!(verified > bytes.len() / 4, "{verified}");
        for len in 0..bytes.len() {
            let Ok(log) = BootLog::parse(&bytes[..len]) else { continue };
            assert!(log.verify(&quoted).is_err(), "prefix of {len} bytes");
        }
    }
}
