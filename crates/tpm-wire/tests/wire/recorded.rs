// SPDX-License-Identifier: Apache-2.0
//! Quotes that a software TPM made.

use tpm_wire::attest::Attest;
use tpm_wire::hash::HashAlgorithm::{Sha256, Sha384};
use tpm_wire::pcr::{NODE_KEY_PCR, PcrMask, PcrValues};
use tpm_wire::public::{AkError, AkPublic, Public, ek_hash};
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::{VerifyError, verify_quote};

use crate::fixtures::{P256, RSA2048, Recorded};

/// What PCR 16 holds after one extension of zeros with the digest of `data`.
fn extended(data: &[u8]) -> Vec<u8> {
    let digest = Sha256.digest(data).unwrap();
    Sha256.digest(&[vec![0; 32], digest].concat()).unwrap()
}

#[test]
fn quotes_verify() {
    for (recorded, mask) in [(RSA2048, 0x1_0000), (P256, 0x1_04ff)] {
        let quote: QuoteString = recorded.quote.parse().unwrap();
        let verified = verify_quote(&quote, &recorded.ak(), recorded.nonce, Sha256).unwrap();
        assert_eq!(verified.pcrs.mask(), PcrMask::from_bits(mask).unwrap());
        assert_eq!(verified.pcrs.get(16), Some(extended(b"node-key").as_slice()));
        assert!(verified.pcrs.mask().contains(NODE_KEY_PCR));
        assert!(verified.clock_info.clock > 0);
        assert_eq!(verified.qualified_signer.len(), 34);
    }
    let quote: QuoteString = P256.quote.parse().unwrap();
    let pcrs = PcrValues::decode_blob(quote.pcrs()).unwrap();
    assert_eq!(pcrs.get(0), Some(extended(b"boot").as_slice()));
    assert_eq!(pcrs.get(1), Some([0; 32].as_slice()));
    assert_eq!(pcrs.get(10), Some(extended(b"list").as_slice()));
    assert_eq!(pcrs.get(23), None);
}

#[test]
fn encoders_reproduce_what_was_recorded() {
    for recorded in [RSA2048, P256] {
        let quote: QuoteString = recorded.quote.parse().unwrap();
        assert_eq!(quote.to_string(), recorded.quote);
        let pcrs = PcrValues::decode_blob(quote.pcrs()).unwrap();
        assert_eq!(pcrs.encode_blob(), quote.pcrs());
        let rebuilt = QuoteString::new(quote.attest().to_vec(), quote.signature().to_vec(), &pcrs).unwrap();
        assert_eq!(rebuilt, quote);
    }
}

#[test]
fn names_and_keys_are_those_of_the_tpm() {
    for recorded in [RSA2048, P256] {
        let ak = Public::decode_2b(recorded.ak).unwrap();
        assert_eq!(ak.name().unwrap(), recorded.ak_name);
        assert_eq!(ak.to_spki_pem(), recorded.ak_pem);
        let ek = Public::decode_2b(recorded.ek).unwrap();
        assert_eq!(ek.to_spki_pem(), recorded.ek_pem);
        assert_eq!(ek_hash(&ek.to_spki_pem()), recorded.ek_sha256.trim_end());
        // An EK is no AK.
        let error = AkPublic::try_from(ek).unwrap_err();
        assert_eq!(error, AkError::AttributeMissing { attribute: "sign" });
    }
}

#[test]
fn the_signer_is_a_key_of_the_endorsement_hierarchy() {
    // TCG TPM 2.0 Library, Part 1 "Architecture", "Names": QN = nameAlg || H(QN of parent || Name).
    for recorded in [RSA2048, P256] {
        let ek = Public::decode_2b(recorded.ek).unwrap().name().unwrap();
        let qualified = |parent: &[u8], name: &[u8]| {
            let digest = Sha256.digest(&[parent, name].concat()).unwrap();
            [Sha256.tpm_id().to_be_bytes().as_slice(), &digest].concat()
        };
        let ek = qualified(&0x4000_000b_u32.to_be_bytes(), &ek);
        let quote: QuoteString = recorded.quote.parse().unwrap();
        let attest = Attest::decode(quote.attest()).unwrap();
        assert_eq!(attest.qualified_signer, qualified(&ek, recorded.ak_name));
    }
}

#[test]
fn neither_verifies_with_the_other_key_or_for_another_nonce_or_bank() {
    let check = |quote: &Recorded, ak: &Recorded, nonce: &[u8], bank| {
        verify_quote(&quote.quote.parse().unwrap(), &ak.ak(), nonce, bank).unwrap_err().to_string()
    };
    let rows = [
        (check(&RSA2048, &P256, RSA2048.nonce, Sha256), "the signature is rsassa, the attestation key makes ecdsa"),
        (check(&P256, &RSA2048, P256.nonce, Sha256), "the signature is ecdsa, the attestation key makes rsassa"),
        (check(&RSA2048, &RSA2048, P256.nonce, Sha256), "the quote was made over another nonce"),
        (check(&P256, &P256, RSA2048.nonce, Sha256), "the quote was made over another nonce"),
        (
            check(&P256, &P256, P256.nonce, Sha384),
            "the attestation key signs with sha256 but the PCR bank is sha384; they must be the same",
        ),
    ];
    for (found, expected) in rows {
        assert_eq!(found, expected);
    }
}

#[test]
fn no_changed_character_verifies() {
    let ak = RSA2048.ak();
    let text = RSA2048.quote.as_bytes();
    for position in 0..text.len() {
        for replacement in [b'A', b'z', b'=', b':', text[position] ^ 1] {
            let mut changed = text.to_vec();
            changed[position] = replacement;
            if changed == text {
                continue;
            }
            let Ok(changed) = String::from_utf8(changed) else { continue };
            let Ok(quote) = changed.parse() else { continue };
            assert!(
                verify_quote(&quote, &ak, RSA2048.nonce, Sha256).is_err(),
                "position {position} changed to {replacement:#x}"
            );
        }
    }
}

#[test]
fn no_flipped_bit_of_any_part_verifies() {
    for recorded in [RSA2048, P256] {
        let ak = recorded.ak();
        let quote: QuoteString = recorded.quote.parse().unwrap();
        let parts = [quote.attest(), quote.signature(), quote.pcrs()];
        for (index, part) in parts.into_iter().enumerate() {
            for byte in 0..part.len() {
                // Every bit where that is quick; ECDSA is slow in a debug build.
                let bits = if recorded.ak == RSA2048.ak || index == 2 { 0..8 } else { byte % 8..byte % 8 + 1 };
                // The blob is only decoded after the signature has verified, so its bytes are flipped
                // in front of the decoder, and here for every eighth byte.
                if index == 2 && recorded.ak == P256.ak && byte % 8 != 0 {
                    continue;
                }
                for bit in bits {
                    let mut changed = parts.map(<[u8]>::to_vec);
                    changed[index][byte] ^= 1 << bit;
                    let [attest, signature, pcrs] = &changed;
                    let changed = crate::build::quote_string(attest, signature, pcrs);
                    let result = verify_quote(&changed, &ak, recorded.nonce, Sha256);
                    assert!(result.is_err(), "part {index}, byte {byte}, bit {bit}");
                }
            }
        }
    }
}

#[test]
fn no_prefix_of_any_part_verifies() {
    let ak = RSA2048.ak();
    let quote: QuoteString = RSA2048.quote.parse().unwrap();
    let parts = [quote.attest(), quote.signature(), quote.pcrs()];
    for index in 0..3 {
        for len in 1..parts[index].len() {
            let mut cut = parts;
            cut[index] = &parts[index][..len];
            let error = verify_quote(&crate::build::quote_string(cut[0], cut[1], cut[2]), &ak, RSA2048.nonce, Sha256)
                .unwrap_err();
            let expected = match index {
                0 => matches!(error, VerifyError::SignatureInvalid),
                1 => matches!(error, VerifyError::SignatureMalformed(_)),
                _ => matches!(error, VerifyError::PcrsMalformed(_)),
            };
            assert!(expected, "part {index}, {len} bytes: {error}");
        }
    }
    for len in 0..RSA2048.quote.len() {
        let Ok(quote) = RSA2048.quote[..len].parse::<QuoteString>() else { continue };
        assert!(verify_quote(&quote, &ak, RSA2048.nonce, Sha256).is_err(), "{len} characters");
    }
}
