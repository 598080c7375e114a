// SPDX-License-Identifier: Apache-2.0
//! What the request handlers share: the identity, the TPM, the payload key and the logs.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keylime_api::AgentId;
use keylime_api::version::ApiVersion;
use tokio::sync::{Semaphore, mpsc};
use tpm::Tpm;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};

use crate::bootstrap_key::BootstrapKeys;
use crate::measurement::ima::ImaList;
use crate::payload::Delivery;
use crate::payload_key::PayloadKey;
use crate::revocation::Inbox;
use crate::turns::Turns;

/// Large request bodies read at the same time; each may take some megabytes.
const BODIES: usize = 8;

/// The state of a running agent.
pub(crate) struct Agent {
    /// The id it is registered under.
    pub(crate) id: AgentId,
    /// Enabled API versions, ascending, never empty.
    pub(crate) api_versions: Vec<ApiVersion>,
    pub(crate) hash: HashAlgorithm,
    pub(crate) key: KeyAlgorithm,
    pub(crate) signing: SignatureScheme,
    /// The AK's handle in the TPM, as told to those who ask; another one if the TPM had to be reopened.
    pub(crate) ak_handle: u32,
    pub(crate) tpm: Tpm,
    /// Whose quote the TPM makes next.
    pub(crate) turns: Turns,
    pub(crate) payload_key: PayloadKey,
    /// Digest of the payload key's public PEM text in the PCR bank, which goes into PCR 16.
    pub(crate) node_key_digest: Vec<u8>,
    pub(crate) ima_list: Option<ImaList>,
    pub(crate) boot_log: Option<File>,
    /// Start of the kernel, seconds since 1970. Read once, for it moves with each correction of the clock.
    pub(crate) boottime: Option<u64>,
    /// mTLS is off and `enable_insecure_payload` not set.
    pub(crate) payloads_forbidden: bool,
    /// To what deploys payloads.
    pub(crate) payloads: mpsc::Sender<Delivery>,
    /// To what acts upon revocation messages.
    pub(crate) revocations: Inbox,
    pub(crate) bootstrap_keys: Mutex<BootstrapKeys>,
    pub(crate) bodies: Semaphore,
}

impl Agent {
    /// A limit on large request bodies held at the same time.
    pub(crate) fn body_limit() -> Semaphore {
        Semaphore::new(BODIES)
    }

    /// The halves of the bootstrap key. Never held over an await.
    pub(crate) fn bootstrap_keys(&self) -> MutexGuard<'_, BootstrapKeys> {
        self.bootstrap_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
