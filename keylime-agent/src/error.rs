// SPDX-License-Identifier: Apache-2.0
//! Why the agent does not run.

use std::io;
use std::path::PathBuf;

use crate::agent_data::AgentDataError;
use crate::payload_key::PayloadKeyError;
use crate::privileges::PrivilegeError;
use crate::registration::RegistrationError;
use crate::server::{TcpError, UnixError};
use crate::server_certificate::ServerCertificateError;

/// Why the agent did not start. The text is for the operator and names files, options and remedies.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StartError(#[from] Cause);

impl StartError {
    /// Whether only a change of the configuration helps.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        use PrivilegeError::{NoGroup, NoUser};
        matches!(self.0, Cause::Privileges(NoUser(_) | NoGroup(_)) | Cause::AllowedUsers(NoUser(_) | NoGroup(_)))
    }
}

/// The kinds of failures, by where they come from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("option 'run_as': {0}")]
    Privileges(#[from] PrivilegeError),
    #[error("option 'unix_socket_allowed_users': {0}")]
    AllowedUsers(#[source] PrivilegeError),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Listen(#[from] TcpError),
    #[error(transparent)]
    UnixSocket(#[from] UnixError),
    #[error(transparent)]
    Tpm(#[from] tpm::TpmError),
    #[error("the thread that works with the TPM has ended after an error in this program: start it again")]
    TpmThread,
    #[error(transparent)]
    AgentData(#[from] AgentDataError),
    #[error("the agent id cannot be used: {0}")]
    AgentId(#[from] keylime_api::InvalidAgentId),
    #[error("Failed to load or generate payload key from {}: {source}", path.display())]
    PayloadKey { path: PathBuf, source: PayloadKeyError },
    #[error(transparent)]
    ServerCertificate(#[from] ServerCertificateError),
    #[error("Trusted client CA certificate list is empty: could not load any certificate (option 'trusted_client_ca')")]
    NoClientCa,
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Hash(#[from] tpm_wire::hash::UnsupportedHash),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
}
