// SPDX-License-Identifier: Apache-2.0
//! Which AK the agent uses: the stored one; else, of those that were kept, one that fits; else a new one.

use std::path::{Path, PathBuf};

use tpm::{AkInfo, SavedAk, Tpm, TpmError};

use crate::agent_data::{self, Fit, Stored};
use crate::error::Cause;

/// The stored AK if it belongs to this TPM and these settings, else one that was kept when another took its place, else a
/// new one. What is used is stored in `path`, and a file that does not fit is kept. `hash_is_id`: the agent id follows from
/// the EK.
pub(crate) async fn load(
    tpm: &Tpm,
    path: &Path,
    fit: &Fit<'_>,
    stored: Option<&Stored>,
    hash_is_id: bool,
) -> Result<AkInfo, Cause> {
    let shown = path.display();
    let Some(stored) = stored else {
        tracing::info!("Agent Data not found in: {shown}");
        let found = from_backup(tpm, path, fit).await?;
        match &found {
            Some((_, backup)) => {
                tracing::warn!("There is no {shown}: taking the AK from {}, which fits", backup.display())
            }
            None => tracing::warn!(
                "No AK in {shown}: a new one is made. If this host is enrolled already, end the agent and restore the file"
            ),
        }
        return found_or_new(tpm, path, fit, found).await;
    };
    if stored.fits(fit) {
        let loaded = tpm.load_or_create_ak(Some(stored.ak())).await;
        let ak = loaded.map_err(|error| match error {
            // The file is for this very EK, so it is damaged or the TPM was cleared. Nobody shall find the host under a new
            // identity by surprise.
            TpmError::AkRejected(reason) => {
                tracing::error!("Loading old AK key from {shown} failed: {reason}");
                agent_data::damaged(path, reason).with_copy().into()
            }
            error => Cause::from(error),
        })?;
        tracing::info!("Loaded old AK key from {shown}");
        agent_data::store(path, &ak.saved, fit)?;
        return Ok(ak);
    }
    if let Some(ak) = stored.of_another_ek(fit) {
        check_not_taken(tpm, path, ak, fit.ek_hash).await?;
    }
    let found = from_backup(tpm, path, fit).await?;
    // Whoever puts the options or the TPM back needs it.
    let kept = agent_data::keep(path)?;
    let kept = kept.display();
    match stored.other_ek(fit.ek_hash) {
        None => tracing::warn!(
            "Not using old {shown} because it is not valid with current configuration: it is kept as {kept}"
        ),
        Some(other) => {
            let outcome = match (&found, hash_is_id) {
                (Some(_), _) => "",
                (None, true) => ", so the agent id changes and the host must be enrolled anew",
                (None, false) => {
                    ", so the registrar refuses this host under its agent id until the record so far is deleted"
                }
            };
            tracing::warn!(
                "Not using old {shown}: it was made for the EK {other}, and the EK is {} now (another TPM, or another \
                 'ek_handle' or 'tpm_encryption_alg'){outcome}: it is kept as {kept}",
                fit.ek_hash
            );
        }
    }
    if let Some((_, backup)) = &found {
        tracing::warn!("Taking the AK from {} instead, which fits", backup.display());
    }
    found_or_new(tpm, path, fit, found).await
}

async fn found_or_new(
    tpm: &Tpm,
    path: &Path,
    fit: &Fit<'_>,
    found: Option<(AkInfo, PathBuf)>,
) -> Result<AkInfo, Cause> {
    let ak = match found {
        Some((ak, _)) => ak,
        None => tpm.load_or_create_ak(None).await?,
    };
    agent_data::store(path, &ak.saved, fit)?;
    Ok(ak)
}

/// The newest of the kept AKs that fits and that the TPM takes. One that is damaged, or from before the TPM was cleared,
/// is passed over.
async fn from_backup(tpm: &Tpm, path: &Path, fit: &Fit<'_>) -> Result<Option<(AkInfo, PathBuf)>, Cause> {
    for backup in agent_data::backups(path) {
        let Ok(Some(kept)) = agent_data::load(&backup) else { continue };
        if !kept.fits(fit) {
            continue;
        }
        match tpm.load_or_create_ak(Some(kept.ak())).await {
            Ok(ak) => return Ok(Some((ak, backup))),
            Err(TpmError::AkRejected(reason)) => {
                tracing::warn!("The TPM does not take the AK in {}: {reason}", backup.display());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// An AK that the TPM takes under this EK was made for it, whatever the file says: then the file is damaged.
async fn check_not_taken(tpm: &Tpm, path: &Path, ak: SavedAk, ek_hash: &str) -> Result<(), Cause> {
    match tpm.load_or_create_ak(Some(ak)).await {
        Ok(_) => {
            let reason = format!("its ek_hash names another EK, but the AK was made for this one ({ek_hash})");
            Err(agent_data::damaged(path, reason).with_copy().into())
        }
        Err(TpmError::AkRejected(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
