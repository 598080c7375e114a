// SPDX-License-Identifier: Apache-2.0
//! The rules a public area must meet to be an attestation key whose quotes are believed.

use std::fmt;

use super::{Curve, KeyScheme, ObjectAttributes, Public, PublicKey};
use crate::hash::{HashAlgorithm, SignatureScheme};

/// The public area of an attestation key that can be verified against.
///
/// Made by `AkPublic::try_from(public)`, which demands
/// - the attributes fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign, and not decrypt:
///   only such a key never left its TPM and never signs a structure with TPM_GENERATED_VALUE that the
///   TPM did not make;
/// - RSA of 2048, 3072 or 4096 bits, odd exponent of at least 65537, bound to RSASSA; or a point on
///   P-256, P-384 or P-521, bound to ECDSA;
/// - SHA-256, SHA-384 or SHA-512 as the hash of that scheme and of the Name.
///
/// The attributes are claims of whoever supplied the bytes, until a credential activation for this
/// Name has succeeded.
#[derive(Clone, Debug)]
pub struct AkPublic {
    public: Public,
    scheme: SignatureScheme,
    hash: HashAlgorithm,
    key: AkKey,
}

/// A key in the form that its verification takes.
#[derive(Clone)]
pub(crate) enum AkKey {
    /// Modulus and exponent, big endian without leading zeros.
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(p521::ecdsa::VerifyingKey),
}

impl fmt::Debug for AkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "Rsa",
            Self::P256(_) => "P256",
            Self::P384(_) => "P384",
            Self::P521(_) => "P521",
        })
    }
}

/// Why a public area is not that of an acceptable attestation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AkError {
    /// An attribute is not set.
    #[error("the key is no attestation key: attribute {attribute} is not set")]
    AttributeMissing {
        /// TPM name of the attribute.
        attribute: &'static str,
    },
    /// The key decrypts as well.
    #[error("the key is no attestation key: attribute decrypt is set")]
    Decrypt,
    /// The key is not bound to a signature scheme.
    #[error("the attestation key is bound to no signature scheme")]
    NoScheme,
    /// Quotes of this scheme are not verified.
    #[error("the attestation key signs with {scheme}; only rsassa and ecdsa are verified")]
    Scheme {
        /// The scheme the key is bound to.
        scheme: SignatureScheme,
    },
    /// Signatures over this hash are not verified.
    #[error("the attestation key signs with hash {hash}; only sha256, sha384 and sha512 are verified")]
    Hash {
        /// The hash of the scheme the key is bound to.
        hash: HashAlgorithm,
    },
    /// The Name, by which a registrar ties the key to its TPM, is a digest that no longer resists collisions.
    #[error("the attestation key's Name is a {hash} digest; only sha256, sha384 and sha512 are accepted")]
    NameAlgorithm {
        /// The hash of the Name.
        hash: HashAlgorithm,
    },
    /// The modulus is too short.
    #[error("the attestation key is RSA with {bits} bits, at least 2048 are demanded")]
    RsaTooShort {
        /// Size of the modulus in bits.
        bits: usize,
    },
    /// The modulus is shorter than its length in bytes says, or even.
    #[error("the attestation key's RSA modulus is malformed")]
    RsaModulus,
    /// The exponent is even or below 65537.
    #[error("the attestation key's RSA exponent {exponent} is not accepted")]
    RsaExponent {
        /// The exponent.
        exponent: u32,
    },
    /// The curve is not verified with.
    #[error("the attestation key is on curve {}; only P-256, P-384 and P-521 are verified", curve.name())]
    Curve {
        /// The curve.
        curve: Curve,
    },
    /// The coordinates are not those of a point on the curve.
    #[error("the attestation key is not a point on curve {}", curve.name())]
    NotOnCurve {
        /// The curve.
        curve: Curve,
    },
}

const DEMANDED: [(ObjectAttributes, &str); 5] = [
    (ObjectAttributes::FIXED_TPM, "fixedTPM"),
    (ObjectAttributes::FIXED_PARENT, "fixedParent"),
    (ObjectAttributes::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
    (ObjectAttributes::RESTRICTED, "restricted"),
    (ObjectAttributes::SIGN, "sign"),
];

impl TryFrom<Public> for AkPublic {
    type Error = AkError;

    fn try_from(public: Public) -> Result<Self, Self::Error> {
        for (bit, attribute) in DEMANDED {
            if !public.object_attributes.contains(bit) {
                return Err(AkError::AttributeMissing { attribute });
            }
        }
        if public.object_attributes.contains(ObjectAttributes::DECRYPT) {
            return Err(AkError::Decrypt);
        }
        if !is_strong(public.name_alg) {
            return Err(AkError::NameAlgorithm { hash: public.name_alg });
        }
        let KeyScheme { scheme, hash } = public.scheme.ok_or(AkError::NoScheme)?;
        // The decoder has seen to it that the scheme is one of the key's family.
        if !matches!(scheme, SignatureScheme::RsaSsa | SignatureScheme::EcDsa) {
            return Err(AkError::Scheme { scheme });
        }
        if !is_strong(hash) {
            return Err(AkError::Hash { hash });
        }
        let key = match &public.key {
            PublicKey::Rsa { exponent, modulus } => rsa_key(*exponent, modulus)?,
            PublicKey::Ecc { curve, x, y } => ecc_key(*curve, x, y)?,
        };
        Ok(Self { public, scheme, hash, key })
    }
}

/// Whether a hash still resists collisions, and can be computed here.
fn is_strong(hash: HashAlgorithm) -> bool {
    matches!(hash, HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)
}

fn rsa_key(exponent: u32, modulus: &[u8]) -> Result<AkKey, AkError> {
    let bits = modulus.len() * 8;
    if bits < 2048 {
        return Err(AkError::RsaTooShort { bits });
    }
    let full = modulus.first().is_some_and(|byte| *byte >= 0x80);
    let odd = modulus.last().is_some_and(|byte| byte % 2 == 1);
    if !full || !odd {
        return Err(AkError::RsaModulus);
    }
    if exponent < 65537 || exponent.is_multiple_of(2) {
        return Err(AkError::RsaExponent { exponent });
    }
    let exponent = exponent.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    Ok(AkKey::Rsa { modulus: modulus.to_vec(), exponent })
}

fn ecc_key(curve: Curve, x: &[u8], y: &[u8]) -> Result<AkKey, AkError> {
    // SEC1 "Elliptic-Curve-Point-to-Octet-String Conversion", uncompressed.
    let point = [&[0x04], x, y].concat();
    match curve {
        Curve::NistP256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).map(AkKey::P256),
        Curve::NistP384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(&point).map(AkKey::P384),
        Curve::NistP521 => p521::ecdsa::VerifyingKey::from_sec1_bytes(&point).map(AkKey::P521),
        Curve::NistP192 | Curve::NistP224 | Curve::Sm2P256 => return Err(AkError::Curve { curve }),
    }
    .map_err(|_| AkError::NotOnCurve { curve })
}

impl AkPublic {
    /// The whole public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// The scheme the key is bound to: RSASSA or ECDSA.
    pub fn scheme(&self) -> SignatureScheme {
        self.scheme
    }

    /// The hash the key signs with: SHA-256, SHA-384 or SHA-512.
    pub fn hash(&self) -> HashAlgorithm {
        self.hash
    }

    /// The key.
    pub(crate) fn key(&self) -> &AkKey {
        &self.key
    }
}
