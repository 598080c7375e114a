// SPDX-License-Identifier: Apache-2.0
//! TPM2B_PUBLIC: the public area of an EK or AK, and what is derived from it.

mod ak;
mod spki;

use std::fmt;

use crate::error::DecodeError;
use crate::hash::{HashAlgorithm, SignatureScheme, UnsupportedHash};
use crate::structure::Fields;

pub(crate) use ak::AkKey;
pub use ak::{AkError, AkPublic};
pub use spki::ek_hash;

/// The largest accepted TPM2B_PUBLIC in bytes, size prefix included. RSA-4096 with a SHA-512 policy
/// takes about 610.
pub const MAX_PUBLIC_LEN: usize = 1024;

/// The public area of an RSA or ECC key, decoded.
///
/// Layout of TPM2B_PUBLIC, big endian: u16 size, then TPMT_PUBLIC: u16 type, u16 nameAlg, u32
/// objectAttributes, TPM2B authPolicy, parameters and unique by type. Source: TCG TPM 2.0 Library,
/// Part 2 "Structures", revision 1.59, "TPM2B_PUBLIC" and "TPMT_PUBLIC".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// What the TPM promises about the object.
    pub object_attributes: ObjectAttributes,
    /// The hash of the object's Name and policy.
    pub name_alg: HashAlgorithm,
    /// The policy digest, 0 to 64 bytes.
    pub auth_policy: Vec<u8>,
    /// Symmetric algorithm of a restricted decryption key, `None` for TPM_ALG_NULL.
    pub symmetric: Option<Symmetric>,
    /// The scheme a signing key is bound to, `None` for TPM_ALG_NULL.
    pub scheme: Option<KeyScheme>,
    /// The key proper.
    pub key: PublicKey,
    /// The TPMT_PUBLIC as received, from which the Name is computed.
    tpmt: Vec<u8>,
}

/// TPMT_SYM_DEF_OBJECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symmetric {
    /// TPM_ALG_ID of the block cipher.
    pub algorithm: u16,
    /// Key size in bits.
    pub key_bits: u16,
    /// TPM_ALG_ID of the mode.
    pub mode: u16,
}

/// TPMT_RSA_SCHEME or TPMT_ECC_SCHEME with a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyScheme {
    /// The signature scheme.
    pub scheme: SignatureScheme,
    /// Its hash.
    pub hash: HashAlgorithm,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// TPMS_RSA_PARMS and the modulus.
    Rsa {
        /// The public exponent; the 0 that stands for the default is resolved to 65537.
        exponent: u32,
        /// The modulus, big endian, exactly as many bytes as the key size says: 128 to 512.
        modulus: Vec<u8>,
    },
    /// TPMS_ECC_PARMS and the point.
    Ecc {
        /// The curve.
        curve: Curve,
        /// The x coordinate, big endian, padded to the size of the field.
        x: Vec<u8>,
        /// The y coordinate, likewise.
        y: Vec<u8>,
    },
}

/// An elliptic curve, TPM_ECC_CURVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// TPM_ECC_NIST_P192.
    NistP192,
    /// TPM_ECC_NIST_P224.
    NistP224,
    /// TPM_ECC_NIST_P256.
    NistP256,
    /// TPM_ECC_NIST_P384.
    NistP384,
    /// TPM_ECC_NIST_P521.
    NistP521,
    /// TPM_ECC_SM2_P256.
    Sm2P256,
}

impl Curve {
    fn from_tpm_id(id: u16) -> Option<Self> {
        Some(match id {
            0x0001 => Self::NistP192,
            0x0002 => Self::NistP224,
            0x0003 => Self::NistP256,
            0x0004 => Self::NistP384,
            0x0005 => Self::NistP521,
            0x0020 => Self::Sm2P256,
            _ => return None,
        })
    }

    /// Length of a coordinate in bytes.
    pub const fn coordinate_len(self) -> usize {
        match self {
            Self::NistP192 => 24,
            Self::NistP224 => 28,
            Self::NistP256 | Self::Sm2P256 => 32,
            Self::NistP384 => 48,
            Self::NistP521 => 66,
        }
    }

    /// The usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NistP192 => "P-192",
            Self::NistP224 => "P-224",
            Self::NistP256 => "P-256",
            Self::NistP384 => "P-384",
            Self::NistP521 => "P-521",
            Self::Sm2P256 => "SM2",
        }
    }
}

/// TPMA_OBJECT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ObjectAttributes(pub u32);

impl ObjectAttributes {
    /// The object cannot leave its TPM.
    pub const FIXED_TPM: Self = Self(0x0000_0002);
    /// The object cannot leave its parent.
    pub const FIXED_PARENT: Self = Self(0x0000_0010);
    /// The TPM made the private part itself.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(0x0000_0020);
    /// Use is authorised by the authValue.
    pub const USER_WITH_AUTH: Self = Self(0x0000_0040);
    /// Administration is authorised by policy only.
    pub const ADMIN_WITH_POLICY: Self = Self(0x0000_0080);
    /// The key works on structures of the TPM's own making only.
    pub const RESTRICTED: Self = Self(0x0001_0000);
    /// The key decrypts.
    pub const DECRYPT: Self = Self(0x0002_0000);
    /// The key signs (or, for symmetric keys, encrypts).
    pub const SIGN: Self = Self(0x0004_0000);

    /// Whether all attributes of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for ObjectAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectAttributes({:#010x})", self.0)
    }
}

const TPM_ALG_RSA: u16 = 0x0001;
const TPM_ALG_ECC: u16 = 0x0023;
const TPM_ALG_NULL: u16 = 0x0010;

impl Public {
    /// Decodes a TPM2B_PUBLIC, as `ek_tpm` and `aik_tpm` carry it.
    ///
    /// # Errors
    /// The structure is longer than [`MAX_PUBLIC_LEN`], truncated, followed by more bytes, of a key
    /// type, curve, scheme or name algorithm that is not known here, or has a key of a wrong length.
    pub fn decode_2b(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut outer = Fields::new("TPM2B_PUBLIC", bytes, MAX_PUBLIC_LEN)?;
        let tpmt = outer.sized("publicArea")?;
        outer.finish()?;
        Self::decode_tpmt(tpmt)
    }

    /// Decodes a TPMT_PUBLIC: the same without the size prefix.
    ///
    /// # Errors
    /// Those of [`Self::decode_2b`].
    pub fn decode_tpmt(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Fields::new("TPMT_PUBLIC", bytes, MAX_PUBLIC_LEN - 2)?;
        let kind = reader.u16("type")?;
        if kind != TPM_ALG_RSA && kind != TPM_ALG_ECC {
            return Err(reader.unsupported("type", kind));
        }
        let name_alg = hash(&mut reader, "nameAlg")?;
        let object_attributes = ObjectAttributes(reader.u32("objectAttributes")?);
        let auth_policy = reader.sized("authPolicy")?;
        if auth_policy.len() > 64 {
            return Err(reader.size_error("authPolicy", auth_policy.len(), "at most 64"));
        }
        let symmetric = symmetric(&mut reader)?;
        let scheme = scheme(&mut reader)?;
        if let Some(KeyScheme { scheme, .. }) = scheme
            && scheme.is_rsa() != (kind == TPM_ALG_RSA)
        {
            return Err(reader.unsupported("scheme", scheme.tpm_id()));
        }
        let key = if kind == TPM_ALG_RSA { rsa(&mut reader)? } else { ecc(&mut reader)? };
        reader.finish()?;
        Ok(Self {
            object_attributes,
            name_alg,
            auth_policy: auth_policy.to_vec(),
            symmetric,
            scheme,
            key,
            tpmt: bytes.to_vec(),
        })
    }

    /// The Name of the object: u16 nameAlg and the nameAlg digest of the TPMT_PUBLIC.
    ///
    /// # Errors
    /// [`UnsupportedHash`] if nameAlg is SM3.
    pub fn name(&self) -> Result<Vec<u8>, UnsupportedHash> {
        let digest = self.name_alg.digest(&self.tpmt)?;
        Ok([self.name_alg.tpm_id().to_be_bytes().as_slice(), &digest].concat())
    }

    /// The key as PEM SubjectPublicKeyInfo (RFC 5280 "Subject Public Key Info"): header
    /// `-----BEGIN PUBLIC KEY-----`, 64-column base64, footer, LF line ends, one LF at the end. It is
    /// the text `openssl x509 -pubkey -noout` prints for a certificate of this key.
    pub fn to_spki_pem(&self) -> String {
        spki::pem(&self.key)
    }

    /// The key as SubjectPublicKeyInfo in DER, the bytes inside [`Self::to_spki_pem`].
    pub fn to_spki_der(&self) -> Vec<u8> {
        spki::der(&self.key)
    }
}

fn hash(reader: &mut Fields<'_>, field: &'static str) -> Result<HashAlgorithm, DecodeError> {
    let id = reader.u16(field)?;
    HashAlgorithm::from_tpm_id(id).ok_or_else(|| reader.unsupported(field, id))
}

/// TPMT_SYM_DEF_OBJECT: u16 algorithm and, unless that is NULL, u16 keyBits and u16 mode.
fn symmetric(reader: &mut Fields<'_>) -> Result<Option<Symmetric>, DecodeError> {
    const BLOCK_CIPHERS: [u16; 3] = [0x0006, 0x0013, 0x0026]; // AES, SM4, Camellia
    match reader.u16("symmetric")? {
        TPM_ALG_NULL => Ok(None),
        algorithm if BLOCK_CIPHERS.contains(&algorithm) => Ok(Some(Symmetric {
            algorithm,
            key_bits: reader.u16("symmetric.keyBits")?,
            mode: reader.u16("symmetric.mode")?,
        })),
        other => Err(reader.unsupported("symmetric", other)),
    }
}

/// TPMT_RSA_SCHEME or TPMT_ECC_SCHEME: u16 scheme and, unless that is NULL, u16 hash.
fn scheme(reader: &mut Fields<'_>) -> Result<Option<KeyScheme>, DecodeError> {
    match reader.u16("scheme")? {
        TPM_ALG_NULL => Ok(None),
        id => {
            let scheme = SignatureScheme::from_tpm_id(id).ok_or_else(|| reader.unsupported("scheme", id))?;
            Ok(Some(KeyScheme { scheme, hash: hash(reader, "scheme.hash")? }))
        }
    }
}

/// The rest of TPMS_RSA_PARMS (u16 keyBits, u32 exponent) and TPM2B_PUBLIC_KEY_RSA.
fn rsa(reader: &mut Fields<'_>) -> Result<PublicKey, DecodeError> {
    let key_bits = reader.u16("keyBits")?;
    if !matches!(key_bits, 1024 | 2048 | 3072 | 4096) {
        return Err(reader.unsupported("keyBits", key_bits));
    }
    let exponent = match reader.u32("exponent")? {
        0 => 65537,
        other => other,
    };
    let modulus = reader.sized("unique")?;
    if modulus.len() != usize::from(key_bits) / 8 {
        return Err(reader.size_error("unique", modulus.len(), "keyBits / 8"));
    }
    Ok(PublicKey::Rsa { exponent, modulus: modulus.to_vec() })
}

/// The rest of TPMS_ECC_PARMS (u16 curveID, TPMT_KDF_SCHEME) and TPMS_ECC_POINT.
fn ecc(reader: &mut Fields<'_>) -> Result<PublicKey, DecodeError> {
    let id = reader.u16("curveID")?;
    let curve = Curve::from_tpm_id(id).ok_or_else(|| reader.unsupported("curveID", id))?;
    if reader.u16("kdf")? != TPM_ALG_NULL {
        hash(reader, "kdf.hash")?;
    }
    let x = coordinate(reader, "unique.x", curve)?;
    let y = coordinate(reader, "unique.y", curve)?;
    Ok(PublicKey::Ecc { curve, x, y })
}

/// A coordinate, padded to the size of the field. Some TPMs leave leading zeros out.
fn coordinate(reader: &mut Fields<'_>, field: &'static str, curve: Curve) -> Result<Vec<u8>, DecodeError> {
    let bytes = reader.sized(field)?;
    if bytes.is_empty() {
        return Err(reader.size_error(field, 0, "1 to the size of the curve's field"));
    }
    let missing = curve
        .coordinate_len()
        .checked_sub(bytes.len())
        .ok_or_else(|| reader.size_error(field, bytes.len(), "1 to the size of the curve's field"))?;
    let mut padded = vec![0; missing];
    padded.extend_from_slice(bytes);
    Ok(padded)
}
