// SPDX-License-Identifier: Apache-2.0
//! Revocation messages: what the verifier tells the other hosts when one has failed. A message with a good signature is
//! handed to the revocation actions, programs of this host or of the payload.

mod inbox;
mod signature;
mod subscriber;
mod zmtp;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use service::Report;
use tokio::sync::mpsc;

use crate::config::Revocation;
use crate::payload::{PayloadError, Place, is_plain_name, listed_actions, make_executable};
use crate::program::{self, ProgramError};
use inbox::Message;
pub(crate) use inbox::{Envelope, Inbox};
pub(crate) use subscriber::Subscriber;

/// Why a message was not acted upon in full.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevocationError {
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
    #[error("revocation action {name} {source}{}", source.limit_of("revocation_action_timeout"))]
    Action { name: String, source: ProgramError },
    #[error("{source}; not run after it: {skipped}")]
    WithSkipped { source: Box<RevocationError>, skipped: String },
}

/// What acts upon messages, one after the other.
pub(crate) struct Revoker {
    options: Revocation,
    keylime_dir: PathBuf,
    place: Place,
    messages: mpsc::Receiver<Message>,
    /// Whether a message is being acted upon, and the action that runs.
    is_acting: bool,
    action: Option<String>,
}

impl Revoker {
    /// The revoker and what hands it messages.
    pub(crate) fn new(options: Revocation, keylime_dir: PathBuf, place: Place) -> (Inbox, Self) {
        let (inbox, messages) = Inbox::new(options.certificate.clone(), place.clone());
        (inbox, Self { options, keylime_dir, place, messages, is_acting: false, action: None })
    }

    /// Acts upon what comes, without end. When this is dropped, a running action is killed.
    pub(crate) async fn run(mut self) {
        // What a kill in the middle of an action has left.
        for folder in self.place.secure().into_iter().chain([self.keylime_dir.as_path()]) {
            drop(MessageFile::of(folder));
        }
        while let Some(message) = self.messages.recv().await {
            self.is_acting = true;
            let result = self.process(&message.text).await;
            self.is_acting = false;
            match result {
                Ok(()) => tracing::info!("Revocation processed successfully"),
                Err(error) => tracing::error!("Failed to process revocation: {}", Report(&error)),
            }
        }
        std::future::pending().await
    }

    async fn process(&mut self, message: &str) -> Result<(), RevocationError> {
        let mut programs = self.programs().await.into_iter();
        let file = self.message_file(message)?;
        while let Some((name, program)) = programs.next() {
            let result = match program {
                Ok(program) => {
                    self.action = Some(name.clone());
                    let result = self.act(&name, &program, &file.0).await;
                    self.action = None;
                    result
                }
                Err(error) => Err(error),
            };
            result.map_err(|error| match programs.by_ref().map(|(name, _)| name).collect::<Vec<_>>().join(", ") {
                none if none.is_empty() => error,
                skipped => RevocationError::WithSkipped { source: Box::new(error), skipped },
            })?;
        }
        Ok(())
    }

    /// The actions of the configuration, then those of the payload, with their programs as they are now.
    async fn programs(&self) -> Vec<(String, Result<PathBuf, RevocationError>)> {
        let _files = self.place.files().await;
        let unzipped = self.place.unzipped().ok();
        let program = |name: &String| (name.clone(), locate(&self.options, name, unzipped.as_deref()));
        let mut programs: Vec<_> = self.options.actions.iter().map(program).collect();
        let Some(folder) = &unzipped else { return programs };
        match listed_actions(folder) {
            Ok(None) => tracing::warn!("WARNING: no action_list found in secure directory"),
            Ok(Some(listed)) if listed.is_empty() => {
                tracing::warn!("WARNING: no actions found in revocation action list");
            }
            Ok(Some(listed)) => programs.extend(listed.iter().map(program)),
            // The host's own actions come before it.
            Err(error) => programs.push(("action_list".to_owned(), Err(RevocationError::ActionList(error)))),
        }
        programs
    }

    /// The message in memory if there is a tmpfs with room for it: payloads and their scripts may have filled it.
    fn message_file(&self, message: &str) -> Result<MessageFile, RevocationError> {
        let Some(secure) = self.place.secure() else { return MessageFile::write(&self.keylime_dir, message) };
        match MessageFile::write(secure, message) {
            Err(RevocationError::Write { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                MessageFile::write(&self.keylime_dir, message)
            }
            written => written,
        }
    }

    async fn act(&self, name: &str, path: &Path, message: &Path) -> Result<(), RevocationError> {
        tracing::info!("Executing revocation action {name}");
        let (output, result) = program::run(path, Some(message), &self.keylime_dir, self.options.action_timeout).await;
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
}

/// The program of an action: the host's own comes before the payload's.
pub(crate) fn locate(options: &Revocation, name: &str, unzipped: Option<&Path>) -> Result<PathBuf, RevocationError> {
    if !is_plain_name(name) {
        return Err(RevocationError::Name(name.to_owned()));
    }
    let folder = &options.actions_dir;
    let unzipped = unzipped.filter(|_| options.allow_payload_actions);
    let own = folder.join(name);
    let of_payload = || unzipped.map(|unzipped| unzipped.join(name)).filter(|path| path.is_file());
    let found = if own.is_file() { Some((own, false)) } else { of_payload().map(|path| (path, true)) };
    if let Some((path, is_of_payload)) = found {
        // The shell would run a module that names no interpreter.
        if name.ends_with(".py") && program::interpreter(&path).is_none() {
            return Err(RevocationError::Python { name: name.to_owned(), path });
        }
        if is_of_payload {
            make_executable(&path)?;
        }
        return Ok(path);
    }
    let module = format!("{name}.py");
    let mut modules = [Some(folder.as_path()), unzipped].into_iter().flatten().map(|folder| folder.join(&module));
    let name = name.to_owned();
    Err(match modules.find(|path| path.is_file()) {
        Some(path) => RevocationError::Python { name, path },
        None => RevocationError::Missing { name, folder: folder.clone(), payload: unzipped.is_some() },
    })
}

impl Drop for Revoker {
    /// The verifier has been told that they were taken, and sends them to nobody a second time.
    fn drop(&mut self) {
        self.messages.close();
        let count = self.messages.len() + usize::from(self.is_acting);
        let killed = self.action.as_ref().map(|name| format!(", revocation action {name} is killed"));
        if count > 0 {
            tracing::warn!("Revocation messages given up, as the agent ends: {count}{}", killed.unwrap_or_default());
        }
    }
}

/// Removed when dropped.
struct MessageFile(PathBuf);

impl MessageFile {
    /// One message is acted upon at a time, and one agent has the folder.
    fn of(folder: &Path) -> Self {
        Self(folder.join(".revocation.json"))
    }

    /// Writes a file that only this user can read.
    fn write(folder: &Path, message: &str) -> Result<Self, RevocationError> {
        let file = Self::of(folder);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file.0);
        let written = opened.and_then(|mut opened| opened.write_all(message.as_bytes()));
        written.map_err(|source| RevocationError::Write { path: file.0.clone(), source })?;
        Ok(file)
    }
}

impl Drop for MessageFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests;
