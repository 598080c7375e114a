// SPDX-License-Identifier: Apache-2.0
//! Decryption of the payload, which the tenant has encrypted under the bootstrap key: IV (16 bytes), ciphertext and tag
//! (16 bytes) one after the other, AES-GCM (NIST SP 800-38D) with 128 or 256 bits, no associated data.

use aes_gcm::aead::AeadInPlace as _;
use aes_gcm::aead::consts::U16;
use aes_gcm::aes::{Aes128, Aes256};
use aes_gcm::{AesGcm, KeyInit as _};
use zeroize::Zeroizing;

use crate::bootstrap_key::SymmetricKey;

const IV_LEN: usize = 16;
const TAG_LEN: usize = 16;

/// Why there is no plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecryptError {
    #[error("the encrypted payload has {0} bytes, fewer than the 32 of IV and tag")]
    TooShort(usize),
    #[error("the payload cannot be decrypted: it was encrypted under another key, or changed on the way")]
    Wrong,
}

/// The plaintext.
pub(crate) fn decrypt(key: &SymmetricKey, mut payload: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let too_short = DecryptError::TooShort(payload.len());
    let tag_at = payload.len().checked_sub(TAG_LEN).ok_or(too_short)?;
    let tag: [u8; TAG_LEN] = payload.split_off(tag_at).try_into().map_err(|_| too_short)?;
    let (iv, _) = payload.split_first_chunk::<IV_LEN>().ok_or(too_short)?;
    let iv = *iv;
    payload.drain(..IV_LEN);
    let mut text = Zeroizing::new(payload);
    let decrypted = match key.bytes().len() {
        16 => AesGcm::<Aes128, U16>::new_from_slice(key.bytes())
            .map(|cipher| cipher.decrypt_in_place_detached(&iv.into(), b"", &mut text, &tag.into())),
        _ => AesGcm::<Aes256, U16>::new_from_slice(key.bytes())
            .map(|cipher| cipher.decrypt_in_place_detached(&iv.into(), b"", &mut text, &tag.into())),
    };
    match decrypted {
        Ok(Ok(())) => Ok(text),
        _ => Err(DecryptError::Wrong),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn key(bytes: &[u8]) -> SymmetricKey {
        Zeroizing::new(bytes.to_vec()).try_into().unwrap()
    }

    /// What the tenant does.
    pub(crate) fn encrypt(key: &SymmetricKey, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        let iv = [7; IV_LEN];
        let tag = match key.bytes().len() {
            16 => AesGcm::<Aes128, U16>::new_from_slice(key.bytes()).unwrap().encrypt_in_place_detached(
                &iv.into(),
                b"",
                &mut text,
            ),
            _ => AesGcm::<Aes256, U16>::new_from_slice(key.bytes()).unwrap().encrypt_in_place_detached(
                &iv.into(),
                b"",
                &mut text,
            ),
        };
        [&iv[..], &text, &tag.unwrap()].concat()
    }

    /// Made with Python's `cryptography`, as the tenant does: keys 00 01 02 ..., IV f0 f1 ... ff, "payload".
    #[test]
    fn what_others_encrypt() {
        for (length, encrypted) in [
            (16, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff9fa3cf9488299df02ec4ba0ed4a6becad40f111b26ab79"),
            (32, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeffc8006543fee18a52c94ea78a6a5cde63c25e6a0f48dea3"),
        ] {
            let key = key(&(0..length).collect::<Vec<u8>>());
            assert_eq!(decrypt(&key, hex::decode(encrypted).unwrap()).unwrap().as_slice(), b"payload");
        }
    }

    #[test]
    fn each_change_is_noticed() {
        for key in [key(&[1; 16]), key(&[2; 32])] {
            let good = encrypt(&key, b"text");
            assert_eq!(decrypt(&key, good.clone()).unwrap().as_slice(), b"text");
            assert_eq!(decrypt(&key, encrypt(&key, b"")).unwrap().as_slice(), b"");
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert_eq!(decrypt(&key, bad).err(), Some(DecryptError::Wrong), "{at}");
                let expected = if at < 32 { DecryptError::TooShort(at) } else { DecryptError::Wrong };
                assert_eq!(decrypt(&key, good[..at].to_vec()).err(), Some(expected));
            }
        }
        assert_eq!(
            DecryptError::TooShort(31).to_string(),
            "the encrypted payload has 31 bytes, fewer than the 32 of IV and tag"
        );
    }
}
