// SPDX-License-Identifier: Apache-2.0
//! What the verifier and the registrar have to say before a host is let in.

use std::time::Duration;

use keylime_api::AgentId;
use keylime_api::registrar::RegistrarAgent;
use keylime_api::verdict::Verdict;
use keylime_api::verifier::VerifierAgent;
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

/// Holds the verifier's record of a host to "verified, recently, and still".
///
/// Proves: this verifier accepted a quote of the host at most `maximum_age` before it answered,
/// by its own clock. Does not prove which policy that quote was held to.
///
/// # Errors
/// [`Refusal::NotVouchedFor`];
/// [`Refusal::HashAlgorithm`] where the node claims another bank than its own quotes use.
pub fn check_verifier(
    record: &VerifierAgent,
    maximum_age: Option<Duration>,
    bank: HashAlgorithm,
) -> Result<(), Refusal> {
    match record.verdict(maximum_age) {
        Verdict::Verified => {}
        verdict => return Err(Refusal::NotVouchedFor(verdict)),
    }
    if record.hash_alg.is_some_and(|seen| seen != bank) {
        return Err(Refusal::HashAlgorithm);
    }
    Ok(())
}

/// Takes the AK out of the registrar's record, and holds an id of the `hash_ek` kind to the EK.
///
/// Proves: the AK is a restricted signing key that never leaves a TPM, and the registrar saw that
/// TPM activate a credential for the EK on record. An id of 64 hex digits is the hash of that EK,
/// so nobody can register another TPM under it, even after its record was deleted.
///
/// # Errors
/// [`Refusal::Registration`] with what is wrong in the record.
pub fn registered_ak(id: &AgentId, record: &RegistrarAgent) -> Result<AkPublic, Refusal> {
    let unusable = |what: &'static str, error: &dyn std::fmt::Display| Refusal::Registration {
        detail: format!("{what}: {error}"),
    };
    if id.is_ek_hash() {
        let ek = record.ek_tpm.as_deref().ok_or_else(|| Refusal::Registration {
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
    let ak = Public::decode_2b(&record.aik_tpm).map_err(|error| unusable("the registrar's AK", &error))?;
    AkPublic::try_from(ak).map_err(|error| unusable("the registrar's AK", &error))
}
