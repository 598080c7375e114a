// SPDX-License-Identifier: Apache-2.0
//! The part of a start that needs the rights it began with: logs, lock, the folder of payloads; then the change of the
//! user, and the check of everything that is found afterwards.

use std::path::PathBuf;

use crate::config::{Config, RunAs};
use crate::error::{Cause, StartError};
use crate::identity::Choice;
use crate::lock::Lock;
use crate::measurement::ima::Descriptors;
use crate::payload::store::{self, Store};
use crate::privileges::{self, Account, PrivilegeError};
use crate::{access, identity, measurement, preflight, program};

/// What the preparation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A start.
    Run,
    /// Nothing is written.
    Check,
}

/// What a start has before it opens the TPM.
pub(crate) struct Prepared {
    pub(crate) logs: Logs,
    pub(crate) id: Choice,
    /// The files of `trusted_client_ca` that can be used.
    pub(crate) client_cas: Vec<PathBuf>,
    /// Where payloads go.
    pub(crate) store: Store,
    /// Of `keylime_dir`.
    pub(crate) lock: Option<Lock>,
}

/// The measurement logs, so far as there are any.
pub(crate) struct Logs {
    pub(crate) ima: Option<Descriptors>,
    pub(crate) boot: Option<std::fs::File>,
}

/// Opens what needs the rights of the start, gives them up and checks everything else. Logs what is odd.
pub(crate) fn prepare(config: &Config, purpose: Purpose) -> Result<Prepared, StartError> {
    privileges::restrict_umask();
    let logs = Logs {
        ima: Descriptors::open(&config.ima_log),
        boot: measurement::open(
            &config.boot_log,
            "Measured boot measurement list",
            "measured boot policies cannot be checked on this host",
        ),
    };
    let id_found = identity::find_as_root(&config.uuid);
    if config.client_cas.is_none() {
        tracing::warn!("mTLS disabled, Tenant and Verifier will reach out to agent via HTTP");
    }
    let mut problems = Vec::new();
    let (mut lock, mut store) = (None, Store::Missing("it is not looked for".to_owned()));
    match find_account(config) {
        Ok(target) => {
            if purpose == Purpose::Run {
                // Before anything is changed in the folder.
                lock = lock_folder(config, target.as_ref())?;
                let (size, on_disk) = (&config.payload.secure_size, config.insecure_payload);
                let prepared = store::prepare(&config.keylime_dir, size, on_disk, target.as_ref());
                store = prepared.map_err(Cause::from)?;
                if let Store::Missing(reason) = &store {
                    tracing::warn!("Payloads will not be deployed: {reason}");
                }
            }
            if let Some((account, run_as)) = &target {
                privileges::drop_to(account, run_as).map_err(|source| privilege_problem(config, source))?;
                program::changed_to(account.user_id());
                tracing::info!("Running the service as {run_as}...");
            }
        }
        Err(source) => problems.push(privilege_problem(config, source)),
    }
    let id = identity::find(&config.uuid, id_found);
    let found = preflight::check(config);
    for warning in found.warnings {
        tracing::warn!("{warning}");
    }
    let has_right_user = problems.is_empty();
    problems.extend(found.problems.into_iter().map(|problem| match problem {
        // Only with the rights of the user whose file it is.
        Cause::AgentData(error) if purpose == Purpose::Run && has_right_user => error.with_copy().into(),
        other => other,
    }));
    let id = id.unwrap_or_else(|source| {
        problems.push(Cause::Identity { option: config.origins.option("uuid"), source });
        // The start ends here.
        Choice::HashEk
    });
    StartError::unless_empty(problems)?;
    Ok(Prepared { logs, id, client_cas: found.client_cas, store, lock })
}

fn privilege_problem(config: &Config, source: PrivilegeError) -> Cause {
    Cause::Privileges { option: config.origins.option("run_as"), source }
}

/// The account to change to, if there is one and this process can.
fn find_account(config: &Config) -> Result<Option<(Account, RunAs)>, PrivilegeError> {
    match (&config.run_as, privileges::is_root()) {
        (Some(run_as), true) => {
            let account = Account::find(run_as)?;
            if account.is_root() {
                let option = config.origins.option("run_as");
                tracing::warn!("{option} names root: everything here runs as root");
            }
            return Ok(Some((account, run_as.clone())));
        }
        (None, true) => tracing::warn!("Cannot drop privileges since 'run_as' is empty: everything here runs as root"),
        // Whoever starts it as that user need not hear of it.
        (Some(run_as), false) if Account::find(run_as).is_ok_and(|account| account.is_this_process()) => {}
        (Some(_), false) => {
            let user = access::user();
            tracing::warn!(
                "Ignoring 'run_as' option because Keylime agent has not been started as root. It runs as {user}"
            );
        }
        (None, false) => {}
    }
    Ok(None)
}

fn lock_folder(config: &Config, target: Option<&(Account, RunAs)>) -> Result<Option<Lock>, Cause> {
    let folder = &config.keylime_dir;
    let what = format!("the folder {}", folder.display());
    let take = || Lock::take(&folder.join("keylime_agent.lock"), &what, "keylime_dir");
    Ok(match target {
        Some((account, run_as)) => {
            privileges::with_rights_of(account, run_as, take).map_err(|source| privilege_problem(config, source))??
        }
        None => take()?,
    })
}
