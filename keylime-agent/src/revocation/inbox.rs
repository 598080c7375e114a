// SPDX-License-Identifier: Apache-2.0
//! The arrival of revocation messages: each is checked at once, so that only what the verifier has signed takes the room of
//! those that wait for their actions.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use service::Report;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::signature::{self, SignatureError};
use crate::payload::Place;

/// Messages that wait for the one before, and the bytes they have together.
const QUEUE: usize = 256;
const QUEUE_BYTES: u32 = 4 << 20;
/// Most characters of a message's field in the log.
const MAX_FIELD: usize = 128;

/// A message as it is sent.
#[derive(Deserialize)]
pub(crate) struct Envelope {
    /// JSON text.
    pub(super) msg: String,
    /// Base64 of the signature over the text; empty or no base64 if the verifier has no key.
    pub(super) signature: Option<String>,
}

/// Why a message does not count.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnvelopeError {
    #[error("revocation certificate: {0}")]
    Certificate(#[source] tls::TlsError),
    #[error(
        "the message is not signed: the verifier has no revocation key, or it is no message of a verifier, or the failed \
         host was enrolled without --cert"
    )]
    NotSigned,
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the message is not a JSON object")]
    NotAnObject,
}

/// Why a message cannot wait for its actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("Too many revocation messages wait for the one that is being processed")]
    Full,
    #[error("The agent is ending and takes no more revocation messages")]
    Ending,
}

/// Hands good messages to the revoker.
#[derive(Clone)]
pub(crate) struct Inbox {
    certificate: PathBuf,
    place: Place,
    messages: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
}

/// A message with a good signature, as a JSON object.
#[derive(Debug)]
pub(crate) struct Message {
    pub(super) text: String,
    _room: OwnedSemaphorePermit,
}

impl Inbox {
    /// The inbox and what comes out of it. `certificate` is the file of the verifier's certificate for messages.
    pub(crate) fn new(certificate: PathBuf, place: Place) -> (Self, mpsc::Receiver<Message>) {
        let (messages, waiting) = mpsc::channel(QUEUE);
        (Self { certificate, place, messages, room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)) }, waiting)
    }

    /// Checks a message and lets it wait for its actions; what does not count is logged and dropped. Waits itself where there
    /// is no room, if it has patience.
    pub(crate) async fn put(&self, envelope: Envelope, patience: Option<Duration>) -> Result<(), NotKept> {
        tracing::info!("Received revocation");
        match self.check(&envelope).await {
            Ok(Some(text)) => match patience {
                Some(patience) => timeout(patience, self.keep(text)).await.unwrap_or(Err(NotKept::Full)),
                None => self.keep_now(text),
            },
            Ok(None) => {
                tracing::warn!("Revocation certificate not yet available");
                Ok(())
            }
            Err(error) => {
                tracing::error!("Failed to process revocation: {}", Report(&error));
                Ok(())
            }
        }
    }

    /// The text of the message, or `None` if there is no certificate yet.
    pub(super) async fn check(&self, envelope: &Envelope) -> Result<Option<String>, EnvelopeError> {
        let chain = {
            let _files = self.place.files().await;
            match tls::load_certificates(&self.certificate, tls::FileKind::Certificate) {
                Err(tls::TlsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                chain => chain.map_err(EnvelopeError::Certificate)?,
            }
        };
        let signature = envelope.signature.as_deref().and_then(|text| STANDARD.decode(text).ok());
        let signature = signature.filter(|bytes| !bytes.is_empty()).ok_or(EnvelopeError::NotSigned)?;
        let certificate = chain.first().map(|leaf| &**leaf).unwrap_or_default();
        signature::verify(certificate, envelope.msg.as_bytes(), &signature)?;
        let message: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&envelope.msg).map_err(|_| EnvelopeError::NotAnObject)?;
        tracing::info!("{}", summary(&message));
        Ok(Some(serde_json::Value::Object(message).to_string()))
    }

    async fn keep(&self, text: String) -> Result<(), NotKept> {
        let room = Arc::clone(&self.room).acquire_many_owned(size(&text)).await.map_err(|_| NotKept::Ending)?;
        self.messages.send(Message { text, _room: room }).await.map_err(|_| NotKept::Ending)
    }

    fn keep_now(&self, text: String) -> Result<(), NotKept> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(size(&text)).map_err(|_| NotKept::Full)?;
        self.messages.try_send(Message { text, _room: room }).map_err(|error| match error {
            TrySendError::Full(_) => NotKept::Full,
            TrySendError::Closed(_) => NotKept::Ending,
        })
    }
}

/// Which host has failed, and why (prepare_error in Keylime's cloud_verifier_common.py).
pub(super) fn summary(message: &serde_json::Map<String, serde_json::Value>) -> String {
    let field = |name: &str| match message.get(name).and_then(serde_json::Value::as_str) {
        Some(text) => text.chars().take(MAX_FIELD).collect(),
        None => format!("no {name}"),
    };
    format!("Revocation of {} ({}, {})", field("agent_id"), field("event_id"), field("ip"))
}

fn size(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX).min(QUEUE_BYTES)
}
