// SPDX-License-Identifier: Apache-2.0
//! The authorization policies of EKs (TCG EK Credential Profile for TPM Family 2.0, version 2.5, "EK Policies").
//!
//! PolicyA is TPM2_PolicySecret with the endorsement hierarchy; PolicyB is "PolicyA or PolicyC", PolicyC being a
//! TPM2_PolicyAuthorizeNV that only an owner can fulfil. We always go the way of PolicyA.

use crate::command::{Authorization, Command, POLICY_OR, POLICY_SECRET, START_AUTH_SESSION};
use crate::connection::Connection;
use crate::error::TpmError;
use crate::object::Loaded;
use std::rc::Rc;
use tpm_wire::hash::HashAlgorithm;

const TPM_RH_NULL: u32 = 0x4000_0007;
pub(crate) const TPM_RH_ENDORSEMENT: u32 = 0x4000_000B;
const TPM_SE_POLICY: u8 = 1;
pub(crate) const TPM_ALG_NULL: u16 = 0x0010;
/// The TPM demands at least 16 bytes. Nothing is keyed with the session, so their value proves nothing and
/// protects nothing.
const NONCE_CALLER: [u8; 16] = [0; 16];

/// The policy digests for one hash.
pub(crate) struct PolicyDigests {
    pub(crate) a: &'static [u8],
    pub(crate) b: &'static [u8],
    c: &'static [u8],
}

const SHA256: PolicyDigests = PolicyDigests {
    a: &hex::<32>("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"),
    b: &hex::<32>("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"),
    c: &hex::<32>("3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde"),
};
const SHA384: PolicyDigests = PolicyDigests {
    a: &hex::<48>("8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"),
    b: &hex::<48>("b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"),
    c: &hex::<48>("d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"),
};
const SHA512: PolicyDigests = PolicyDigests {
    a: &hex::<64>(
        "1e3b76502c8a1425aa0b7b3fc646a1b0fae063b03b5368f9c4cddecaff0891dd682bac1a85d4d832b781ea451915de5fc5bf0dc4a1917cd42fa041e3f998e0ee",
    ),
    b: &hex::<64>(
        "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a429c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea",
    ),
    c: &hex::<64>(
        "589ee1e146544716e8deafe6db247b01b81e9f9c7dd16b814aa159138749105fba5388dd1dea702f35240c184933121e2c61b8f50d3ef91393a49a38c3f73fc8",
    ),
};

/// The digests for EKs with this nameAlg, if the profile has any.
pub(crate) fn digests(name_alg: HashAlgorithm) -> Option<&'static PolicyDigests> {
    match name_alg {
        HashAlgorithm::Sha256 => Some(&SHA256),
        HashAlgorithm::Sha384 => Some(&SHA384),
        HashAlgorithm::Sha512 => Some(&SHA512),
        HashAlgorithm::Sha1 | HashAlgorithm::Sm3_256 => None,
    }
}

/// How commands that use an EK are authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EkAccess {
    /// A policy session that has run PolicyA.
    PolicyA,
    /// A policy session that has run PolicyA and the TPM2_PolicyOR of PolicyB.
    PolicyB,
    /// The empty authorization value (a persistent EK without policy).
    EmptyAuth,
}

impl EkAccess {
    /// Finds the way for an EK with this nameAlg and authPolicy.
    pub(crate) fn of(name_alg: HashAlgorithm, auth_policy: &[u8], user_with_auth: bool) -> Option<Self> {
        match digests(name_alg) {
            Some(known) if auth_policy == known.a => Some(EkAccess::PolicyA),
            Some(known) if auth_policy == known.b => Some(EkAccess::PolicyB),
            _ => user_with_auth.then_some(EkAccess::EmptyAuth),
        }
    }
}

/// Runs `use_key` with an authorization for one use of the EK; the session is flushed afterwards in any case.
pub(crate) fn authorize<T>(
    connection: &Rc<Connection>,
    access: EkAccess,
    name_alg: HashAlgorithm,
    endorsement_auth: &[u8],
    use_key: impl FnOnce(Authorization<'_>) -> Result<T, TpmError>,
) -> Result<T, TpmError> {
    if access == EkAccess::EmptyAuth {
        return use_key(Authorization::Password(&[]));
    }
    let session = start_session(connection, name_alg)?;
    policy_secret(connection, session.handle(), endorsement_auth)?;
    if access == EkAccess::PolicyB
        && let Some(known) = digests(name_alg)
    {
        let mut command = Command::new(POLICY_OR).handle(session.handle());
        command.parameters.u32(2).sized(known.a).sized(known.c);
        command.send(connection)?;
    }
    use_key(Authorization::Policy(session.handle()))
}

/// An unbound, unsalted policy session.
fn start_session(connection: &Rc<Connection>, hash: HashAlgorithm) -> Result<Loaded, TpmError> {
    let mut command = Command::new(START_AUTH_SESSION).handle(TPM_RH_NULL).handle(TPM_RH_NULL);
    command.parameters.sized(&NONCE_CALLER).sized(&[]).u8(TPM_SE_POLICY).u16(TPM_ALG_NULL).u16(hash.tpm_id());
    let handle = command.send(connection)?.read(true, |handle, _| Ok(handle))?;
    Ok(Loaded::new(connection, handle))
}

/// TPM2_PolicySecret with the endorsement hierarchy.
fn policy_secret(connection: &Connection, session: u32, endorsement_auth: &[u8]) -> Result<(), TpmError> {
    let mut command = Command::new(POLICY_SECRET)
        .authorized(TPM_RH_ENDORSEMENT, Authorization::Password(endorsement_auth))
        .handle(session);
    // nonceTPM, cpHashA, policyRef: none; expiration: never.
    command.parameters.sized(&[]).sized(&[]).sized(&[]).u32(0);
    command.send(connection).map(drop).map_err(explain_endorsement)
}

/// Names the option behind a refused endorsement authorization.
pub(crate) fn explain_endorsement(error: TpmError) -> TpmError {
    match error {
        TpmError::Command { code, .. } if code.is_bad_auth() => TpmError::EndorsementAuth { code },
        other => other,
    }
}

/// Decodes lower-case hex while compiling, so that the digests above read as in the specification.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler: an index out of bounds ends the build")]
pub(crate) const fn hex<const N: usize>(text: &str) -> [u8; N] {
    const fn digit(c: u8) -> u8 {
        match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => panic!("not a lower-case hex digit"),
        }
    }
    let text = text.as_bytes();
    assert!(text.len() == 2 * N, "wrong number of digits");
    let mut out = [0; N];
    let mut i = 0;
    while i < N {
        out[i] = digit(text[2 * i]) << 4 | digit(text[2 * i + 1]);
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TPM_CC_POLICY_SECRET: u32 = 0x151;
    const TPM_CC_POLICY_OR: u32 = 0x171;

    fn all() -> [(HashAlgorithm, &'static PolicyDigests); 3] {
        [(HashAlgorithm::Sha256, &SHA256), (HashAlgorithm::Sha384, &SHA384), (HashAlgorithm::Sha512, &SHA512)]
    }

    /// TPM 2.0 Library Part 3, "TPM2_PolicySecret": the digest is extended with the command code and the entity's
    /// Name, then with the (empty) policyRef.
    #[test]
    fn policy_a_is_policy_secret_of_the_endorsement_hierarchy() {
        for (hash, known) in all() {
            let start = vec![0; hash.digest_len()];
            let extended =
                [&start[..], &TPM_CC_POLICY_SECRET.to_be_bytes(), &TPM_RH_ENDORSEMENT.to_be_bytes()].concat();
            let first = hash.digest(&extended).unwrap();
            assert_eq!(hash.digest(&first).unwrap(), known.a, "{hash}");
        }
    }

    #[test]
    fn policy_b_is_policy_a_or_policy_c() {
        for (hash, known) in all() {
            let start = vec![0; hash.digest_len()];
            let all = [&start[..], &TPM_CC_POLICY_OR.to_be_bytes(), known.a, known.c].concat();
            assert_eq!(hash.digest(&all).unwrap(), known.b, "{hash}");
        }
    }

    #[test]
    fn access_follows_from_the_policy() {
        let hash = HashAlgorithm::Sha256;
        assert_eq!(EkAccess::of(hash, SHA256.a, false), Some(EkAccess::PolicyA));
        assert_eq!(EkAccess::of(hash, SHA256.b, true), Some(EkAccess::PolicyB));
        assert_eq!(EkAccess::of(hash, &[], true), Some(EkAccess::EmptyAuth));
        assert_eq!(EkAccess::of(hash, SHA384.a, false), None);
        assert_eq!(EkAccess::of(HashAlgorithm::Sm3_256, &[1], false), None);
    }
}
