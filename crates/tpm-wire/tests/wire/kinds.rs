// SPDX-License-Identifier: Apache-2.0
//! A quote of each kind of AK that Keylime's quotes can use and a software TPM can make.

use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::pcr::PcrMask;
use tpm_wire::public::{AkPublic, Public};
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::{node_key_matches, verify_quote};

use crate::build::quote_string;

/// A line of `tests/fixtures/kinds/quotes.txt`; its README.md says how they were made.
struct Kind {
    key: &'static str,
    hash: HashAlgorithm,
    ak: AkPublic,
    nonce: Nonce,
    quote: QuoteString,
}

impl Kind {
    fn verifies(&self, attest: &[u8], signature: &[u8], pcrs: &[u8]) -> bool {
        let quote = quote_string(attest, signature, pcrs);
        verify_quote(&quote, &self.ak, self.nonce.as_bytes(), self.hash).is_ok()
    }

    /// Places in a part of `len` bytes: all for RSA. ECDSA is slow in a debug build, so there the three hashes of a
    /// curve share the places of what is signed and of the signature, and the long rest is tried here and there.
    fn places(&self, part: usize, len: usize) -> impl Iterator<Item = usize> + use<> {
        let (begin, step) = match (self.key.starts_with("rsa"), part) {
            (true, _) => (0, 1),
            (false, 0 | 1) => (self.hash.digest_len() / 16 % 3, 3),
            (false, _) => (0, 41),
        };
        (begin..len).step_by(step)
    }
}

fn kinds() -> Vec<Kind> {
    let kind = |line: &'static str| {
        let [key, hash, ak, nonce, quote] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let ak = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, ak).unwrap();
        Kind {
            key,
            hash: hash.parse().unwrap(),
            ak: Public::decode_2b(&ak).unwrap().try_into().unwrap(),
            nonce: nonce.parse().unwrap(),
            quote: quote.parse().unwrap(),
        }
    };
    include_str!("../fixtures/kinds/quotes.txt").lines().map(kind).collect()
}

#[test]
fn each_kind_verifies() {
    let mut seen = Vec::new();
    for kind in kinds() {
        let verified = verify_quote(&kind.quote, &kind.ak, kind.nonce.as_bytes(), kind.hash).unwrap();
        assert_eq!(verified.pcrs.mask(), PcrMask::EMPTY.with(0).with(7).with(16), "{} {}", kind.key, kind.hash);
        assert_eq!(verified.pcrs.bank(), kind.hash);
        assert_eq!(node_key_matches(&verified.pcrs, "node-key"), Some(true));
        assert_eq!(node_key_matches(&verified.pcrs, "node-kez"), Some(false));
        seen.push(format!("{} {}", kind.key, kind.hash));
    }
    let keys = ["rsa2048", "rsa3072", "ecc256", "ecc384", "ecc521"];
    let hashes = ["sha256", "sha384", "sha512"];
    let all: Vec<_> = keys.iter().flat_map(|key| hashes.iter().map(move |hash| format!("{key} {hash}"))).collect();
    assert_eq!(seen, all);
}

#[test]
fn each_kind_verifies_with_its_own_key_nonce_and_bank_only() {
    let kinds = kinds();
    for (index, kind) in kinds.iter().enumerate() {
        for (other_index, other) in kinds.iter().enumerate() {
            let same = index == other_index;
            let with_key = verify_quote(&kind.quote, &other.ak, kind.nonce.as_bytes(), other.hash);
            assert_eq!(with_key.is_ok(), same, "{} {} with {} {}", kind.key, kind.hash, other.key, other.hash);
        }
        let other = &kinds[(index + 1) % kinds.len()];
        let error = verify_quote(&kind.quote, &kind.ak, other.nonce.as_bytes(), kind.hash).unwrap_err();
        assert_eq!(error.to_string(), "the quote was made over another nonce");
        let error = verify_quote(&kind.quote, &kind.ak, kind.nonce.as_bytes(), HashAlgorithm::Sha1).unwrap_err();
        assert_eq!(error.to_string(), "SHA-1 quotes are refused: use a sha256, sha384 or sha512 bank");
    }
}

#[test]
fn no_flipped_byte_of_any_kind_verifies() {
    for kind in kinds() {
        let parts = [kind.quote.attest(), kind.quote.signature(), kind.quote.pcrs()];
        for part in 0..parts.len() {
            for byte in kind.places(part, parts[part].len()) {
                let mut changed = parts.map(<[u8]>::to_vec);
                changed[part][byte] ^= 1 << (byte % 8);
                let [attest, signature, pcrs] = &changed;
                let place = format!("{} {}, part {part}, byte {byte}", kind.key, kind.hash);
                assert!(!kind.verifies(attest, signature, pcrs), "{place}");
            }
        }
    }
}

#[test]
fn no_prefix_of_any_kind_verifies() {
    for kind in kinds() {
        let parts = [kind.quote.attest(), kind.quote.signature(), kind.quote.pcrs()];
        for part in 0..parts.len() {
            for len in kind.places(part, parts[part].len()) {
                let mut cut = parts;
                cut[part] = &parts[part][..len.max(1)];
                let place = format!("{} {}, part {part}, {len} bytes", kind.key, kind.hash);
                assert!(!kind.verifies(cut[0], cut[1], cut[2]), "{place}");
            }
        }
        let text = kind.quote.to_string();
        for len in kind.places(2, text.len()) {
            let Ok(quote) = text[..len].parse() else { continue };
            assert!(verify_quote(&quote, &kind.ak, kind.nonce.as_bytes(), kind.hash).is_err(), "{len} characters");
        }
    }
}
