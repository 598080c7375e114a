// SPDX-License-Identifier: Apache-2.0
//! What the TPM thread has to know.

use crate::ak::SavedAk;
use crate::ek::EkSource;
use std::fmt;
use std::num::NonZeroUsize;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};
use zeroize::Zeroizing;

/// Settings of [`crate::Tpm::open`]. The default is Keylime's: sha256, rsa2048, rsassa, EK by template.
#[derive(Clone)]
pub struct TpmSettings {
    /// libtss2's TCTI text. Absent or empty: the kernel's resource manager if there is one, else the bare device. The
    /// environment is not looked at: that is for whoever reads the program's configuration.
    pub tcti: Option<String>,
    /// PCR bank, hash of the AK's signature scheme and its nameAlg.
    pub hash: HashAlgorithm,
    /// Type and size of the AK and, by template, of the EK.
    pub key_alg: KeyAlgorithm,
    /// Signature scheme of the AK.
    pub scheme: SignatureScheme,
    /// Authorization value of the endorsement hierarchy (Keylime's `tpm_ownerpassword`); empty if it has none. Tried for the
    /// owner hierarchy, too, where a certificate cannot be read without that.
    pub endorsement_auth: Zeroizing<Vec<u8>>,
    /// Where the EK comes from.
    pub ek: EkSource,
    /// The AK of earlier runs, if there is one: copies of it that a killed process left in the TPM are flushed
    /// before anything else needs the room.
    pub leftover_ak: Option<SavedAk>,
    /// Requests that may wait for the TPM; one more is refused.
    pub queue: NonZeroUsize,
}

impl Default for TpmSettings {
    fn default() -> Self {
        // Half a second of quotes: a burst of attestations waits, and a verifier's quote behind it is still in time.
        const QUEUE: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");
        TpmSettings {
            tcti: None,
            hash: HashAlgorithm::Sha256,
            key_alg: KeyAlgorithm::Rsa2048,
            scheme: SignatureScheme::RsaSsa,
            endorsement_auth: Zeroizing::default(),
            ek: EkSource::Template,
            leftover_ak: None,
            queue: QUEUE,
        }
    }
}

impl fmt::Debug for TpmSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TpmSettings")
            .field("tcti", &self.tcti)
            .field("hash", &self.hash)
            .field("key_alg", &self.key_alg)
            .field("scheme", &self.scheme)
            .field("endorsement_auth", &"(secret)")
            .field("ek", &self.ek)
            .field("leftover_ak", &self.leftover_ak)
            .field("queue", &self.queue)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_authorization_value() {
        let settings = TpmSettings { endorsement_auth: Zeroizing::new(b"hunter2".to_vec()), ..TpmSettings::default() };
        let text = format!("{settings:?}");
        assert!(text.contains("endorsement_auth: \"(secret)\""), "{text}");
        assert!(!text.contains("104, 117"), "{text}");
    }
}
