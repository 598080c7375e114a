// SPDX-License-Identifier: Apache-2.0
//! The files of `tests/fixtures`; its README.md says how they were made.

use tpm_wire::public::Public;

pub(crate) struct Recorded {
    pub(crate) ek: &'static [u8],
    pub(crate) ek_pem: &'static str,
    pub ek_sha256: &'static str,
    pub(crate) ak: &'static [u8],
    pub(crate) ak_name: &'static [u8],
    pub(crate) ak_pem: &'static str,
    pub(crate) nonce: &'static [u8],
    pub(crate) quote: &'static str,
}

macro_rules! recorded {
    ($folder:literal) => {
        Recorded {
            ek: include_bytes!(concat!("../fixtures/", $folder, "/ek.tpm2b")),
            ek_pem: include_str!(concat!("../fixtures/", $folder, "/ek.pem")),
            ek_sha256: include_str!(concat!("../fixtures/", $folder, "/ek.sha256")),
            ak: include_bytes!(concat!("../fixtures/", $folder, "/ak.tpm2b")),
            ak_name: include_bytes!(concat!("../fixtures/", $folder, "/ak.name")),
            ak_pem: include_str!(concat!("../fixtures/", $folder, "/ak.pem")),
            nonce: include_bytes!(concat!("../fixtures/", $folder, "/nonce")),
            quote: include_str!(concat!("../fixtures/", $folder, "/quote.txt")),
        }
    };
}

pub(crate) const RSA2048: Recorded = recorded!("rsa2048");
pub(crate) const P256: Recorded = recorded!("p256");

/// Other public keys: TPM2B_PUBLIC and PEM.
pub(crate) const SPKI: [(&[u8], &str); 3] = [
    (include_bytes!("../fixtures/spki/rsa3072.tpm2b"), include_str!("../fixtures/spki/rsa3072.pem")),
    (include_bytes!("../fixtures/spki/ecc384.tpm2b"), include_str!("../fixtures/spki/ecc384.pem")),
    (include_bytes!("../fixtures/spki/ecc521.tpm2b"), include_str!("../fixtures/spki/ecc521.pem")),
];

impl Recorded {
    pub(crate) fn ak(&self) -> tpm_wire::public::AkPublic {
        Public::decode_2b(self.ak).unwrap().try_into().unwrap()
    }
}
