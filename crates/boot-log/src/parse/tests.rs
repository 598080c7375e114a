// SPDX-License-Identifier: Apache-2.0
use tpm_wire::hash::HashAlgorithm::{Sha1, Sha256, Sha384};

use super::*;
use crate::testing::*;

fn error(bytes: &[u8]) -> String {
    BootLog::parse(bytes).unwrap_err().to_string()
}

fn sha256() -> Builder {
    Builder::new(&[Sha256])
}

fn locality(locality: &[u8]) -> Vec<u8> {
    [STARTUP_LOCALITY.as_slice(), locality].concat()
}

#[test]
fn an_ordinary_log_is_parsed() {
    let log = ordinary(&[Sha1, Sha256, Sha384], Some(3), &[1]).parse();
    assert_eq!(log.banks, [Sha1, Sha256, Sha384]);
    assert_eq!(log.startup_locality, 3);
    // What is not extended is not kept, but counted.
    assert_eq!(log.events.first().unwrap().number, 2);
    assert_eq!(log.events.len(), 18);
    let claims: Vec<_> = log.events.iter().filter(|event| event.secure_boot.is_some()).collect();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].pcr, 7);
    assert_eq!(claims[0].secure_boot.as_deref(), Some(secure_boot::variable_data(&[1]).as_slice()));
    for bank in [Sha1, Sha256, Sha384] {
        assert_eq!(claims[0].digest(bank), Some(&*bank.digest(&secure_boot::variable_data(&[1])).unwrap()));
    }
}

#[test]
fn an_unknown_algorithm_is_skipped() {
    for size in [1, 32, 64] {
        let announced = vec![(SHA3_256, size), (Sha256.tpm_id(), 32)];
        let log = Builder::announcing(announced).secure_boot(&[1]).separator(7).parse();
        assert_eq!(log.banks, [Sha256]);
        assert!(log.events.iter().all(|event| event.digests.len() == 1));
    }
    // Alone it leaves a log that no quote can be verified against.
    assert_eq!(Builder::announcing(vec![(SHA3_256, 32)]).separator(7).parse().banks, []);
}

#[test]
fn events_that_are_not_extended_may_name_any_pcr() {
    let log = sha256().event(u32::MAX, EV_NO_ACTION, b"anything").separator(23).parse();
    assert_eq!(log.events.len(), 1);
    // A StartupLocality event is one of PCR 0.
    let log = sha256().event(1, EV_NO_ACTION, &locality(&[4])).parse();
    assert_eq!(log.startup_locality, 0);
    // Zero and localities of TPM2_Startup.
    for value in [0, 3, 4] {
        assert_eq!(sha256().not_extended(&locality(&[value])).parse().startup_locality, value);
    }
}

/// One row per way not to be a boot log.
#[test]
fn what_is_no_boot_log_is_refused() {
    let digest = |id: u16| (id, vec![0; 32]);
    let spec_id_of = |data: &[u8]| sha1_event(0, EV_NO_ACTION, data);
    let announcing = |announced: &[Announced]| spec_id(announced, b"");
    let digests = |digests: &[(u16, Vec<u8>)]| sha256().raw(0, EV_SEPARATOR, digests, &[]).bytes();
    let not_agile = "the boot log does not begin with a Spec ID Event03: either it is no boot log, or one of SHA-1 \
                     digests alone, which vouch for no other bank";
    let mut surplus = announcing(&[(0xb, 32)]);
    surplus[28] += 2;
    surplus.extend([0, 0]);
    let mut short = announcing(&[(0xb, 32)]);
    short[28] -= 1;
    short.pop();
    let rows = [
        (vec![], "the boot log is empty"),
        (vec![0; MAX_BOOT_LOG_LEN + 1], "the boot log has 262145 bytes, at most 262144 are accepted"),
        (vec![0; 3], "the boot log ends inside pcrIndex of event 0"),
        (vec![0; 27], "the boot log ends inside digest of event 0"),
        (b"#!/bin/sh\n# something else altogether\n".to_vec(), not_agile),
        (sha1_event(0, EV_S_CRTM_VERSION, b"Spec ID Event03\0"), not_agile),
        (sha1_event(1, EV_NO_ACTION, b"Spec ID Event03\0"), not_agile),
        (spec_id_of(b"Spec ID Event02\0\0\0\0\0\0\x02\x01\x02\0"), not_agile),
        (spec_id_of(b"Spec ID Event03"), "the boot log ends inside signature of event 0"),
        (spec_id_of(b"Spec ID Event03\0\0\0\0"), "the boot log ends inside platformClass of event 0"),
        (short, "the boot log ends inside vendorInfoSize of event 0"),
        (surplus, "the Spec ID event of the boot log has 2 surplus bytes"),
        (announcing(&[]), "the boot log announces 0 digest algorithms, expected 1 to 16"),
        (announcing(&[(0xb, 32); 17]), "the boot log announces 17 digest algorithms, expected 1 to 16"),
        (announcing(&[(0xb, 32), (0xb, 32)]), "the boot log announces digest algorithm 0x000b twice"),
        (announcing(&[(0x27, 1), (0x27, 2)]), "the boot log announces digest algorithm 0x0027 twice"),
        (announcing(&[(0xb, 20)]), "the boot log announces digests of 20 bytes for sha256, which has 32"),
        (announcing(&[(0x12, 0)]), "the boot log announces digests of 0 bytes for sm3_256, which has 32"),
        (announcing(&[(0x27, 0)]), "the boot log announces digests of 0 bytes for algorithm 0x0027, expected 1 to 64"),
        (
            announcing(&[(0x27, 65)]),
            "the boot log announces digests of 65 bytes for algorithm 0x0027, expected 1 to 64",
        ),
        (digests(&[]), "event 1 of the boot log has 0 digests, expected 1 to 1"),
        (digests(&[digest(0xb), digest(0xb)]), "event 1 of the boot log has 2 digests, expected 1 to 1"),
        (digests(&[digest(0xc)]), "event 1 of the boot log has a digest of algorithm 0x000c, which was not announced"),
        (
            Builder::new(&[Sha256, Sha384]).raw(0, EV_SEPARATOR, &[digest(0xb), digest(0xb)], &[]).bytes(),
            "event 1 of the boot log has two digests of algorithm 0x000b",
        ),
        (sha256().separator(24).bytes(), "event 1 of the boot log is for PCR 24, which does not exist"),
        (sha256().separator(256 + 7).bytes(), "event 1 of the boot log is for PCR 263, which does not exist"),
        (sha256().separator(u32::MAX).bytes(), "event 1 of the boot log is for PCR 4294967295, which does not exist"),
        (
            sha256().not_extended(&locality(&[])).bytes(),
            "event 1 of the boot log is a StartupLocality event of none of the localities 0, 3 and 4",
        ),
        (
            sha256().not_extended(&locality(&[3, 0])).bytes(),
            "event 1 of the boot log is a StartupLocality event of none of the localities 0, 3 and 4",
        ),
        (
            sha256().not_extended(&locality(&[1])).bytes(),
            "event 1 of the boot log is a StartupLocality event of none of the localities 0, 3 and 4",
        ),
        (
            sha256().separator(1).separator(0).not_extended(&locality(&[3])).bytes(),
            "event 3 of the boot log is a StartupLocality event after PCR 0 was extended",
        ),
        (
            sha256().not_extended(&locality(&[3])).not_extended(&locality(&[3])).bytes(),
            "event 2 of the boot log is a second StartupLocality event",
        ),
        (
            (0..MAX_EVENTS).fold(sha256(), |log, _| log.raw(8, EV_IPL, &[digest(0xb)], &[])).bytes(),
            "the boot log has more than 4096 events",
        ),
        // Padding, as in the firmware's own buffer.
        (
            [sha256().separator(0).bytes(), vec![0; 16]].concat(),
            "event 2 of the boot log has 0 digests, expected 1 to 1",
        ),
    ];
    for (bytes, expected) in rows {
        assert_eq!(error(&bytes), expected);
    }
}

#[test]
fn the_bounds_themselves_are_accepted() {
    let digest = [(0xb, vec![0; 32])];
    let log = (1..MAX_EVENTS).fold(sha256(), |log, _| log.raw(8, EV_IPL, &digest, &[]));
    assert_eq!(log.parse().events.len(), MAX_EVENTS - 1);

    let short = sha256().raw(8, EV_IPL, &digest, &[]).bytes().len();
    let log = sha256().raw(8, EV_IPL, &digest, &vec![0x55; MAX_BOOT_LOG_LEN - short]).bytes();
    assert_eq!(log.len(), MAX_BOOT_LOG_LEN);
    assert_eq!(BootLog::parse(&log).unwrap().events.len(), 1);

    let announced: Vec<Announced> = (0..16).map(|id| (0x100 + id, 64)).collect();
    assert_eq!(Builder::announcing(announced).separator(0).parse().events.len(), 1);
}

/// Each place where a log can end names its field; the ends of events are ends of logs.
#[test]
fn every_prefix_is_refused_but_at_the_ends_of_events() {
    let spec_id = sha256().bytes().len();
    let log = sha256().event(7, EV_SEPARATOR, &[0; 4]).bytes();
    for len in 0..log.len() {
        let result = BootLog::parse(&log[..len]);
        let expected = match len.wrapping_sub(spec_id) {
            0 => {
                assert_eq!(result.unwrap().events, []);
                continue;
            }
            1..4 => "pcrIndex",
            4..8 => "eventType",
            8..12 => "digests.count",
            12..14 => "hashAlg",
            14..46 => "digest",
            46..50 => "eventSize",
            50..54 => "event",
            _ if len == 0 => {
                assert_eq!(result, Err(BootLogError::Empty));
                continue;
            }
            _ => {
                assert!(matches!(result, Err(BootLogError::Truncated { event: 0, .. })), "{len}: {result:?}");
                continue;
            }
        };
        assert_eq!(result, Err(BootLogError::Truncated { event: 1, field: expected }), "{len}");
    }
}

#[test]
fn lengths_that_the_bytes_do_not_back_are_refused() {
    let log = sha256().separator(7).bytes();
    let size = log.len() - 8;
    for huge in [5, 0x7fff_ffff, u32::MAX] {
        let mut log = log.clone();
        log[size..size + 4].copy_from_slice(&huge.to_le_bytes());
        assert_eq!(error(&log), "the boot log ends inside event of event 1");
        log[28..32].copy_from_slice(&huge.max(0x1000).to_le_bytes());
        assert_eq!(error(&log), "the boot log ends inside event of event 0");
    }
}
