// SPDX-License-Identifier: Apache-2.0
//! Random numbers of the operating system, for nonces and attempts.

use ring::rand::{SecureRandom, SystemRandom};

/// The operating system gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no random numbers could be had from the operating system")]
pub struct NoRandom;

/// `N` random bytes.
///
/// # Errors
/// [`NoRandom`].
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike() {
        let [a, b] = [(); 2].map(|()| bytes::<20>().unwrap());
        assert_ne!(a, b);
    }
}
