// SPDX-License-Identifier: Apache-2.0
//! What the verifier and the registrar have to say before a host is let in.

use keylime_api::AgentId;
use keylime_api::pool::Vouched;
use keylime_api::verdict::Verdict;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::public::{AkPublic, Public};

use crate::error::Refusal;

/// The PCR banks, and so the AK's hash algorithms, that a quote may use. SHA-1 and SM3 are not
/// among them: the first no longer resists collisions, Keylime cannot verify the second.
pub const ALLOWED_BANKS: [HashAlgorithm; 3] = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];

/// Parses the hash algorithm that the node claims.
///
/// The node may choose among [`ALLOWED_BANKS`]; the quote is then held to the choice, and
/// [`check_verifier`] holds the choice to what the verifier saw in the host's own quotes.
///
/// # Errors
/// [`Refusal::HashAlgorithm`] for anything else.
pub fn allowed_bank(name: &str) -> Result<HashAlgorithm, Refusal> {
    name.parse::<HashAlgorithm>().ok().filter(|bank| ALLOWED_BANKS.contains(bank)).ok_or(Refusal::HashAlgorithm)
}

/// Holds the verifier's answer about a host to "verified, recently, and still".
///
/// Proves: this verifier accepted a quote of the host at most as long before it answered as the
/// configuration allows, by its own clock. Does not prove which policy that quote was held to.
///
/// # Errors
/// [`Refusal::NotVouchedFor`];
/// [`Refusal::HashAlgorithm`] where the node claims another bank than its own quotes use.
pub fn check_verifier(answer: &Vouched, bank: HashAlgorithm) -> Result<(), Refusal> {
    match &answer.verdict {
        Verdict::Verified => {}
        verdict => return Err(Refusal::NotVouchedFor(verdict.clone())),
    }
    if answer.record.hash_alg.is_some_and(|seen| seen != bank) {
        return Err(Refusal::HashAlgorithm);
    }
    Ok(())
}

/// Takes the AK out of the registrar's record (`aik_tpm` and `ek_tpm`, each a TPM2B_PUBLIC), and holds an id of the
/// `hash_ek` kind to the EK.
///
/// Proves: the AK claims to be a restricted signing key that never leaves its TPM, and whoever holds the private part
/// of the EK on record vouched for that claim when it activated the credential. That this EK is a TPM's was checked by
/// whoever enrolled the host, by its certificate. An id of 64 hex digits is the hash of that EK,
/// so nobody can register another TPM under it, even after its record was deleted.
///
/// # Errors
/// [`Refusal::Registration`] with what is wrong in the record.
pub fn registered_ak(id: &AgentId, ak: &[u8], ek: Option<&[u8]>) -> Result<AkPublic, Refusal> {
    let unusable = |what: &'static str, error: &dyn std::fmt::Display| Refusal::Registration {
        detail: format!("{what}: {error}"),
    };
    if id.is_ek_hash() {
        let ek = ek.ok_or_else(|| Refusal::Registration {
            detail: "the registrar holds no EK, so the id cannot be compared with it".to_owned(),
        })?;
        let ek = Public::decode_2b(ek).map_err(|error| unusable("the registrar's EK", &error))?;
        let pem = ek.to_spki_pem();
        if tpm_wire::public::ek_hash(&pem) != id.as_str() {
            return Err(Refusal::Registration {
                detail: "the registrar's EK is not the one that the agent id is the hash of".to_owned(),
            });
        }
    }
    let ak = Public::decode_2b(ak).map_err(|error| unusable("the registrar's AK", &error))?;
    AkPublic::try_from(ak).map_err(|error| unusable("the registrar's AK", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TPM2B_PUBLIC of an RSA-2048 AK: RSASSA with SHA-256, the given attributes.
    fn ak(attributes: u32) -> Vec<u8> {
        let mut public = vec![0x00, 0x01, 0x00, 0x0b];
        public.extend(attributes.to_be_bytes());
        public.extend([0, 0, 0, 0x10, 0, 0x14, 0, 0x0b, 8, 0, 0, 0, 0, 0, 1, 0]);
        public.extend([0xc1; 256]);
        [&[0x01, 0x18][..], &public].concat()
    }

    fn refused(id: &str, ak: &[u8], ek: Option<&[u8]>) -> String {
        registered_ak(&id.parse().unwrap(), ak, ek).unwrap_err().to_string()
    }

    const UUID: &str = "7f3a2b1c-0000-4000-8000-0123456789ab";

    #[test]
    fn only_allowed_banks_pass() {
        for (name, allowed) in
            [("sha256", true), ("sha384", true), ("sha512", true), ("sha1", false), ("sm3_256", false), ("", false)]
        {
            assert_eq!(allowed_bank(name).is_ok(), allowed, "{name}");
        }
    }

    #[test]
    fn an_ak_must_be_a_restricted_signing_key_of_a_tpm() {
        assert!(registered_ak(&UUID.parse().unwrap(), &ak(0x0005_0072), None).is_ok());
        let wrong = "the registrar's record of this Keylime agent is not usable: the registrar's AK: ";
        for (attributes, reason) in [
            (0x0004_0072, "the key is no attestation key: attribute restricted is not set"),
            (0x0005_0070, "the key is no attestation key: attribute fixedTPM is not set"),
            (0x0007_0072, "the key is no attestation key: attribute decrypt is set"),
        ] {
            assert_eq!(refused(UUID, &ak(attributes), None), format!("{wrong}{reason}"));
        }
        assert!(refused(UUID, &[1, 2, 3], None).starts_with(wrong));
        let mut weak_name = ak(0x0005_0072);
        weak_name[5] = 0x04;
        assert_eq!(
            refused(UUID, &weak_name, None),
            format!("{wrong}the attestation key's Name is a sha1 digest; only sha256, sha384 and sha512 are accepted")
        );
    }

    #[test]
    fn an_id_that_is_an_ek_hash_belongs_to_that_ek() {
        // Any public key has a hash; here the AK's stands in for an EK's.
        let ek = ak(0x0005_0072);
        let pem = Public::decode_2b(&ek).unwrap().to_spki_pem();
        let id = tpm_wire::public::ek_hash(&pem);
        assert!(registered_ak(&id.parse().unwrap(), &ek, Some(&ek)).is_ok());
        let wrong = "the registrar's record of this Keylime agent is not usable: ";
        assert_eq!(
            refused(&"0".repeat(64), &ek, Some(&ek)),
            format!("{wrong}the registrar's EK is not the one that the agent id is the hash of")
        );
        assert_eq!(
            refused(&id, &ek, None),
            format!("{wrong}the registrar holds no EK, so the id cannot be compared with it")
        );
    }
}
