// SPDX-License-Identifier: Apache-2.0
//! A key in memory that quotes as a TPM does, right or wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::PcrValues;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
pub(crate) const AK_ATTRIBUTES: u32 = 0x0005_0072;
/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const EK_ATTRIBUTES: u32 = 0x0003_00b2;

pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// An AK (P-256, ECDSA with SHA-256) and an EK.
pub(crate) struct SoftTpm {
    ak: EcdsaKeyPair,
    ek: EcdsaKeyPair,
}

impl SoftTpm {
    pub(crate) fn new() -> Self {
        let key = || {
            let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap()
        };
        Self { ak: key(), ek: key() }
    }

    /// TPM2B_PUBLIC of the AK.
    pub(crate) fn ak(&self) -> Vec<u8> {
        self.ak_with(AK_ATTRIBUTES)
    }

    pub(crate) fn ak_with(&self, attributes: u32) -> Vec<u8> {
        // No symmetric algorithm; ECDSA with SHA-256.
        public(&self.ak, attributes, &[], &[0x00, 0x10], &[0x00, 0x18, 0x00, 0x0b])
    }

    /// TPM2B_PUBLIC of the EK.
    pub(crate) fn ek(&self) -> Vec<u8> {
        // AES-128-CFB; no scheme.
        public(&self.ek, EK_ATTRIBUTES, &[0x5a; 32], &[0x00, 0x06, 0x00, 0x80, 0x00, 0x43], &[0x00, 0x10])
    }

    /// A TPMT_SIGNATURE of the AK.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.ak.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        [vec![0x00, 0x18, 0x00, 0x0b], sized(r), sized(s)].concat()
    }

    /// A good quote of PCR 16.
    pub(crate) fn quote(&self, nonce: &str) -> Parts {
        Attest::of(&pcr16(), nonce).signed_by(self, &pcr16())
    }
}

fn public(key: &EcdsaKeyPair, attributes: u32, policy: &[u8], symmetric: &[u8], scheme: &[u8]) -> Vec<u8> {
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    // Type ECC, Name with SHA-256; after the scheme the curve P-256 and no KDF.
    let head = [vec![0x00, 0x23, 0x00, 0x0b], attributes.to_be_bytes().to_vec(), sized(policy)].concat();
    sized(&[&head, symmetric, scheme, &[0x00, 0x03, 0x00, 0x10], &sized(x), &sized(y)].concat())
}

/// The PCR that every identity quote has.
pub(crate) fn pcr16() -> PcrValues {
    pcrs(&[16])
}

pub(crate) fn pcrs(pcrs: &[u8]) -> PcrValues {
    let values = pcrs.iter().map(|pcr| (*pcr, vec![0x40 + pcr; 32])).collect();
    PcrValues::new(HashAlgorithm::Sha256, values).unwrap()
}

/// TPMS_ATTEST of a quote, field by field.
pub(crate) struct Attest {
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) nonce: Vec<u8>,
    /// Bank and bit map of each selection.
    pub(crate) selections: Vec<(u16, [u8; 3])>,
    pub(crate) digest: Vec<u8>,
}

impl Attest {
    pub(crate) fn of(pcrs: &PcrValues, nonce: &str) -> Self {
        let bits = pcrs.mask().bits().to_le_bytes();
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            nonce: nonce.as_bytes().to_vec(),
            selections: vec![(pcrs.bank().tpm_id(), [bits[0], bits[1], bits[2]])],
            digest: pcrs.digest().unwrap(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_be_bytes().to_vec();
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(sized(&[0x0b; 34]));
        bytes.extend(sized(&self.nonce));
        // Clock, reset and restart count, safe, firmware version.
        bytes.extend([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend(u32::try_from(self.selections.len()).unwrap().to_be_bytes());
        for (bank, select) in &self.selections {
            bytes.extend(bank.to_be_bytes());
            bytes.push(3);
            bytes.extend(select);
        }
        bytes.extend(sized(&self.digest));
        bytes
    }

    /// The quote with these PCR values beside it.
    pub(crate) fn signed_by(&self, tpm: &SoftTpm, pcrs: &PcrValues) -> Parts {
        let attest = self.encode();
        Parts { signature: tpm.sign(&attest), attest, pcrs: pcrs.encode_blob() }
    }
}

/// The parts of a quote string.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) attest: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) pcrs: Vec<u8>,
}

impl Parts {
    pub(crate) fn text(&self) -> String {
        let [attest, signature, pcrs] = [&self.attest, &self.signature, &self.pcrs].map(|part| STANDARD.encode(part));
        format!("r{attest}:{signature}:{pcrs}")
    }
}
