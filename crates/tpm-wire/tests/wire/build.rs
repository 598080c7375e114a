// SPDX-License-Identifier: Apache-2.0
//! Builds the structures that a TPM makes, right or wrong, and signs them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _, RsaEncoding};
use p256::ecdsa::signature::hazmat::PrehashSigner;
use tpm_wire::hash::{HashAlgorithm, SignatureScheme};
use tpm_wire::pcr::PcrValues;
use tpm_wire::public::{AkPublic, Public};
use tpm_wire::quote::QuoteString;

pub(crate) const NONCE: &[u8] = b"JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
pub(crate) const AK_ATTRIBUTES: u32 = 0x0005_0072;

pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// TPMS_ATTEST, field by field.
#[derive(Clone)]
pub(crate) struct Attest {
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) signer: Vec<u8>,
    pub(crate) extra_data: Vec<u8>,
    pub(crate) safe: u8,
    /// Bank and bit map.
    pub(crate) selections: Vec<(u16, Vec<u8>)>,
    pub(crate) digest: Vec<u8>,
    pub(crate) trailing: Vec<u8>,
}

impl Attest {
    pub(crate) fn of(pcrs: &PcrValues) -> Self {
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            signer: vec![0x0b; 34],
            extra_data: NONCE.to_vec(),
            safe: 1,
            selections: vec![(pcrs.bank().tpm_id(), pcrs.mask().bits().to_le_bytes().get(..3).unwrap().to_vec())],
            digest: pcrs.digest().unwrap(),
            trailing: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_be_bytes().to_vec();
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(sized(&self.signer));
        bytes.extend(sized(&self.extra_data));
        bytes.extend(1234_u64.to_be_bytes());
        bytes.extend(5_u32.to_be_bytes());
        bytes.extend(6_u32.to_be_bytes());
        bytes.push(self.safe);
        bytes.extend(0x2019_1023_0016_3636_u64.to_be_bytes());
        bytes.extend((self.selections.len() as u32).to_be_bytes());
        for (bank, select) in &self.selections {
            bytes.extend(bank.to_be_bytes());
            bytes.push(select.len() as u8);
            bytes.extend(select);
        }
        bytes.extend(sized(&self.digest));
        bytes.extend(&self.trailing);
        bytes
    }
}

/// Values that differ from PCR to PCR.
pub(crate) fn pcr_values(bank: HashAlgorithm, pcrs: &[u8]) -> PcrValues {
    let values: BTreeMap<_, _> = pcrs.iter().map(|pcr| (*pcr, vec![0x40 + pcr; bank.digest_len()])).collect();
    PcrValues::new(bank, values).unwrap()
}

/// TPMT_PUBLIC in pieces.
#[derive(Clone)]
pub(crate) struct PublicArea {
    pub(crate) kind: u16,
    pub(crate) name_alg: u16,
    pub(crate) attributes: u32,
    pub(crate) policy: Vec<u8>,
    pub(crate) symmetric: Vec<u8>,
    pub(crate) scheme: Vec<u8>,
    /// keyBits and exponent, or curveID and kdf.
    pub(crate) parameters: Vec<u8>,
    pub(crate) unique: Vec<u8>,
}

impl PublicArea {
    pub(crate) fn encode_tpmt(&self) -> Vec<u8> {
        let mut bytes = self.kind.to_be_bytes().to_vec();
        bytes.extend(self.name_alg.to_be_bytes());
        bytes.extend(self.attributes.to_be_bytes());
        bytes.extend(sized(&self.policy));
        bytes.extend(&self.symmetric);
        bytes.extend(&self.scheme);
        bytes.extend(&self.parameters);
        bytes.extend(&self.unique);
        bytes
    }

    pub(crate) fn encode_2b(&self) -> Vec<u8> {
        sized(&self.encode_tpmt())
    }

    pub(crate) fn decode(&self) -> Public {
        Public::decode_2b(&self.encode_2b()).unwrap()
    }
}

/// A key outside any TPM that signs whatever it is given.
pub(crate) enum Key {
    Rsa(KeyPair, u16),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    /// With the algorithms for SHA-256, SHA-384 and SHA-512, each a key object of its own.
    P521([EcdsaKeyPair; 3]),
}

impl Key {
    /// One RSA-2048 key for all tests: making one takes a while.
    pub(crate) fn rsa() -> &'static Self {
        static KEY: OnceLock<Key> = OnceLock::new();
        KEY.get_or_init(Self::new_rsa2048)
    }

    pub(crate) fn new_rsa2048() -> Self {
        Self::Rsa(KeyPair::generate(KeySize::Rsa2048).unwrap(), 2048)
    }

    pub(crate) fn p256() -> Self {
        Self::P256(p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap())
    }

    pub(crate) fn p384() -> Self {
        Self::P384(p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap())
    }

    /// The p521 crate cannot sign without a source of randomness; this signer has one.
    pub(crate) fn p521() -> Self {
        let algorithms = [
            &signature::ECDSA_P521_SHA256_FIXED_SIGNING,
            &signature::ECDSA_P521_SHA384_FIXED_SIGNING,
            &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        ];
        let key = EcdsaKeyPair::generate(algorithms[0]).unwrap();
        let pkcs8 = key.to_pkcs8v1().unwrap();
        Self::P521(algorithms.map(|algorithm| EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap()))
    }

    fn scheme(&self) -> SignatureScheme {
        match self {
            Self::Rsa(..) => SignatureScheme::RsaSsa,
            _ => SignatureScheme::EcDsa,
        }
    }

    /// The public area of this key as an AK with this hash.
    pub(crate) fn public(&self, hash: HashAlgorithm) -> PublicArea {
        let point = match self {
            Self::Rsa(..) => Vec::new(),
            Self::P256(key) => key.verifying_key().to_encoded_point(false).as_bytes().to_vec(),
            Self::P384(key) => key.verifying_key().to_encoded_point(false).as_bytes().to_vec(),
            Self::P521([key, ..]) => key.public_key().as_ref().to_vec(),
        };
        let (kind, parameters, unique) = match self {
            Self::Rsa(key, bits) => {
                // RSAPublicKey in DER: SEQUENCE (4 bytes), INTEGER (4 bytes), the sign byte, the modulus.
                let der = key.public_key().as_ref();
                let modulus = &der[9..9 + usize::from(*bits) / 8];
                let parameters = [bits.to_be_bytes().as_slice(), &[0; 4]].concat();
                (0x0001, parameters, sized(modulus))
            }
            _ => {
                let curve = match self {
                    Self::P256(_) => 3,
                    Self::P384(_) => 4,
                    _ => 5,
                };
                let (x, y) = point[1..].split_at(point.len() / 2);
                (0x0023, vec![0, curve, 0x00, 0x10], [sized(x), sized(y)].concat())
            }
        };
        PublicArea {
            kind,
            name_alg: hash.tpm_id(),
            attributes: AK_ATTRIBUTES,
            policy: Vec::new(),
            symmetric: vec![0x00, 0x10],
            scheme: [self.scheme().tpm_id().to_be_bytes(), hash.tpm_id().to_be_bytes()].concat(),
            parameters,
            unique,
        }
    }

    pub(crate) fn ak(&self, hash: HashAlgorithm) -> AkPublic {
        self.public(hash).decode().try_into().unwrap()
    }

    /// A TPMT_SIGNATURE over `message`.
    pub(crate) fn sign(&self, hash: HashAlgorithm, message: &[u8]) -> Vec<u8> {
        let header = [self.scheme().tpm_id().to_be_bytes(), hash.tpm_id().to_be_bytes()].concat();
        [header, self.raw_signature(hash, message)].concat()
    }

    fn raw_signature(&self, hash: HashAlgorithm, message: &[u8]) -> Vec<u8> {
        let digest = hash.digest(message).unwrap();
        let halves = match self {
            Self::Rsa(..) => {
                let padding: &dyn RsaEncoding = match hash {
                    HashAlgorithm::Sha256 => &signature::RSA_PKCS1_SHA256,
                    HashAlgorithm::Sha384 => &signature::RSA_PKCS1_SHA384,
                    _ => &signature::RSA_PKCS1_SHA512,
                };
                return sized(&self.rsa_signature(padding, message));
            }
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(&digest).unwrap();
                signature.to_bytes().to_vec()
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign_prehash(&digest).unwrap();
                signature.to_bytes().to_vec()
            }
            Self::P521([sha256, sha384, sha512]) => {
                let key = match hash {
                    HashAlgorithm::Sha256 => sha256,
                    HashAlgorithm::Sha384 => sha384,
                    _ => sha512,
                };
                key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
            }
        };
        let (r, s) = halves.split_at(halves.len() / 2);
        [sized(r), sized(s)].concat()
    }

    /// The bare bytes of an RSA signature with another padding.
    pub(crate) fn rsa_signature(&self, padding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let Self::Rsa(key, _) = self else { panic!("not an RSA key") };
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }
}

/// A quote string with any PCR blob.
pub(crate) fn quote_string(attest: &[u8], signature: &[u8], pcrs: &[u8]) -> QuoteString {
    quote_text(attest, signature, pcrs).parse().unwrap()
}

pub(crate) fn quote_text(attest: &[u8], signature: &[u8], pcrs: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let [attest, signature, pcrs] = [attest, signature, pcrs].map(|part| STANDARD.encode(part));
    format!("r{attest}:{signature}:{pcrs}")
}
