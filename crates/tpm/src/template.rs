// SPDX-License-Identifier: Apache-2.0
//! Public areas handed to TPM2_CreatePrimary and TPM2_Create: EK templates of the TCG EK Credential Profile
//! (version 2.5, "Default EK Templates") and the AK.

use crate::codec::Writer;
use crate::error::TpmError;
use crate::policy::{self, TPM_ALG_NULL};
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};

const TPM_ALG_RSA: u16 = 0x0001;
const TPM_ALG_AES: u16 = 0x0006;
const TPM_ALG_ECC: u16 = 0x0023;
const TPM_ALG_CFB: u16 = 0x0043;

/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const LOW_RANGE_EK: u32 = 0x0003_00B2;
/// The same and userWithAuth.
const HIGH_RANGE_EK: u32 = 0x0003_00F2;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
const AK: u32 = 0x0005_0072;

/// Family and size of a key, as TPM parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa { bits: u16 },
    Ecc { curve: u16 },
}

fn kind(algorithm: KeyAlgorithm) -> Result<Kind, TpmError> {
    Ok(match algorithm {
        KeyAlgorithm::Rsa2048 => Kind::Rsa { bits: 2048 },
        KeyAlgorithm::Rsa3072 => Kind::Rsa { bits: 3072 },
        KeyAlgorithm::Rsa4096 => Kind::Rsa { bits: 4096 },
        KeyAlgorithm::Ecc256 => Kind::Ecc { curve: 0x0003 },
        KeyAlgorithm::Ecc384 => Kind::Ecc { curve: 0x0004 },
        KeyAlgorithm::Ecc521 => Kind::Ecc { curve: 0x0005 },
        _ => return Err(TpmError::KeyAlgorithm(algorithm)),
    })
}

/// Why these settings cannot work: [`TpmError::HashAlgorithm`], [`TpmError::KeyAlgorithm`],
/// [`TpmError::SchemeMismatch`], or several of them. Empty if they can.
#[must_use]
pub fn check(hash: HashAlgorithm, key: KeyAlgorithm, scheme: SignatureScheme) -> Vec<TpmError> {
    let hash = hash.digest(&[]).err().map(|_| TpmError::HashAlgorithm(hash));
    let mismatch = (scheme.is_rsa() != key.is_rsa()).then_some(TpmError::SchemeMismatch { scheme, key });
    [hash, kind(key).err(), mismatch].into_iter().flatten().collect()
}

/// The TPMT_PUBLIC of the default EK of this type.
///
/// RSA 2048 and ECC P-256 have the low-range templates L-1 and L-2 (PolicyA, `unique` of zero bytes), the others
/// the high-range templates H-3, H-4, H-6, H-7 (PolicyB, `unique` empty).
pub(crate) fn ek(key: KeyAlgorithm) -> Result<Writer, TpmError> {
    let kind = kind(key)?;
    let (name_alg, aes_bits) = match key {
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Ecc256 => (HashAlgorithm::Sha256, 128),
        KeyAlgorithm::Ecc521 => (HashAlgorithm::Sha512, 256),
        _ => (HashAlgorithm::Sha384, 256),
    };
    let low_range = name_alg == HashAlgorithm::Sha256;
    let digests = policy::digests(name_alg).ok_or(TpmError::KeyAlgorithm(key))?;
    let (attributes, policy) = if low_range { (LOW_RANGE_EK, digests.a) } else { (HIGH_RANGE_EK, digests.b) };
    let mut out = head(kind, name_alg, attributes, policy);
    out.u16(TPM_ALG_AES).u16(aes_bits).u16(TPM_ALG_CFB).u16(TPM_ALG_NULL);
    let unique: &[u8] = if low_range { &[0; 256] } else { &[] };
    match kind {
        Kind::Rsa { bits } => out.u16(bits).u32(0).sized(unique),
        Kind::Ecc { curve } => {
            let coordinate = unique.get(..32).unwrap_or_default();
            out.u16(curve).u16(TPM_ALG_NULL).sized(coordinate).sized(coordinate)
        }
    };
    Ok(out)
}

/// The AK's TPMT_PUBLIC up to, and without, `unique`; every AK made for these settings starts with it.
pub(crate) fn ak_start(hash: HashAlgorithm, key: KeyAlgorithm, scheme: SignatureScheme) -> Result<Writer, TpmError> {
    let kind = kind(key)?;
    let mut out = head(kind, hash, AK, &[]);
    out.u16(TPM_ALG_NULL).u16(scheme.tpm_id()).u16(hash.tpm_id());
    match (kind, scheme) {
        (Kind::Rsa { bits }, _) => out.u16(bits).u32(0),
        (Kind::Ecc { curve }, _) => out.u16(curve).u16(TPM_ALG_NULL),
    };
    Ok(out)
}

/// The whole template of the AK: the start and an empty `unique`.
pub(crate) fn ak(hash: HashAlgorithm, key: KeyAlgorithm, scheme: SignatureScheme) -> Result<Writer, TpmError> {
    let mut out = ak_start(hash, key, scheme)?;
    out.sized(&[]);
    if !key.is_rsa() {
        out.sized(&[]);
    }
    Ok(out)
}

/// The TPMT_PUBLIC of a signing key: scheme with nameAlg, or none, and this content in each part of `unique`.
pub(crate) fn signing(
    key: KeyAlgorithm,
    name_alg: HashAlgorithm,
    attributes: u32,
    policy: &[u8],
    scheme: Option<SignatureScheme>,
    unique: &[u8],
) -> Result<Writer, TpmError> {
    let kind = kind(key)?;
    let mut out = head(kind, name_alg, attributes, policy);
    out.u16(TPM_ALG_NULL);
    match scheme {
        Some(scheme) => out.u16(scheme.tpm_id()).u16(name_alg.tpm_id()),
        None => out.u16(TPM_ALG_NULL),
    };
    match kind {
        Kind::Rsa { bits } => out.u16(bits).u32(0).sized(unique),
        Kind::Ecc { curve } => out.u16(curve).u16(TPM_ALG_NULL).sized(unique).sized(unique),
    };
    Ok(out)
}

/// type, nameAlg, objectAttributes, authPolicy.
fn head(kind: Kind, name_alg: HashAlgorithm, attributes: u32, policy: &[u8]) -> Writer {
    let algorithm = match kind {
        Kind::Rsa { .. } => TPM_ALG_RSA,
        Kind::Ecc { .. } => TPM_ALG_ECC,
    };
    let mut out = Writer::with_capacity(512);
    out.u16(algorithm).u16(name_alg.tpm_id()).u32(attributes).sized(policy);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn ek_templates_start_and_end_as_in_the_profile() {
        let rows = [
            (KeyAlgorithm::Rsa2048, "0001000b000300b200208371", "000600800043001008000000000001000000", 314),
            (KeyAlgorithm::Ecc256, "0023000b000300b200208371", "00060080004300100003001000200000", 122),
            (KeyAlgorithm::Rsa3072, "0001000c000300f20030b26e", "00060100004300100c00000000000000", 74),
            (KeyAlgorithm::Rsa4096, "0001000c000300f20030b26e", "00060100004300101000000000000000", 74),
            (KeyAlgorithm::Ecc384, "0023000c000300f20030b26e", "000601000043001000040010000000000", 74),
            (KeyAlgorithm::Ecc521, "0023000d000300f20040b822", "000601000043001000050010000000000", 90),
        ];
        for (key, start, parameters, length) in rows {
            let template = ek(key).map(|out| hex(out.as_slice())).unwrap_or_default();
            assert!(template.starts_with(start), "{key}: {template}");
            assert!(template.contains(parameters.trim_end_matches('0')), "{key}: {template}");
            assert_eq!(template.len() / 2, length, "{key}");
        }
    }

    #[test]
    fn ak_template_is_the_one_registrars_know() {
        let out = ak(HashAlgorithm::Sha256, KeyAlgorithm::Rsa2048, SignatureScheme::RsaSsa).unwrap();
        assert_eq!(hex(out.as_slice()), "0001000b00050072000000100014000b0800000000000000");
        let out = ak(HashAlgorithm::Sha384, KeyAlgorithm::Ecc384, SignatureScheme::EcDsa).unwrap();
        assert_eq!(hex(out.as_slice()), "0023000c00050072000000100018000c0004001000000000");
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        use {HashAlgorithm as H, KeyAlgorithm as K, SignatureScheme as S};
        let rows = [
            (
                H::Sha256,
                K::Rsa1024,
                S::RsaSsa,
                "TPM key type rsa1024 is not supported: use one of rsa2048, rsa3072, rsa4096, ecc256, ecc384, ecc521",
            ),
            (
                H::Sha256,
                K::EccSm2,
                S::EcDsa,
                "TPM key type ecc_sm2 is not supported: use one of rsa2048, rsa3072, rsa4096, ecc256, ecc384, ecc521",
            ),
            (
                H::Sm3_256,
                K::Rsa2048,
                S::RsaSsa,
                "hash algorithm sm3_256 is not supported here: use sha1, sha256, sha384 or sha512",
            ),
            (
                H::Sha256,
                K::Ecc256,
                S::RsaSsa,
                "signing scheme rsassa does not fit key type ecc256: RSA keys sign with rsassa or rsapss, ECC keys with ecdsa or ecschnorr",
            ),
            (
                H::Sha256,
                K::Rsa2048,
                S::EcDsa,
                "signing scheme ecdsa does not fit key type rsa2048: RSA keys sign with rsassa or rsapss, ECC keys with ecdsa or ecschnorr",
            ),
        ];
        for (hash, key, scheme, text) in rows {
            let found: Vec<_> = check(hash, key, scheme).iter().map(ToString::to_string).collect();
            assert_eq!(found, [text]);
        }
        assert!(check(H::Sha1, K::Ecc521, S::EcSchnorr).is_empty());
        assert_eq!(check(H::Sm3_256, K::EccSm2, S::RsaSsa).len(), 3);
    }
}
