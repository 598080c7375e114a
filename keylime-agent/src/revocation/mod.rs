// SPDX-License-Identifier: Apache-2.0
//! Revocation messages: what the verifier tells the other hosts when one has failed. A message with a good signature is
//! handed to the revocation actions, programs of this host or of the payload.

mod signature;
mod subscriber;
mod zmtp;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use service::Report;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::config::Revocation;
use crate::payload::{PayloadError, Place, is_plain_name, listed_actions, make_executable};
use crate::program::{self, ProgramError};
use signature::SignatureError;
pub(crate) use subscriber::Subscriber;

/// Messages that wait for the one before, and the bytes they have together: anybody can be at the publisher's address.
const QUEUE: usize = 32;
const QUEUE_BYTES: usize = 4 << 20;

/// A message as it is sent.
#[derive(Deserialize)]
pub(crate) struct Envelope {
    /// JSON text.
    msg: String,
    /// Base64 of the signature over the text; empty or no base64 if the verifier has no key.
    signature: Option<String>,
}

/// Why a message was not acted upon, or not in full.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevocationError {
    #[error("revocation certificate: {0}")]
    Certificate(#[source] tls::TlsError),
    #[error("the message is not signed: the verifier has no revocation key, or it is no message of a verifier")]
    NotSigned,
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the message is not a JSON object")]
    NotAnObject,
    #[error("cannot read the action_list of the payload: {0}")]
    ActionList(#[source] io::Error),
    #[error("revocation action {0:?} is not the name of a file")]
    Name(String),
    #[error("revocation action '{name}' is not in {}{}", folder.display(), if *payload { " and not in the payload" } else { "" })]
    Missing { name: String, folder: PathBuf, payload: bool },
    #[error(
        "revocation action '{name}' is the Python module {}, which this agent does not load: install a program named \
         '{name}' that takes the message's file as its argument, such as a Python script with a #! line",
        path.display()
    )]
    Python { name: String, path: PathBuf },
    #[error("cannot make it executable: {0}")]
    Mode(#[from] PayloadError),
    #[error("cannot write the message to {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("revocation action {name} {source}")]
    Action { name: String, source: ProgramError },
}

/// There is no room for another message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Too many revocation messages wait for the one that is being processed")]
pub(crate) struct Full;

/// Hands messages to the revoker.
#[derive(Clone)]
pub(crate) struct Inbox {
    messages: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

/// A message and the room it takes.
pub(crate) struct Waiting {
    envelope: Envelope,
    _room: OwnedSemaphorePermit,
}

impl Inbox {
    /// The inbox and what is put into it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (messages, waiting) = mpsc::channel(QUEUE);
        (Self { messages, room: Arc::new(Semaphore::new(QUEUE_BYTES)) }, waiting)
    }

    /// Never waits.
    pub(crate) fn put(&self, envelope: Envelope) -> Result<(), Full> {
        let bytes = envelope.msg.len() + envelope.signature.as_ref().map_or(0, String::len);
        let bytes = u32::try_from(bytes).map_err(|_| Full)?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|_| Full)?;
        self.messages.try_send(Waiting { envelope, _room: room }).map_err(|_| Full)
    }
}

/// What acts upon messages, one after the other.
pub(crate) struct Revoker {
    options: Revocation,
    keylime_dir: PathBuf,
    place: Place,
    messages: mpsc::Receiver<Waiting>,
}

impl Revoker {
    /// The revoker and what hands it messages.
    pub(crate) fn new(options: Revocation, keylime_dir: PathBuf, place: Place) -> (Inbox, Self) {
        let (inbox, messages) = Inbox::new();
        (inbox, Self { options, keylime_dir, place, messages })
    }

    /// Acts upon what comes, without end. When this is dropped, a running action is killed.
    pub(crate) async fn run(mut self) {
        while let Some(message) = self.messages.recv().await {
            match self.process(&message.envelope).await {
                Ok(true) => tracing::info!("Revocation processed successfully"),
                Ok(false) => tracing::warn!("Revocation certificate not yet available"),
                Err(error) => tracing::error!("Failed to process revocation: {}", Report(&error)),
            }
        }
        std::future::pending().await
    }

    /// Returns false if there is no certificate yet.
    async fn process(&self, envelope: &Envelope) -> Result<bool, RevocationError> {
        tracing::info!("Received revocation");
        let chain = {
            let _files = self.place.files().await;
            match tls::load_certificates(&self.options.certificate, tls::FileKind::Certificate) {
                Err(tls::TlsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Ok(false);
                }
                chain => chain.map_err(RevocationError::Certificate)?,
            }
        };
        let signature = envelope.signature.as_deref().and_then(|text| STANDARD.decode(text).ok());
        let signature = signature.filter(|bytes| !bytes.is_empty()).ok_or(RevocationError::NotSigned)?;
        let certificate = chain.first().map(|leaf| &**leaf).unwrap_or_default();
        signature::verify(certificate, envelope.msg.as_bytes(), &signature)?;
        let message: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&envelope.msg).map_err(|_| RevocationError::NotAnObject)?;
        let names = self.actions().await?;
        let file = self.message_file(&serde_json::Value::Object(message).to_string())?;
        for name in names {
            self.act(&name, &file.0).await?;
        }
        Ok(true)
    }

    /// The names of the actions: those of the configuration, then those of the payload.
    async fn actions(&self) -> Result<Vec<String>, RevocationError> {
        let mut names = self.options.actions.clone();
        let Ok(unzipped) = self.place.unzipped() else { return Ok(names) };
        let _files = self.place.files().await;
        match listed_actions(&unzipped).map_err(RevocationError::ActionList)? {
            None => tracing::warn!("WARNING: no action_list found in secure directory"),
            Some(listed) if listed.is_empty() => {
                tracing::warn!("WARNING: no actions found in revocation action list");
            }
            Some(listed) => names.extend(listed),
        }
        Ok(names)
    }

    /// The message in a file that only this user can read, in memory if there is a tmpfs.
    fn message_file(&self, message: &str) -> Result<MessageFile, RevocationError> {
        let folder = self.place.secure().unwrap_or(&self.keylime_dir);
        let path = folder.join(format!(".revocation-{}.json", std::process::id()));
        // What a killed process of that number has left.
        let _ = std::fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(message.as_bytes()));
        let file = MessageFile(path);
        written.map_err(|source| RevocationError::Write { path: file.0.clone(), source })?;
        Ok(file)
    }

    async fn act(&self, name: &str, message: &Path) -> Result<(), RevocationError> {
        let path = self.locate(name)?;
        tracing::info!("Executing revocation action {name}");
        let (output, result) = program::run(&path, Some(message), &self.keylime_dir, self.options.action_timeout).await;
        if result.is_ok() {
            tracing::info!("INFO: revocation action {name} successful");
        }
        for line in output.stdout.lines() {
            tracing::info!("Action stdout: {line}");
        }
        for line in output.stderr.lines() {
            tracing::warn!("Action stderr: {line}");
        }
        result.map_err(|source| RevocationError::Action { name: name.to_owned(), source })
    }

    /// The program of an action: the host's own comes before the payload's.
    fn locate(&self, name: &str) -> Result<PathBuf, RevocationError> {
        if !is_plain_name(name) {
            return Err(RevocationError::Name(name.to_owned()));
        }
        let folder = &self.options.actions_dir;
        let unzipped = self.place.unzipped().ok().filter(|_| self.options.allow_payload_actions);
        let own = folder.join(name);
        if own.is_file() {
            return Ok(own);
        }
        if let Some(path) = unzipped.as_ref().map(|unzipped| unzipped.join(name)).filter(|path| path.is_file()) {
            make_executable(&path)?;
            return Ok(path);
        }
        let module = format!("{name}.py");
        let mut modules = [Some(folder), unzipped.as_ref()].into_iter().flatten().map(|folder| folder.join(&module));
        let name = name.to_owned();
        Err(match modules.find(|path| path.is_file()) {
            Some(path) => RevocationError::Python { name, path },
            None => RevocationError::Missing { name, folder: folder.clone(), payload: unzipped.is_some() },
        })
    }
}

/// Removed when dropped.
struct MessageFile(PathBuf);

impl Drop for MessageFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests;
