// SPDX-License-Identifier: Apache-2.0
//! Algorithms: TPM identifiers and the names Keylime gives them.
//!
//! Identifiers are those of the TCG Algorithm Registry, "TPM_ALG_ID"; names are the ones in
//! Keylime's configuration and JSON (`hash_alg`, `enc_alg`, `sign_alg`).

use std::fmt;
use std::str::FromStr;

use ring::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A hash algorithm of a PCR bank, a name or a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// SHA-1, TPM_ALG_SHA1. Its digests are computed for old PCR banks; [`crate::verify`] refuses it.
    Sha1,
    /// SHA-256, TPM_ALG_SHA256.
    Sha256,
    /// SHA-384, TPM_ALG_SHA384.
    Sha384,
    /// SHA-512, TPM_ALG_SHA512.
    Sha512,
    /// SM3, TPM_ALG_SM3_256. Known by name; digests are not computed here.
    Sm3_256,
}

/// This build cannot compute the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} digests cannot be computed here")]
pub struct UnsupportedHash(pub HashAlgorithm);

/// A name that stands for no algorithm of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} algorithm {name:?}, expected one of {expected}")]
pub struct UnknownAlgorithm {
    kind: &'static str,
    name: String,
    expected: &'static str,
}

impl UnknownAlgorithm {
    fn new(kind: &'static str, name: &str, expected: &'static str) -> Self {
        // The name may come from the network: what is repeated of it is bounded.
        Self { kind, name: name.chars().take(32).collect(), expected }
    }
}

impl HashAlgorithm {
    /// Every hash algorithm known here.
    pub const ALL: [Self; 5] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512, Self::Sm3_256];

    /// Keylime's name: `sha1`, `sha256`, `sha384`, `sha512` or `sm3_256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sm3_256 => "sm3_256",
        }
    }

    /// The TPM_ALG_ID.
    pub const fn tpm_id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
            Self::Sm3_256 => 0x0012,
        }
    }

    /// The algorithm of a TPM_ALG_ID, `None` if it is not one of these.
    pub fn from_tpm_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.tpm_id() == id)
    }

    /// Length of a digest in bytes: 20 to 64.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sm3_256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `data`, [`Self::digest_len`] bytes long.
    ///
    /// # Errors
    /// [`UnsupportedHash`] for SM3.
    pub fn digest(self, data: &[u8]) -> Result<Vec<u8>, UnsupportedHash> {
        let mut hasher = self.hasher()?;
        hasher.update(data);
        Ok(hasher.finish().as_ref().to_vec())
    }

    /// A running digest, for data in pieces.
    pub(crate) fn hasher(self) -> Result<digest::Context, UnsupportedHash> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
            Self::Sm3_256 => return Err(UnsupportedHash(self)),
        };
        Ok(digest::Context::new(algorithm))
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| UnknownAlgorithm::new("hash", name, "sha1, sha256, sha384, sha512, sm3_256"))
    }
}

impl Serialize for HashAlgorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for HashAlgorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(de::Error::custom)
    }
}

/// A signature scheme of an AK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignatureScheme {
    /// RSASSA PKCS#1 v1.5, TPM_ALG_RSASSA.
    RsaSsa,
    /// RSASSA-PSS, TPM_ALG_RSAPSS. Keylime registers such keys but verifies none of their quotes.
    RsaPss,
    /// ECDSA, TPM_ALG_ECDSA.
    EcDsa,
    /// EC Schnorr, TPM_ALG_ECSCHNORR. Keylime registers such keys but verifies none of their quotes.
    EcSchnorr,
}

impl SignatureScheme {
    /// Every scheme known here.
    pub const ALL: [Self; 4] = [Self::RsaSsa, Self::RsaPss, Self::EcDsa, Self::EcSchnorr];

    /// Keylime's name: `rsassa`, `rsapss`, `ecdsa` or `ecschnorr`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RsaSsa => "rsassa",
            Self::RsaPss => "rsapss",
            Self::EcDsa => "ecdsa",
            Self::EcSchnorr => "ecschnorr",
        }
    }

    /// The TPM_ALG_ID.
    pub const fn tpm_id(self) -> u16 {
        match self {
            Self::RsaSsa => 0x0014,
            Self::RsaPss => 0x0016,
            Self::EcDsa => 0x0018,
            Self::EcSchnorr => 0x001c,
        }
    }

    /// The scheme of a TPM_ALG_ID, `None` if it is not one of these.
    pub fn from_tpm_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.tpm_id() == id)
    }

    /// Whether keys of this scheme are RSA keys; the others are ECC keys.
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::RsaSsa | Self::RsaPss)
    }
}

impl fmt::Display for SignatureScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SignatureScheme {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|scheme| scheme.name() == name)
            .ok_or_else(|| UnknownAlgorithm::new("signing", name, "rsassa, rsapss, ecdsa, ecschnorr"))
    }
}

/// Type and size of an EK or AK, Keylime's "encryption algorithm".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAlgorithm {
    /// RSA with a 1024-bit modulus.
    Rsa1024,
    /// RSA with a 2048-bit modulus.
    Rsa2048,
    /// RSA with a 3072-bit modulus.
    Rsa3072,
    /// RSA with a 4096-bit modulus.
    Rsa4096,
    /// NIST P-192.
    Ecc192,
    /// NIST P-224.
    Ecc224,
    /// NIST P-256.
    Ecc256,
    /// NIST P-384.
    Ecc384,
    /// NIST P-521.
    Ecc521,
    /// SM2 P-256.
    EccSm2,
}

impl KeyAlgorithm {
    /// Every key algorithm known here.
    pub const ALL: [Self; 10] = [
        Self::Rsa1024,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::Ecc192,
        Self::Ecc224,
        Self::Ecc256,
        Self::Ecc384,
        Self::Ecc521,
        Self::EccSm2,
    ];

    /// The name with its explicit length, as API 2.5 and later use it: `rsa2048`, `ecc256`, ….
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa1024 => "rsa1024",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
            Self::Ecc192 => "ecc192",
            Self::Ecc224 => "ecc224",
            Self::Ecc256 => "ecc256",
            Self::Ecc384 => "ecc384",
            Self::Ecc521 => "ecc521",
            Self::EccSm2 => "ecc_sm2",
        }
    }

    /// The name in an answer: with explicit lengths (API 2.5 and later) that of [`Self::name`],
    /// before that `rsa2048` is shown as `rsa` and `ecc256` as `ecc`.
    pub const fn name_for(self, api_explicit_lengths: bool) -> &'static str {
        match self {
            Self::Rsa2048 if !api_explicit_lengths => "rsa",
            Self::Ecc256 if !api_explicit_lengths => "ecc",
            other => other.name(),
        }
    }

    /// Whether this is an RSA key; the others are ECC keys.
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa1024 | Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyAlgorithm {
    type Err = UnknownAlgorithm;

    /// Takes every spelling of Keylime's configuration: explicit lengths, the short `rsa` and `ecc`,
    /// and the curve names `ecc_nist_p192` … `ecc_nist_p521`, `ecc_sm2_p256`.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "rsa" => Self::Rsa2048,
            "ecc" | "ecc_nist_p256" => Self::Ecc256,
            "ecc_nist_p192" => Self::Ecc192,
            "ecc_nist_p224" => Self::Ecc224,
            "ecc_nist_p384" => Self::Ecc384,
            "ecc_nist_p521" => Self::Ecc521,
            "ecc_sm2_p256" => Self::EccSm2,
            _ => {
                return Self::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
                    UnknownAlgorithm::new(
                        "encryption",
                        name,
                        "rsa, rsa1024, rsa2048, rsa3072, rsa4096, ecc, ecc192, ecc224, ecc256, ecc384, \
                         ecc521, ecc_sm2",
                    )
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_names_ids_and_lengths() {
        let rows = [
            (HashAlgorithm::Sha1, "sha1", 0x04, 20),
            (HashAlgorithm::Sha256, "sha256", 0x0b, 32),
            (HashAlgorithm::Sha384, "sha384", 0x0c, 48),
            (HashAlgorithm::Sha512, "sha512", 0x0d, 64),
            (HashAlgorithm::Sm3_256, "sm3_256", 0x12, 32),
        ];
        for (algorithm, name, id, len) in rows {
            assert_eq!(algorithm.to_string(), name);
            assert_eq!(name.parse(), Ok(algorithm));
            assert_eq!(algorithm.tpm_id(), id);
            assert_eq!(HashAlgorithm::from_tpm_id(id), Some(algorithm));
            assert_eq!(algorithm.digest_len(), len);
            let json = serde_json::to_string(&algorithm).unwrap();
            assert_eq!(json, format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<HashAlgorithm>(&json).unwrap(), algorithm);
            match algorithm.digest(b"abc") {
                Ok(digest) => assert_eq!(digest.len(), len),
                Err(error) => {
                    assert_eq!(error.to_string(), "sm3_256 digests cannot be computed here");
                }
            }
        }
        // TPM_ALG_NULL, SHA3-256
        assert_eq!(HashAlgorithm::from_tpm_id(0x10), None);
        assert_eq!(HashAlgorithm::from_tpm_id(0x27), None);
    }

    #[test]
    fn digests_are_the_published_ones() {
        // FIPS 180-4 example "abc".
        let digest = |algorithm: HashAlgorithm| hex::encode(algorithm.digest(b"abc").unwrap());
        assert_eq!(digest(HashAlgorithm::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(digest(HashAlgorithm::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(digest(HashAlgorithm::Sha384).starts_with("cb00753f45a35e8bb5a03d699ac65007"));
        assert!(digest(HashAlgorithm::Sha512).starts_with("ddaf35a193617abacc417349ae204131"));
    }

    #[test]
    fn unknown_names_are_repeated_in_part_only() {
        let rows = [
            (
                "SHA256".parse::<HashAlgorithm>().unwrap_err(),
                "unknown hash algorithm \"SHA256\", expected one of sha1, sha256, sha384, sha512, sm3_256",
            ),
            (
                "".parse::<SignatureScheme>().unwrap_err(),
                "unknown signing algorithm \"\", expected one of rsassa, rsapss, ecdsa, ecschnorr",
            ),
            (
                "dsa\n".parse::<KeyAlgorithm>().unwrap_err(),
                "unknown encryption algorithm \"dsa\\n\", expected one of rsa, rsa1024, rsa2048, \
                 rsa3072, rsa4096, ecc, ecc192, ecc224, ecc256, ecc384, ecc521, ecc_sm2",
            ),
            (
                "x".repeat(1000).parse::<SignatureScheme>().unwrap_err(),
                "unknown signing algorithm \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\", expected one of rsassa, \
                 rsapss, ecdsa, ecschnorr",
            ),
        ];
        for (error, expected) in rows {
            assert_eq!(error.to_string(), expected);
        }
        let error = serde_json::from_str::<HashAlgorithm>("\"md5\"").unwrap_err().to_string();
        assert!(error.starts_with("unknown hash algorithm \"md5\""), "{error}");
    }

    #[test]
    fn scheme_names_ids_and_families() {
        let rows = [
            (SignatureScheme::RsaSsa, "rsassa", 0x14, true),
            (SignatureScheme::RsaPss, "rsapss", 0x16, true),
            (SignatureScheme::EcDsa, "ecdsa", 0x18, false),
            (SignatureScheme::EcSchnorr, "ecschnorr", 0x1c, false),
        ];
        for (scheme, name, id, rsa) in rows {
            assert_eq!(scheme.to_string(), name);
            assert_eq!(name.parse(), Ok(scheme));
            assert_eq!(scheme.tpm_id(), id);
            assert_eq!(SignatureScheme::from_tpm_id(id), Some(scheme));
            assert_eq!(scheme.is_rsa(), rsa);
        }
        assert_eq!(SignatureScheme::from_tpm_id(0x10), None);
    }

    #[test]
    fn key_names_of_every_api() {
        for algorithm in KeyAlgorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert_eq!(algorithm.to_string(), algorithm.name());
            assert_eq!(algorithm.name_for(true), algorithm.name());
            assert_eq!(algorithm.is_rsa(), algorithm.name().starts_with("rsa"));
        }
        assert_eq!(KeyAlgorithm::Rsa2048.name_for(false), "rsa");
        assert_eq!(KeyAlgorithm::Ecc256.name_for(false), "ecc");
        assert_eq!(KeyAlgorithm::Rsa3072.name_for(false), "rsa3072");
        assert_eq!(KeyAlgorithm::Ecc384.name_for(false), "ecc384");
        let aliases = [
            ("rsa", KeyAlgorithm::Rsa2048),
            ("ecc", KeyAlgorithm::Ecc256),
            ("ecc_nist_p192", KeyAlgorithm::Ecc192),
            ("ecc_nist_p224", KeyAlgorithm::Ecc224),
            ("ecc_nist_p256", KeyAlgorithm::Ecc256),
            ("ecc_nist_p384", KeyAlgorithm::Ecc384),
            ("ecc_nist_p521", KeyAlgorithm::Ecc521),
            ("ecc_sm2_p256", KeyAlgorithm::EccSm2),
        ];
        for (alias, algorithm) in aliases {
            assert_eq!(alias.parse(), Ok(algorithm));
        }
    }
}
