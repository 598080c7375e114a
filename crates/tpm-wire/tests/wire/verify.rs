// SPDX-License-Identifier: Apache-2.0
//! One quote per way to fail, and quotes of every accepted kind of key.

use aws_lc_rs::signature::RSA_PSS_SHA256;
use tpm_wire::hash::HashAlgorithm::{self, Sha1, Sha256, Sha384, Sha512, Sm3_256};
use tpm_wire::pcr::{NODE_KEY_PCR, PcrValues};
use tpm_wire::public::AkPublic;
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::{VerifiedQuote, VerifyError, verify_quote};

use crate::build::{Attest, Key, NONCE, pcr_values, quote_string, sized};

const PCRS: [u8; 3] = [0, 7, 16];

fn values() -> PcrValues {
    pcr_values(Sha256, &PCRS)
}

/// A quote by the RSA key over an attest structure with a fault, and values that need not fit.
fn signed(attest: &Attest, pcrs: &[u8]) -> QuoteString {
    let attest = attest.encode();
    quote_string(&attest, &Key::rsa().sign(Sha256, &attest), pcrs)
}

fn check(quote: &QuoteString) -> Result<VerifiedQuote, VerifyError> {
    verify_quote(quote, &Key::rsa().ak(Sha256), NONCE, Sha256)
}

fn good() -> QuoteString {
    signed(&Attest::of(&values()), &values().encode_blob())
}

#[test]
fn a_good_quote_is_reported() {
    let verified = check(&good()).unwrap();
    assert_eq!(verified.pcrs, values());
    assert!(verified.pcrs.mask().contains(NODE_KEY_PCR));
    assert_eq!(verified.clock_info.clock, 1234);
    assert_eq!(verified.firmware_version, 0x2019_1023_0016_3636);
    assert_eq!(verified.qualified_signer, [0x0b; 34]);

    let others = pcr_values(Sha256, &[0, 7]);
    let verified = check(&signed(&Attest::of(&others), &others.encode_blob())).unwrap();
    assert!(!verified.pcrs.mask().contains(NODE_KEY_PCR));
}

#[test]
fn every_kind_of_key_and_hash_verifies() {
    for bank in [Sha256, Sha384, Sha512] {
        for key in [Key::rsa(), &Key::p256(), &Key::p384(), &Key::p521()] {
            let pcrs = pcr_values(bank, &(0..24).collect::<Vec<_>>());
            let attest = Attest::of(&pcrs).encode();
            let quote = quote_string(&attest, &key.sign(bank, &attest), &pcrs.encode_blob());
            let verified = verify_quote(&quote, &key.ak(bank), NONCE, bank).unwrap();
            assert_eq!(verified.pcrs, pcrs);

            let mut other = attest.clone();
            other[30] ^= 1;
            let forged = quote_string(&other, &key.sign(bank, &attest), &pcrs.encode_blob());
            let error = verify_quote(&forged, &key.ak(bank), NONCE, bank).unwrap_err();
            assert_eq!(error, VerifyError::SignatureInvalid);
        }
    }
}

#[test]
fn each_fault_of_the_signed_structure_has_its_error() {
    type Fault = fn(&mut Attest);
    let rows: [(Fault, &str); 13] = [
        (|a| a.magic = 0, "the signed structure was not made by a TPM: its magic is 0x00000000"),
        (
            // TPM_ST_ATTEST_CERTIFY
            |a| a.kind = 0x8017,
            "the signed structure is not a quote: its type is 0x8017",
        ),
        (|a| a.safe = 2, "the signed structure is malformed: TPMS_ATTEST: safe 0x2 is not supported"),
        (|a| a.trailing = vec![0], "the signed structure is malformed: TPMS_ATTEST is followed by 1 surplus bytes"),
        (|a| a.extra_data[31] ^= 1, "the quote was made over another nonce"),
        (|a| a.extra_data.push(b'A'), "the quote was made over another nonce"),
        (|a| a.extra_data.truncate(31), "the quote was made over another nonce"),
        (|a| a.extra_data.clear(), "the quote was made over another nonce"),
        (|a| a.selections.clear(), "the quote has 0 PCR selections, exactly one is accepted"),
        (|a| a.selections.push((0x000b, vec![0; 3])), "the quote has 2 PCR selections, exactly one is accepted"),
        (|a| a.selections[0].0 = Sha1.tpm_id(), "the quote is about bank 0x0004, expected sha256"),
        (|a| a.selections[0].1 = vec![0; 3], "the quote covers no PCR"),
        (|a| a.digest[0] ^= 1, "the PCR values are not the ones the TPM quoted"),
    ];
    for (fault, expected) in rows {
        let mut attest = Attest::of(&values());
        fault(&mut attest);
        let error = check(&signed(&attest, &values().encode_blob())).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_digest_by_another_hash_or_of_another_length_is_refused() {
    for digest in [
        Sha1.digest(b"").unwrap(),
        values().digest().unwrap()[..31].to_vec(),
        [values().digest().unwrap(), vec![0]].concat(),
        Vec::new(),
    ] {
        let mut attest = Attest::of(&values());
        attest.digest = digest;
        let error = check(&signed(&attest, &values().encode_blob())).unwrap_err();
        assert_eq!(error, VerifyError::PcrDigest);
    }
}

#[test]
fn each_fault_of_the_pcr_values_has_its_error() {
    let blob = |bank, pcrs: &[u8]| pcr_values(bank, pcrs).encode_blob();
    let mut other_value = values().encode_blob();
    other_value[136 + 4 + 2] ^= 1;
    let rows = [
        (
            [blob(Sha256, &PCRS), vec![0]].concat(),
            "the PCR values are malformed: the PCR blob has 669 bytes, which its own count of digest \
             lists does not explain",
        ),
        (blob(Sha1, &PCRS), "the PCR values are of bank sha1, the quote is about sha256"),
        (blob(Sha384, &PCRS), "the PCR values are of bank sha384, the quote is about sha256"),
        (blob(Sha256, &[0, 7]), "the PCR values are for mask 0x81, the quote covers 0x10081"),
        (blob(Sha256, &[0, 7, 15]), "the PCR values are for mask 0x8081, the quote covers 0x10081"),
        (blob(Sha256, &[0, 7, 16, 23]), "the PCR values are for mask 0x810081, the quote covers 0x10081"),
        (blob(Sha256, &[]), "the PCR values are for mask 0x0, the quote covers 0x10081"),
        (other_value, "the PCR values are not the ones the TPM quoted"),
    ];
    for (pcrs, expected) in rows {
        let error = check(&signed(&Attest::of(&values()), &pcrs)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn each_fault_of_the_signature_has_its_error() {
    let attest = Attest::of(&values()).encode();
    let good = Key::rsa().sign(Sha256, &attest);
    let change = |fault: &dyn Fn(&mut Vec<u8>)| {
        let mut signature = good.clone();
        fault(&mut signature);
        signature
    };
    let pss = sized(&Key::rsa().rsa_signature(&RSA_PSS_SHA256, &attest));
    let rows = [
        (change(&|s| s[100] ^= 1), "the signature does not verify with the attestation key"),
        (Key::new_rsa2048().sign(Sha256, &attest), "the signature does not verify with the attestation key"),
        (Key::rsa().sign(Sha256, b"another message"), "the signature does not verify with the attestation key"),
        (
            [vec![0x00, 0x16, 0x00, 0x0b], pss.clone()].concat(),
            "the signature is rsapss, the attestation key makes rsassa",
        ),
        (
            // The same, in disguise.
            [vec![0x00, 0x14, 0x00, 0x0b], pss].concat(),
            "the signature does not verify with the attestation key",
        ),
        (Key::p256().sign(Sha256, &attest), "the signature is ecdsa, the attestation key makes rsassa"),
        (Key::rsa().sign(Sha384, &attest), "the signature uses hash sha384, the attestation key uses sha256"),
        (change(&|s| s[3] = 0x04), "the signature uses hash sha1, the attestation key uses sha256"),
        ([good[..4].to_vec(), sized(&good[6..261])].concat(), "the signature does not verify with the attestation key"),
        (
            [good[..4].to_vec(), sized(&[&[0], &good[6..]].concat())].concat(),
            "the signature does not verify with the attestation key",
        ),
        (change(&|s| s.push(0)), "the signature is malformed: TPMT_SIGNATURE is followed by 1 surplus bytes"),
        (change(&|s| s[1] = 0x05), "the signature is malformed: TPMT_SIGNATURE: sigAlg 0x5 is not supported"),
    ];
    for (signature, expected) in rows {
        let quote = quote_string(&attest, &signature, &values().encode_blob());
        assert_eq!(check(&quote).unwrap_err().to_string(), expected);
    }
}

#[test]
fn ecdsa_scalars_are_taken_in_any_length_and_range_without_a_panic() {
    // One hash of the curve's own size and one of another, which different libraries verify.
    for bank in [Sha256, Sha384] {
        let key = Key::p256();
        let ak = key.ak(bank);
        let pcrs = pcr_values(bank, &PCRS);
        let attest = Attest::of(&pcrs).encode();
        let good = key.sign(bank, &attest);
        let (r, s) = (&good[6..38], &good[40..72]);
        let result = |r: &[u8], s: &[u8]| {
            let signature = [good[..4].to_vec(), sized(r), sized(s)].concat();
            let quote = quote_string(&attest, &signature, &pcrs.encode_blob());
            verify_quote(&quote, &ak, NONCE, bank)
        };
        result(r, s).unwrap();
        let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
        let padded = [&[0], r].concat();
        for (r, s) in [
            (s, r),
            (&[0][..], s),
            (r, &[0; 32][..]),
            (&order, s),
            (r, &order),
            (&[0xff; 32], s),
            (&[0xff; 66], &[0xff; 66]),
            // More bytes than the curve has, also where they are zero.
            (&padded, s),
            (&r[1..], s),
        ] {
            assert_eq!(result(r, s).unwrap_err(), VerifyError::SignatureInvalid);
        }
    }
}

#[test]
fn ecdsa_scalars_may_lack_leading_zeros() {
    let key = Key::p256();
    for bank in [Sha256, Sha384] {
        let pcrs = pcr_values(bank, &PCRS);
        // Some message among these few hundred has a signature whose r starts with a zero byte.
        let (attest, signature) = (0_u32..)
            .find_map(|counter| {
                let mut attest = Attest::of(&pcrs);
                attest.signer = counter.to_be_bytes().to_vec();
                let attest = attest.encode();
                let signature = key.sign(bank, &attest);
                (signature[6] == 0).then_some((attest, signature))
            })
            .unwrap();
        let short = [signature[..4].to_vec(), sized(&signature[7..38]), signature[38..].to_vec()];
        let quote = quote_string(&attest, &short.concat(), &pcrs.encode_blob());
        verify_quote(&quote, &key.ak(bank), NONCE, bank).unwrap();
    }
}

#[test]
fn what_the_caller_asks_for_is_checked_first() {
    let ask = |ak: &AkPublic, nonce: &[u8], bank: HashAlgorithm| {
        verify_quote(&good(), ak, nonce, bank).unwrap_err().to_string()
    };
    let ak = Key::rsa().ak(Sha256);
    let rows = [
        (ask(&ak, b"", Sha256), "the expected nonce has 0 bytes, 1 to 64 are allowed"),
        (ask(&ak, &[b'A'; 65], Sha256), "the expected nonce has 65 bytes, 1 to 64 are allowed"),
        (ask(&ak, NONCE, Sha1), "SHA-1 quotes are refused: use a sha256, sha384 or sha512 bank"),
        (ask(&ak, NONCE, Sm3_256), "quotes of bank sm3_256 cannot be verified"),
        (
            ask(&Key::rsa().ak(Sha384), NONCE, Sha256),
            "the attestation key signs with sha384 but the PCR bank is sha256; they must be the same",
        ),
    ];
    for (found, expected) in rows {
        assert_eq!(found, expected);
    }
}

#[test]
fn nothing_unsigned_is_interpreted() {
    // A structure full of faults and a blob full of faults: the signature decides.
    let quote = quote_string(&[0xff; 64], &Key::rsa().sign(Sha256, b"else"), &[0xff; 64]);
    assert_eq!(check(&quote).unwrap_err(), VerifyError::SignatureInvalid);
}
