// SPDX-License-Identifier: Apache-2.0
//! The attestation key: a child of the EK, kept outside the TPM as an encrypted blob and loaded at start.

use crate::capability::{self, TRANSIENT_FIRST};
use crate::command::{CREATE, Command, LOAD};
use crate::connection::Connection;
use crate::ek::{Ek, create_parameters};
use crate::error::TpmError;
use crate::object::{self, Loaded, read_public, with_size};
use crate::response_code::ResponseCode;
use crate::settings::TpmSettings;
use crate::template;
use std::fmt;
use std::rc::Rc;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};

/// Bound for each part of a saved AK; both parts of an RSA-4096 key stay below.
const MAX_SAVED: usize = 1600;

/// What has to be kept to load the AK again; only the TPM that made it can read it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SavedAk {
    /// TPMT_PUBLIC, without size prefix: `ak_public` of Keylime's `agent_data.json`.
    pub public: Vec<u8>,
    /// The buffer of TPM2B_PRIVATE, without size: `ak_private`.
    pub private: Vec<u8>,
}

impl SavedAk {
    /// Whether the AK is of the kind that these settings ask for.
    #[must_use]
    pub fn fits(&self, hash: HashAlgorithm, key: KeyAlgorithm, scheme: SignatureScheme) -> bool {
        template::ak_start(hash, key, scheme).is_ok_and(|start| self.public.starts_with(start.as_slice()))
    }
}

impl fmt::Debug for SavedAk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedAk({} + {} bytes)", self.public.len(), self.private.len())
    }
}

/// The loaded AK.
#[derive(Debug)]
#[non_exhaustive]
pub struct AkInfo {
    /// TPM2B_PUBLIC with the 2-byte size prefix: Keylime's `aik_tpm`.
    pub public_2b: Vec<u8>,
    /// What to save.
    pub saved: SavedAk,
    /// The transient handle; another one after the TPM was reopened.
    pub handle: u32,
}

/// Why a saved AK is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AkRejected {
    /// It was made for another hash, signing scheme, key type or key size.
    #[error("it was made for another hash, signing scheme, key type or key size")]
    OtherSettings,
    /// What was saved is longer than an AK can be.
    #[error("the saved data is longer than an AK can be")]
    TooLong,
    /// The TPM does not accept it under this EK: another TPM, a cleared endorsement hierarchy or damaged data.
    #[error("this TPM does not accept it, it was made by another TPM or is damaged: {0}")]
    Refused(ResponseCode),
}

/// The AK in the TPM.
pub(crate) struct Ak {
    loaded: Loaded,
    public_2b: Vec<u8>,
    /// What the TPM names as signer in quotes by this key.
    pub(crate) qualified_name: Vec<u8>,
    pub(crate) saved: SavedAk,
}

impl Ak {
    pub(crate) fn handle(&self) -> u32 {
        self.loaded.handle()
    }

    /// Flushes the AK.
    pub(crate) fn release(self) {
        self.loaded.release(&self.public_2b);
    }

    pub(crate) fn describe(&self) -> AkInfo {
        AkInfo { public_2b: self.public_2b.clone(), saved: self.saved.clone(), handle: self.handle() }
    }
}

/// Loads the saved AK if it fits the settings and the TPM takes it; `Ok(Err(_))` says why not.
///
/// Only what proves that the blob is of no use leads there; a TPM without room or a broken connection is another error.
pub(crate) fn load_saved(
    connection: &Rc<Connection>,
    ek: &Ek,
    settings: &TpmSettings,
    saved: &SavedAk,
) -> Result<Result<Ak, AkRejected>, TpmError> {
    if saved.public.len() > MAX_SAVED || saved.private.len() > MAX_SAVED {
        return Ok(Err(AkRejected::TooLong));
    }
    if !saved.fits(settings.hash, settings.key_alg, settings.scheme) {
        return Ok(Err(AkRejected::OtherSettings));
    }
    match load(connection, ek, settings, saved) {
        Ok(ak) => Ok(Ok(ak)),
        Err(TpmError::Command { command, code }) if command == LOAD.0 && code.is_about_parameter() => {
            Ok(Err(AkRejected::Refused(code)))
        }
        Err(error) => Err(error),
    }
}

/// Makes a new AK under the EK and loads it.
pub(crate) fn create(connection: &Rc<Connection>, ek: &Ek, settings: &TpmSettings) -> Result<Ak, TpmError> {
    let (hash, key, scheme) = (settings.hash, settings.key_alg, settings.scheme);
    let template = template::ak(hash, key, scheme)?;
    let saved = ek.authorize(connection, &settings.endorsement_auth, |authorization| {
        let mut command = Command::new(CREATE).authorized(ek.handle(), authorization);
        create_parameters(&mut command.parameters, &template);
        let response = command.send(connection).map_err(|error| match error {
            // As with the EK.
            TpmError::Command { code, .. } if code.is_about_parameter() => {
                TpmError::AkUnsupported { key, scheme, hash, code }
            }
            other => other,
        })?;
        response.parameters(|reader| {
            let private = reader.sized()?.to_vec();
            Ok(SavedAk { public: reader.sized()?.to_vec(), private })
        })
    })?;
    load(connection, ek, settings, &saved)
}

fn load(connection: &Rc<Connection>, ek: &Ek, settings: &TpmSettings, saved: &SavedAk) -> Result<Ak, TpmError> {
    let handle = ek.authorize(connection, &settings.endorsement_auth, |authorization| {
        let mut command = Command::new(LOAD).authorized(ek.handle(), authorization);
        command.parameters.sized(&saved.private).sized(&saved.public);
        command.send(connection)?.read(true, |handle, _| Ok(handle))
    })?;
    let loaded = Loaded::new(connection, handle);
    let found = read_public(connection, handle)?;
    Ok(Ak { loaded, public_2b: found.public_2b, qualified_name: found.qualified_name, saved: saved.clone() })
}

/// Flushes copies of this AK that a killed process left behind in a TPM without resource manager.
///
/// Nobody else uses the key, so a loaded object with the same public area, thus the same Name, is ours.
pub(crate) fn flush_leftovers(connection: &Connection, saved: &SavedAk) -> Result<(), TpmError> {
    let public_2b = with_size(&saved.public);
    for handle in capability::handles(connection, TRANSIENT_FIRST, TRANSIENT_FIRST + 0xFFFF)? {
        // Another program may flush its object between the listing and this command.
        let Ok(found) = read_public(connection, handle) else { continue };
        if found.public_2b == public_2b {
            tracing::info!(
                handle = format_args!("{handle:#010x}"),
                "flushing an AK of ours that an earlier agent left in the TPM"
            );
            object::flush(connection, handle)?;
        }
    }
    Ok(())
}
