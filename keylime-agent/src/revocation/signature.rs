// SPDX-License-Identifier: Apache-2.0
//! The signature of revocation messages: RSASSA-PSS with SHA-256 and MGF1 with SHA-256 (RFC 8017, section 8.1), with a salt
//! of any length; Keylime's verifier takes the longest that fits, which ring and aws-lc-rs do not accept.

use crypto_bigint::modular::runtime_mod::{DynResidue, DynResidueParams};
use crypto_bigint::{Encoding as _, U64, U4096};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use x509_cert::Certificate;
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{self, Decode as _, Reader as _, SliceReader};

/// Object identifier rsaEncryption (RFC 8017, appendix C).
const RSA_ENCRYPTION: der::asn1::ObjectIdentifier = der::asn1::ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// Sizes of the modulus in bits.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Why a message does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(der::Error),
    #[error("the certificate's key must be RSA with 2048 to 4096 bits")]
    Key,
    #[error("the signature is not by the key of the certificate")]
    Wrong,
}

/// Verifies a signature with the key of a certificate in DER. The certificate itself is trusted as it is.
pub(crate) fn verify(certificate: &[u8], message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    PublicKey::of(certificate)?.verify(message, signature).ok_or(SignatureError::Wrong)
}

struct PublicKey {
    modulus: U4096,
    bits: usize,
    exponent: U64,
}

impl PublicKey {
    fn of(certificate: &[u8]) -> Result<Self, SignatureError> {
        let certificate = Certificate::from_der(certificate).map_err(SignatureError::Certificate)?;
        let info = certificate.tbs_certificate.subject_public_key_info;
        if info.algorithm.oid != RSA_ENCRYPTION {
            return Err(SignatureError::Key);
        }
        let key = info.subject_public_key.as_bytes().ok_or(SignatureError::Key)?;
        let (modulus, exponent) = rsa_public_key(key).map_err(SignatureError::Certificate)?;
        let modulus = number(modulus.as_bytes()).ok_or(SignatureError::Key)?;
        let bits = modulus.bits_vartime();
        let mut bytes = [0; 8];
        let place = bytes.len().checked_sub(exponent.as_bytes().len()).and_then(|at| bytes.get_mut(at..));
        place.ok_or(SignatureError::Key)?.copy_from_slice(exponent.as_bytes());
        let exponent = U64::from_be_bytes(bytes);
        // An even modulus is no product of odd primes, and the arithmetic below needs an odd one.
        let is_odd = modulus.bit_vartime(0) && exponent.bit_vartime(0) && exponent > U64::ONE;
        if !MODULUS_BITS.contains(&bits) || !is_odd {
            return Err(SignatureError::Key);
        }
        Ok(Self { modulus, bits, exponent })
    }

    /// RSASSA-PSS-VERIFY.
    fn verify(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let length = self.bits.div_ceil(8);
        let number = number(signature).filter(|number| *number < self.modulus)?;
        if signature.len() != length {
            return None;
        }
        let base = DynResidue::new(&number, DynResidueParams::new(&self.modulus));
        let encoded = base.pow(&self.exponent).retrieve().to_be_bytes();
        // The encoded message is as long as the modulus, or a byte shorter.
        let at = encoded.len().checked_sub((self.bits - 1).div_ceil(8))?;
        let (zeros, encoded) = encoded.split_at_checked(at)?;
        (zeros.iter().all(|byte| *byte == 0)).then_some(())?;
        pss_verify(message, encoded, self.bits - 1)
    }
}

/// A number of at most 4096 bits from its bytes, the most significant first.
fn number(bytes: &[u8]) -> Option<U4096> {
    let mut padded = [0; U4096::BYTES];
    let at = padded.len().checked_sub(bytes.len())?;
    padded.get_mut(at..)?.copy_from_slice(bytes);
    Some(U4096::from_be_bytes(padded))
}

/// RSAPublicKey (RFC 8017, appendix A.1.1): modulus and exponent.
fn rsa_public_key(bytes: &[u8]) -> der::Result<(UintRef<'_>, UintRef<'_>)> {
    let mut reader = SliceReader::new(bytes)?;
    let key = reader.sequence(|fields| Ok((UintRef::decode(fields)?, UintRef::decode(fields)?)))?;
    reader.finish(key)
}

/// EMSA-PSS-VERIFY (RFC 8017, section 9.1.2) that takes the length of the salt as it finds it.
fn pss_verify(message: &[u8], encoded: &[u8], bits: usize) -> Option<()> {
    let (rest, trailer) = encoded.split_at_checked(encoded.len().checked_sub(1)?)?;
    let (masked, hash) = rest.split_at_checked(rest.len().checked_sub(SHA256_OUTPUT_LEN)?)?;
    // The bits of the first byte that the number does not reach.
    let unreached = u32::try_from((8 * encoded.len()).checked_sub(bits)?).ok()?;
    let unused = !u8::MAX.checked_shr(unreached)?;
    if trailer != [0xbc] || masked.first()? & unused != 0 {
        return None;
    }
    let mut block: Vec<u8> = masked.iter().zip(mgf1(hash)).map(|(masked, mask)| masked ^ mask).collect();
    *block.first_mut()? &= !unused;
    let one = block.iter().position(|byte| *byte != 0)?;
    let (mark, salt) = block.get(one..)?.split_first()?;
    let message = digest(&SHA256, message);
    let expected = digest(&SHA256, &[&[0; 8], message.as_ref(), salt].concat());
    (*mark == 1 && expected.as_ref() == hash).then_some(())
}

/// The bytes of MGF1 with SHA-256 (RFC 8017, appendix B.2.1).
fn mgf1(seed: &[u8]) -> impl Iterator<Item = u8> {
    (0_u32..).flat_map(move |counter| {
        let block = digest(&SHA256, &[seed, &counter.to_be_bytes()].concat());
        block.as_ref().to_vec()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn openssl(folder: &Path, arguments: &[&str]) {
        let output = std::process::Command::new("openssl").args(arguments).current_dir(folder).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{output:?}");
    }

    /// A signer as Keylime's verifier is one.
    pub(crate) struct Signer(tempfile::TempDir);

    impl Signer {
        pub(crate) fn new(key: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let subject = ["-x509", "-subj", "/CN=RevocationNotifier", "-days", "2", "-nodes"];
            openssl(
                dir.path(),
                &[&["req"], &subject[..], &["-newkey", key, "-keyout", "key", "-out", "cert"]].concat(),
            );
            Self(dir)
        }

        /// The certificate's PEM file.
        pub(crate) fn certificate(&self) -> PathBuf {
            self.0.path().join("cert")
        }

        fn der(&self) -> Vec<u8> {
            let chain = tls::load_certificates(&self.certificate(), tls::FileKind::Certificate).unwrap();
            chain[0].to_vec()
        }

        /// By OpenSSL, with a salt of this length: a number, `max` or `digest`.
        pub(crate) fn sign(&self, message: &[u8], salt: &str) -> Vec<u8> {
            std::fs::write(self.0.path().join("message"), message).unwrap();
            let salt = format!("rsa_pss_saltlen:{salt}");
            let padding = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", &salt];
            let files = ["-sign", "key", "-out", "signature", "message"];
            openssl(self.0.path(), &[&["dgst", "-sha256"], &padding[..], &files].concat());
            std::fs::read(self.0.path().join("signature")).unwrap()
        }
    }

    #[test]
    fn salts_and_keys_of_all_lengths() {
        let message = "{\"type\": \"revocation\"}".as_bytes();
        // Modulus lengths around whole bytes, where the encoded message has one byte less.
        for bits in ["2048", "2049", "2050", "2055", "3072", "4096"] {
            let signer = Signer::new(&format!("rsa:{bits}"));
            let der = signer.der();
            for salt in ["max", "digest", "0"] {
                let good = signer.sign(message, salt);
                assert_eq!(verify(&der, message, &good), Ok(()), "{bits} {salt}");
                assert_eq!(verify(&der, b"another", &good), Err(SignatureError::Wrong));
            }
        }
    }

    #[test]
    fn what_is_not_a_signature() {
        let signer = Signer::new("rsa:2048");
        let (der, good) = (signer.der(), signer.sign(b"message", "max"));
        let wrong = |signature: &[u8]| assert_eq!(verify(&der, b"message", signature), Err(SignatureError::Wrong));
        for at in (0..good.len()).step_by(5) {
            let mut changed = good.clone();
            changed[at] ^= 1;
            wrong(&changed);
        }
        wrong(b"");
        wrong(&good[1..]);
        wrong(&[&[0], &good[..]].concat());
        wrong(&[0; 256]);
        wrong(&[0xff; 256]);
        wrong(&[1; 1000]);
        // By another key, and with PKCS #1 v1.5 padding.
        wrong(&Signer::new("rsa:2048").sign(b"message", "max"));
        openssl(signer.0.path(), &["dgst", "-sha256", "-sign", "key", "-out", "signature", "message"]);
        wrong(&std::fs::read(signer.0.path().join("signature")).unwrap());
    }

    #[test]
    fn certificates_that_cannot_be_used() {
        let signer = Signer::new("rsa:1024");
        assert_eq!(verify(&signer.der(), b"", b""), Err(SignatureError::Key));
        let curve = test_support::ca::TestCa::root("CA").unwrap();
        let leaf = curve.issue(&test_support::ca::LeafSpec::new("x")).unwrap();
        assert_eq!(verify(&leaf.cert_der, b"", b""), Err(SignatureError::Key));
        let error = verify(b"no certificate", b"", b"").unwrap_err().to_string();
        assert!(error.starts_with("the certificate cannot be parsed: "), "{error}");
    }
}
