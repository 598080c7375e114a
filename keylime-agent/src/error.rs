// SPDX-License-Identifier: Apache-2.0
//! Why the agent does not run.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::agent_data::AgentDataError;
use crate::device_identity::DeviceIdentityError;
use crate::identity::IdentityError;
use crate::lock::LockError;
use crate::payload::store::StoreError;
use crate::payload_key::PayloadKeyError;
use crate::privileges::PrivilegeError;
use crate::registration::RegistrationError;
use crate::server::{TcpError, UnixError};
use crate::server_certificate::ServerCertificateError;

/// Why the agent did not start: everything that was found wrong. The texts are for the operator and name files, options
/// and remedies.
#[derive(Debug)]
pub struct StartError(Vec<Cause>);

impl StartError {
    /// Whether only a change of the configuration helps.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        use PrivilegeError::{GroupUnknown, NoGroup, NoUser};
        self.0.iter().any(|cause| {
            matches!(
                cause,
                Cause::Privileges { source: NoUser(_) | NoGroup(_) | GroupUnknown(_), .. }
                    | Cause::AllowedUsers { source: NoUser(_), .. }
            )
        })
    }

    /// Whether the registrar could not be reached as often as the configuration allows.
    #[must_use]
    pub fn is_unregistered(&self) -> bool {
        self.0.iter().any(|cause| matches!(cause, Cause::Registration(RegistrationError::Exhausted(_))))
    }

    /// The single reasons; at least one.
    pub fn reasons(&self) -> impl Iterator<Item = &dyn Error> {
        self.0.iter().map(|cause| cause as &dyn Error)
    }

    /// An error of these, unless there are none.
    pub(crate) fn unless_empty(causes: Vec<Cause>) -> Result<(), Self> {
        if causes.is_empty() { Ok(()) } else { Err(Self(causes)) }
    }
}

impl From<Cause> for StartError {
    fn from(cause: Cause) -> Self {
        Self(vec![cause])
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, cause) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{cause}")?;
        }
        Ok(())
    }
}

impl Error for StartError {}

/// The kinds of failures, by where they come from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("{option}: {source}")]
    Privileges { option: Box<str>, source: PrivilegeError },
    #[error("{option}: {source}")]
    AllowedUsers { option: Box<str>, source: PrivilegeError },
    #[error("{option}: {source}")]
    Identity { option: Box<str>, source: IdentityError },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Store(#[from] StoreError),
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
    DeviceIdentity(#[from] DeviceIdentityError),
    #[error(transparent)]
    AgentData(#[from] AgentDataError),
    #[error("the agent id cannot be used: {0}")]
    AgentId(#[from] keylime_api::InvalidAgentId),
    #[error("Failed to load or generate payload key from {}: {source}{hint}", path.display())]
    PayloadKey { path: PathBuf, source: Box<PayloadKeyError>, hint: Box<str> },
    #[error(transparent)]
    ServerCertificate(#[from] ServerCertificateError),
    #[error("Trusted client CA certificate list is empty: could not load any certificate ({option})")]
    NoClientCa { option: Box<str> },
    #[error("{option}: {source}{hint}")]
    File { option: Box<str>, source: Box<tls::TlsError>, hint: Box<str> },
    #[error(
        "{option}: there is no {}, but there is the certificate in {}: restore its key, or move the \
         certificate away to have both made anew",
        key.display(),
        certificate.display()
    )]
    ServerKeyGone { option: Box<str>, key: PathBuf, certificate: PathBuf },
    #[error("the folder {} ({option}) does not exist: create it, owned by the user of run_as", folder.display())]
    NoFolder { option: Box<str>, folder: PathBuf },
    #[error("the user {user} cannot {verb} the folder {} ({option}): {reason}", folder.display())]
    Folder { option: Box<str>, verb: &'static str, folder: PathBuf, user: Box<str>, reason: Box<str> },
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Hash(#[from] tpm_wire::hash::UnsupportedHash),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
}
