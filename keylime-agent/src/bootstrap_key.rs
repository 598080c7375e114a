// SPDX-License-Identifier: Apache-2.0
//! The bootstrap key K, of which the tenant sends one half (U) and the verifier, once the host has proven itself, the
//! other (V): K = U xor V. The tenant's authentication tag tells which halves belong together.

use ring::hmac;
use zeroize::Zeroizing;

/// Length of an authentication tag: HMAC-SHA384.
pub(crate) const AUTH_TAG_LEN: usize = 48;
/// How many halves of each kind are kept while their counterparts are missing; the oldest give way.
const MAX_HALVES: usize = 16;
/// Bytes of all payloads that are kept meanwhile; again the oldest give way, with their halves.
const MAX_PAYLOADS: usize = 4 << 20;

/// A half, or the key: 16 or 32 bytes.
#[derive(Clone)]
pub(crate) struct SymmetricKey(Zeroizing<Vec<u8>>);

/// The decrypted bytes are no half of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key half has 16 or 32 bytes, not {0}")]
pub(crate) struct KeyLengthError(usize);

impl TryFrom<Zeroizing<Vec<u8>>> for SymmetricKey {
    type Error = KeyLengthError;

    fn try_from(bytes: Zeroizing<Vec<u8>>) -> Result<Self, Self::Error> {
        match bytes.len() {
            16 | 32 => Ok(Self(bytes)),
            other => Err(KeyLengthError(other)),
        }
    }
}

impl SymmetricKey {
    /// The bytes themselves.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn xor(&self, other: &Self) -> Option<Self> {
        let same_length = self.0.len() == other.0.len();
        let pairs = self.0.iter().zip(other.0.iter());
        same_length.then(|| Self(Zeroizing::new(pairs.map(|(a, b)| a ^ b).collect())))
    }

    fn hmac_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA384, &self.0)
    }
}

/// The tenant's half.
pub(crate) struct UKey {
    /// The half.
    pub(crate) key: SymmetricKey,
    /// HMAC-SHA384 over the agent id under K.
    pub(crate) auth_tag: [u8; AUTH_TAG_LEN],
    /// The encrypted payload that came with it.
    pub(crate) payload: Option<Vec<u8>>,
}

/// What came of the arrival of a half.
pub(crate) enum Combination {
    /// The other half is still missing.
    Waiting,
    /// No two halves belong together.
    NoMatch,
    /// K is known.
    Derived {
        /// The payload, with the key that it is encrypted under.
        payload: Option<(SymmetricKey, Vec<u8>)>,
    },
}

/// The halves received so far and the key made of them.
#[derive(Default)]
pub(crate) struct BootstrapKeys {
    u: Vec<UKey>,
    v: Vec<SymmetricKey>,
    key: Option<SymmetricKey>,
}

impl BootstrapKeys {
    /// Takes the tenant's half.
    pub(crate) fn add_u(&mut self, key: UKey, agent_id: &str) -> Combination {
        push_bounded(&mut self.u, key);
        let length = |key: &UKey| key.payload.as_ref().map_or(0, Vec::len);
        while self.u.len() > 1 && self.u.iter().map(length).sum::<usize>() > MAX_PAYLOADS {
            tracing::warn!("The oldest of the payloads that wait for the verifier's half of their key is given up");
            self.u.remove(0);
        }
        self.combine(agent_id)
    }

    /// Takes the verifier's half.
    pub(crate) fn add_v(&mut self, key: SymmetricKey, agent_id: &str) -> Combination {
        push_bounded(&mut self.v, key);
        self.combine(agent_id)
    }

    /// Proves to the tenant that K is known: HMAC-SHA384 over its challenge, in lower-case hexadecimal. K stays known for
    /// the life of the process.
    pub(crate) fn prove(&self, challenge: &str) -> Option<String> {
        let key = self.key.as_ref()?;
        Some(hex::encode(hmac::sign(&key.hmac_key(), challenge.as_bytes())))
    }

    fn combine(&mut self, agent_id: &str) -> Combination {
        if self.u.is_empty() || self.v.is_empty() {
            return Combination::Waiting;
        }
        let pairs = self.u.iter().enumerate().flat_map(|(at, u)| self.v.iter().map(move |v| (at, u, v)));
        let found = pairs
            .filter_map(|(at, u, v)| Some((at, u, u.key.xor(v)?)))
            // `verify` compares in constant time.
            .find(|(_, u, key)| hmac::verify(&key.hmac_key(), agent_id.as_bytes(), &u.auth_tag).is_ok())
            .map(|(at, _, key)| (at, key));
        let Some((at, key)) = found else {
            return Combination::NoMatch;
        };
        let payload = self.u.swap_remove(at).payload.map(|payload| (key.clone(), payload));
        self.key = Some(key);
        self.u.clear();
        self.v.clear();
        Combination::Derived { payload }
    }
}

fn push_bounded<T>(list: &mut Vec<T>, item: T) {
    if list.len() >= MAX_HALVES {
        tracing::warn!("The oldest of {MAX_HALVES} halves of keys that wait for their counterparts is given up");
        list.remove(0);
    }
    list.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "d432fbb3-d2f1-4a97-9ef7-75bd81c00001";

    fn key(byte: u8, length: usize) -> SymmetricKey {
        SymmetricKey::try_from(Zeroizing::new(vec![byte; length])).unwrap()
    }

    fn u(byte: u8, k: &SymmetricKey, id: &str, payload: Option<&[u8]>) -> UKey {
        let tag = hmac::sign(&k.hmac_key(), id.as_bytes());
        UKey {
            key: key(byte, k.0.len()),
            auth_tag: tag.as_ref().try_into().unwrap(),
            payload: payload.map(<[u8]>::to_vec),
        }
    }

    /// What a combination is, without its secrets.
    fn seen(combination: Combination) -> &'static str {
        match combination {
            Combination::Waiting => "waiting",
            Combination::NoMatch => "no match",
            Combination::Derived { payload: None } => "derived",
            Combination::Derived { payload: Some((key, payload)) } => {
                assert_eq!((key.bytes()[0], payload.as_slice()), (0b11, &b"payload"[..]));
                "derived with payload"
            }
        }
    }

    #[test]
    fn either_half_may_come_first() {
        for length in [16, 32] {
            let k = key(0b11, length);
            let mut keys = BootstrapKeys::default();
            assert_eq!(seen(keys.add_u(u(0b01, &k, ID, Some(b"payload")), ID)), "waiting");
            assert_eq!(keys.prove("x"), None);
            assert_eq!(seen(keys.add_v(key(0b10, length), ID)), "derived with payload");
            let proof = hex::encode(hmac::sign(&k.hmac_key(), b"x"));
            assert_eq!(keys.prove("x"), Some(proof.clone()));

            let mut keys = BootstrapKeys::default();
            assert_eq!(seen(keys.add_v(key(0b10, length), ID)), "waiting");
            assert_eq!(seen(keys.add_u(u(0b01, &k, ID, None), ID)), "derived");
            assert_eq!(keys.prove("x"), Some(proof));
        }
    }

    #[test]
    fn all_pairs_are_tried_and_then_forgotten() {
        let k = key(0b11, 32);
        let mut keys = BootstrapKeys::default();
        keys.add_u(u(0b01, &k, ID, None), ID);
        assert_eq!(seen(keys.add_v(key(0xff, 32), ID)), "no match");
        // Of another length, or for another agent.
        assert_eq!(seen(keys.add_v(key(0b10, 16), ID)), "no match");
        assert_eq!(seen(keys.add_u(u(0b01, &k, "another", None), ID)), "no match");
        assert_eq!(seen(keys.add_v(key(0b10, 32), ID)), "derived");
        assert_eq!(seen(keys.add_v(key(0b10, 32), ID)), "waiting");
        assert!(keys.prove("x").is_some());
    }

    #[test]
    fn the_lists_are_bounded() {
        let k = key(0b11, 32);
        let mut keys = BootstrapKeys::default();
        for _ in 0..100 {
            keys.add_v(key(0xff, 32), ID);
        }
        assert_eq!(keys.v.len(), MAX_HALVES);
        keys.add_v(key(0b10, 32), ID);
        assert_eq!(seen(keys.add_u(u(0b01, &k, ID, None), ID)), "derived");
    }

    #[test]
    fn payloads_are_bounded() {
        let k = key(0b11, 32);
        let mut keys = BootstrapKeys::default();
        for _ in 0..5 {
            keys.add_u(u(0b01, &k, ID, Some(&vec![0; 1 << 20])), ID);
        }
        assert_eq!(keys.u.len(), 4);
        keys.add_u(u(0b01, &k, ID, Some(&vec![0; 5 << 20])), ID);
        assert_eq!(keys.u.len(), 1);
    }

    #[test]
    fn halves_have_16_or_32_bytes() {
        for length in [0, 15, 17, 31, 33] {
            let error = SymmetricKey::try_from(Zeroizing::new(vec![0; length])).err().unwrap();
            assert_eq!(error.to_string(), format!("a key half has 16 or 32 bytes, not {length}"));
        }
    }
}
