// SPDX-License-Identifier: Apache-2.0
//! TPM2_ActivateCredential: the proof that EK and AK are in one TPM.

use crate::ak::Ak;
use crate::command::{ACTIVATE_CREDENTIAL, Authorization, Command};
use crate::connection::Connection;
use crate::ek::Ek;
use crate::error::TpmError;
use std::fmt;
use std::rc::Rc;
use zeroize::Zeroizing;

/// What the registrar made with TPM2_MakeCredential for our EK and AK.
#[derive(Clone, PartialEq, Eq)]
pub struct ParsedCredential {
    /// The content of TPM2B_ID_OBJECT without its size: integrity HMAC (with its size) and encrypted identity.
    pub id_object: Vec<u8>,
    /// The content of TPM2B_ENCRYPTED_SECRET without its size.
    pub encrypted_secret: Vec<u8>,
}

impl fmt::Debug for ParsedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParsedCredential({} + {} bytes)", self.id_object.len(), self.encrypted_secret.len())
    }
}

/// Bound for each part: a TPM2B_ID_OBJECT has at most 132 bytes, an RSA-4096 secret 512.
const MAX_PART: usize = 1024;

/// Recovers the secret.
pub(crate) fn activate(
    connection: &Rc<Connection>,
    ek: &Ek,
    ak: &Ak,
    endorsement_auth: &[u8],
    credential: &ParsedCredential,
) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let length = credential.id_object.len().max(credential.encrypted_secret.len());
    if length > MAX_PART {
        return Err(TpmError::TooLong { what: "the credential", length, limit: MAX_PART });
    }
    ek.authorize(connection, endorsement_auth, |authorization| {
        let mut command = Command::new(ACTIVATE_CREDENTIAL)
            .authorized(ak.handle(), Authorization::Password(&[]))
            .authorized(ek.handle(), authorization);
        command.parameters.sized(&credential.id_object).sized(&credential.encrypted_secret);
        let response = command.send(connection).map_err(|error| match error {
            TpmError::Command { code, .. } if code.is_about_parameter() => TpmError::Credential { code },
            other => other,
        })?;
        response.parameters(|reader| Ok(Zeroizing::new(reader.sized()?.to_vec())))
    })
}
