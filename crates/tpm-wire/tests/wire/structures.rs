// SPDX-License-Identifier: Apache-2.0
//! Decoding of TPMS_ATTEST and TPMT_SIGNATURE.

use tpm_wire::attest::{self, ClockInfo, PcrSelection};
use tpm_wire::error::DecodeError;
use tpm_wire::hash::HashAlgorithm::Sha256;
use tpm_wire::hash::SignatureScheme;
use tpm_wire::pcr::PcrMask;
use tpm_wire::signature::{Signature, SignatureValue};

use crate::build::{Attest, Key, NONCE, pcr_values, sized};

fn attest() -> Attest {
    Attest::of(&pcr_values(Sha256, &[0, 16]))
}

#[test]
fn an_attest_is_decoded() {
    let decoded = attest::Attest::decode(&attest().encode()).unwrap();
    assert_eq!(decoded.qualified_signer, [0x0b; 34]);
    assert_eq!(decoded.extra_data, NONCE);
    let clock = ClockInfo { clock: 1234, reset_count: 5, restart_count: 6, safe: true };
    assert_eq!(decoded.clock_info, clock);
    assert_eq!(decoded.firmware_version, 0x2019_1023_0016_3636);
    let selection = PcrSelection { bank: 0x000b, mask: PcrMask::EMPTY.with(0).with(16) };
    assert_eq!(decoded.attested.selections, [selection]);
    assert!(selection.is_bank(Sha256));
    assert_eq!(decoded.attested.pcr_digest, pcr_values(Sha256, &[0, 16]).digest().unwrap());
}

#[test]
fn a_selection_may_have_four_bytes_and_a_quote_no_selection() {
    let mut attest = attest();
    attest.selections[0].1.push(0);
    let decoded = attest::Attest::decode(&attest.encode()).unwrap();
    assert_eq!(decoded.attested.selections[0].mask.bits(), 0x1_0001);
    attest.selections.clear();
    let decoded = attest::Attest::decode(&attest.encode()).unwrap();
    assert_eq!(decoded.attested.selections, []);
}

#[test]
fn each_fault_of_an_attest_has_its_error() {
    type Fault = fn(&mut Attest);
    let rows: [(Fault, &str); 13] = [
        (|a| a.magic = 0xff54_4346, "TPMS_ATTEST: magic 0xff544346 is not TPM_GENERATED_VALUE (0xff544347)"),
        (
            // TPM_ST_ATTEST_CERTIFY
            |a| a.kind = 0x8017,
            "TPMS_ATTEST: type 0x8017 is not TPM_ST_ATTEST_QUOTE (0x8018)",
        ),
        (|a| a.signer = vec![0; 67], "TPMS_ATTEST: qualifiedSigner has size 67, expected at most 66"),
        (|a| a.extra_data = vec![0; 67], "TPMS_ATTEST: extraData has size 67, expected at most 66"),
        (|a| a.safe = 2, "TPMS_ATTEST: safe 0x2 is not supported"),
        (|a| a.selections = vec![(0x0b, vec![0; 3]); 17], "TPMS_ATTEST: pcrSelect has size 17, expected at most 16"),
        (|a| a.selections[0].1 = vec![], "TPMS_ATTEST: sizeofSelect has size 0, expected 3 or 4"),
        (|a| a.selections[0].1 = vec![0; 2], "TPMS_ATTEST: sizeofSelect has size 2, expected 3 or 4"),
        (|a| a.selections[0].1 = vec![0; 5], "TPMS_ATTEST: sizeofSelect has size 5, expected 3 or 4"),
        (|a| a.selections[0].1 = vec![1, 0, 0, 1], "TPMS_ATTEST: pcrSelect 0x1000001 is not supported"),
        (|a| a.digest = vec![0; 65], "TPMS_ATTEST: pcrDigest has size 65, expected at most 64"),
        (|a| a.trailing = vec![0], "TPMS_ATTEST is followed by 1 surplus bytes"),
        (|a| a.trailing = vec![0; 1024], "TPMS_ATTEST has 1169 bytes, at most 1024 are accepted"),
    ];
    for (fault, expected) in rows {
        let mut attest = attest();
        fault(&mut attest);
        let error = attest::Attest::decode(&attest.encode()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn the_bound_of_an_attest_is_exact() {
    let mut attest = attest();
    attest.trailing = vec![0; 1024 - attest.encode().len()];
    let error = attest::Attest::decode(&attest.encode()).unwrap_err();
    assert!(matches!(error, DecodeError::Trailing { .. }), "{error}");
    attest.trailing.push(0);
    let error = attest::Attest::decode(&attest.encode()).unwrap_err();
    assert_eq!(error, DecodeError::TooLong { structure: "TPMS_ATTEST", len: 1025, limit: 1024 });
}

#[test]
fn huge_lengths_in_an_attest_are_refused() {
    let good = attest().encode();
    // Offsets of the sizes: qualifiedSigner, extraData, selection count, pcrDigest.
    for (offset, width) in [(6, 2), (42, 2), (101, 4), (111, 2)] {
        let mut huge = good.clone();
        huge[offset..offset + width].fill(0xff);
        let error = attest::Attest::decode(&huge).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated { .. } | DecodeError::Size { .. }), "offset {offset}: {error}");
    }
}

#[test]
fn every_prefix_of_an_attest_is_truncated() {
    let good = attest().encode();
    for len in 0..good.len() {
        let error = attest::Attest::decode(&good[..len]).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated { .. }), "{len} bytes: {error}");
    }
    let error = attest::Attest::decode(&good[..7]).unwrap_err();
    assert_eq!(error.to_string(), "TPMS_ATTEST ends inside qualifiedSigner");
}

#[test]
fn signatures_are_decoded() {
    let rsa = [&[0x00, 0x14, 0x00, 0x0b], sized(&[9; 256]).as_slice()].concat();
    let decoded = Signature::decode(&rsa).unwrap();
    assert_eq!(decoded.scheme, SignatureScheme::RsaSsa);
    assert_eq!(decoded.hash, Sha256);
    assert_eq!(decoded.value, SignatureValue::Rsa(vec![9; 256]));

    let ecc = [vec![0x00, 0x18, 0x00, 0x0b], sized(&[1]), sized(&[2; 66])].concat();
    let decoded = Signature::decode(&ecc).unwrap();
    assert_eq!(decoded.scheme, SignatureScheme::EcDsa);
    assert_eq!(decoded.value, SignatureValue::Ecc { r: vec![1], s: vec![2; 66] });
}

#[test]
fn each_fault_of_a_signature_has_its_error() {
    let header = |scheme: u16, hash: u16| [scheme.to_be_bytes(), hash.to_be_bytes()].concat();
    let rsa = |value: &[u8]| [header(0x0014, 0x000b), sized(value)].concat();
    let ecc = |r: &[u8], s: &[u8]| [header(0x0018, 0x000b), sized(r), sized(s)].concat();
    let rows = [
        ([header(0x0005, 0x000b), sized(&[0; 32])].concat(), "TPMT_SIGNATURE: sigAlg 0x5 is not supported"),
        (header(0x0010, 0x000b), "TPMT_SIGNATURE: sigAlg 0x10 is not supported"),
        ([header(0x0014, 0x0010), sized(&[0; 256])].concat(), "TPMT_SIGNATURE: hash 0x10 is not supported"),
        (rsa(&[]), "TPMT_SIGNATURE: sig has size 0, expected 1 to 512"),
        (rsa(&[1; 513]), "TPMT_SIGNATURE: sig has size 513, expected 1 to 512"),
        (ecc(&[], &[1]), "TPMT_SIGNATURE: signatureR has size 0, expected 1 to 66"),
        (ecc(&[1; 67], &[1]), "TPMT_SIGNATURE: signatureR has size 67, expected 1 to 66"),
        (ecc(&[1], &[]), "TPMT_SIGNATURE: signatureS has size 0, expected 1 to 66"),
        (ecc(&[1], &[1; 67]), "TPMT_SIGNATURE: signatureS has size 67, expected 1 to 66"),
        ([ecc(&[1], &[1]), vec![0]].concat(), "TPMT_SIGNATURE is followed by 1 surplus bytes"),
        ([header(0x0014, 0x000b), vec![0xff, 0xff, 1, 2, 3]].concat(), "TPMT_SIGNATURE ends inside sig"),
        (vec![0; 1025], "TPMT_SIGNATURE has 1025 bytes, at most 1024 are accepted"),
    ];
    for (bytes, expected) in rows {
        assert_eq!(Signature::decode(&bytes).unwrap_err().to_string(), expected);
    }
}

#[test]
fn every_prefix_of_a_signature_is_truncated() {
    for signature in [Key::rsa().sign(Sha256, b"message"), Key::p256().sign(Sha256, b"message")] {
        Signature::decode(&signature).unwrap();
        for len in 0..signature.len() {
            let error = Signature::decode(&signature[..len]).unwrap_err();
            assert!(matches!(error, DecodeError::Truncated { .. }), "{len} bytes: {error}");
        }
    }
}
