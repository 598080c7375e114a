// SPDX-License-Identifier: Apache-2.0
//! SubjectPublicKeyInfo of a TPM key, and the Keylime agent id made from it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

use super::{Curve, PublicKey};

/// Keylime's `hash_ek` agent id: the lower-case hexadecimal SHA-256 of the PEM text of the EK's
/// SubjectPublicKeyInfo, 64 characters. `spki_pem` is what [`super::Public::to_spki_pem`] returns;
/// every byte counts, line ends included.
pub fn ek_hash(spki_pem: &str) -> String {
    hex::encode(digest(&SHA256, spki_pem.as_bytes()))
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

// Object identifiers and NULL as complete DER elements.
const RSA_ENCRYPTION: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// The named curve as a DER object identifier.
const fn curve_oid(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::NistP192 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01],
        Curve::NistP224 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x21],
        Curve::NistP256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Curve::NistP384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        Curve::NistP521 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
        Curve::Sm2P256 => &[0x06, 0x08, 0x2a, 0x81, 0x1c, 0xcf, 0x55, 0x01, 0x82, 0x2d],
    }
}

/// PEM of the key's SubjectPublicKeyInfo.
pub(super) fn pem(key: &PublicKey) -> String {
    let body = STANDARD.encode(der(key));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 64);
    text.push_str("-----BEGIN PUBLIC KEY-----\n");
    for (index, character) in body.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END PUBLIC KEY-----\n");
    text
}

/// DER of the key's SubjectPublicKeyInfo.
pub(super) fn der(key: &PublicKey) -> Vec<u8> {
    let (algorithm, key) = match key {
        PublicKey::Rsa { exponent, modulus } => {
            let parts = [integer(modulus), integer(&exponent.to_be_bytes())].concat();
            (RSA_ENCRYPTION.to_vec(), element(SEQUENCE, &parts))
        }
        PublicKey::Ecc { curve, x, y } => {
            ([EC_PUBLIC_KEY, curve_oid(*curve)].concat(), [&[0x04], x.as_slice(), y].concat())
        }
    };
    let algorithm = element(SEQUENCE, &algorithm);
    // No bit of the last byte is unused.
    let key = element(BIT_STRING, &[&[0x00], key.as_slice()].concat());
    element(SEQUENCE, &[algorithm, key].concat())
}

/// A DER INTEGER of an unsigned big-endian number.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let significant = bytes.get(start..).unwrap_or_default();
    // Without a leading zero byte a set top bit would make it negative, and zero would be empty.
    let sign: &[u8] = if significant.first().is_none_or(|byte| *byte >= 0x80) { &[0] } else { &[] };
    element(INTEGER, &[sign, significant].concat())
}

/// A DER element of at most 65535 bytes, which every key within the decoder's bounds is.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    let header = match content.len() {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [header.as_slice(), content].concat()
}
