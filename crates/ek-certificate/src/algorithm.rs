// SPDX-License-Identifier: Apache-2.0
//! The signature algorithms of certificate chains.

use p521::ecdsa::signature::hazmat::PrehashVerifier;
use ring::digest::{self, SHA256, SHA384, SHA512};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use webpki::ring as algorithms;

use crate::certificate::{Certificate, Key};
use crate::der::{INTEGER, Reader, SEQUENCE};

/// The algorithms whose signatures are believed. SHA-1 is not among them: such signatures can be forged.
pub(crate) static ACCEPTED: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    &P521 { signature: alg_id::ECDSA_SHA256, digest: &SHA256 },
    &P521 { signature: alg_id::ECDSA_SHA384, digest: &SHA384 },
    &P521 { signature: alg_id::ECDSA_SHA512, digest: &SHA512 },
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// No accepted algorithm has this combination of signature and key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsupported;

/// Whether a certificate is signed with this key.
pub(crate) fn is_signed_with(certificate: &Certificate<'_>, key: &Key<'_>) -> Result<bool, Unsupported> {
    ACCEPTED
        .iter()
        .find(|candidate| {
            candidate.signature_alg_id().as_ref() == certificate.algorithm
                && candidate.public_key_alg_id().as_ref() == key.algorithm
        })
        .map(|found| found.verify_signature(key.bits, certificate.tbs, certificate.signature).is_ok())
        .ok_or(Unsupported)
}

/// ECDSA on P-521, which ring does not have.
#[derive(Debug)]
struct P521 {
    signature: AlgorithmIdentifier,
    digest: &'static digest::Algorithm,
}

impl SignatureVerificationAlgorithm for P521 {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| InvalidSignature)?;
        let signature = scalars(signature).ok_or(InvalidSignature)?;
        let signature = p521::ecdsa::Signature::from_slice(&signature).map_err(|_| InvalidSignature)?;
        let digest = digest::digest(self.digest, message);
        key.verify_prehash(digest.as_ref(), &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

/// r and s of an ECDSA-Sig-Value (RFC 3279 "ECDSA Signature Algorithm"), padded to 66 bytes each.
fn scalars(signature: &[u8]) -> Option<Vec<u8>> {
    const LEN: usize = 66;
    let mut outer = Reader::new(signature);
    let mut pair = outer.expect(SEQUENCE, "signature").ok()?.reader();
    outer.finish("signature").ok()?;
    let mut both = Vec::with_capacity(2 * LEN);
    for _ in 0..2 {
        let number = match pair.expect(INTEGER, "signature").ok()?.content {
            // A leading zero is there only where the number would be negative without it.
            [0, rest @ ..] if rest.first().is_some_and(|byte| *byte >= 0x80) => rest,
            positive @ [1..=0x7f, ..] => positive,
            _ => return None,
        };
        both.resize(both.len() + LEN.checked_sub(number.len())?, 0);
        both.extend_from_slice(number);
    }
    pair.finish("signature").ok()?;
    Some(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_signatures_of_p521() {
        let both = scalars(&[0x30, 0x07, 0x02, 0x01, 0x05, 0x02, 0x02, 0x00, 0x80]).unwrap();
        assert_eq!((both.len(), both[65], both[131]), (132, 5, 0x80));
        assert_eq!(both.iter().filter(|byte| **byte != 0).count(), 2);
        for bad in [
            &[0x30, 0x03, 0x02, 0x01, 0x05][..],
            &[0x30, 0x06, 0x02, 0x01, 0x05, 0x02, 0x01, 0x00],
            &[0x30, 0x06, 0x02, 0x01, 0x05, 0x02, 0x01, 0x80],
            &[0x30, 0x07, 0x02, 0x01, 0x05, 0x02, 0x02, 0x00, 0x05],
            &[0x30, 0x09, 0x02, 0x01, 0x05, 0x02, 0x01, 0x05, 0x02, 0x01, 0x05],
            &[0x30, 0x06, 0x02, 0x01, 0x05, 0x02, 0x01, 0x05, 0x00],
            &[0x30, 0x05, 0x02, 0x01, 0x05, 0x02, 0x00],
        ] {
            assert_eq!(scalars(bad), None, "{bad:02x?}");
        }
        let long = [vec![0x30, 0x48, 0x02, 67], vec![1; 67], vec![0x02, 0x01, 0x01]].concat();
        assert_eq!(scalars(&long), None);
    }
}
