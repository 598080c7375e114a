// SPDX-License-Identifier: Apache-2.0
//! The state of the thread that owns the TPM, and its recovery after the TPM was reset or lost.

use crate::ak::{self, Ak, AkInfo, SavedAk};
use crate::capability;
use crate::connection::Connection;
use crate::credential::{self, ParsedCredential};
use crate::device_identity::{self, CertifiedAk, DeviceKeyKind, DeviceKeySource};
use crate::ek::{Ek, EkInfo};
use crate::error::{OpenCause, TpmError};
use crate::pcr::KnownPcrs;
use crate::quote::{self, Quote, QuoteRequest};
use crate::settings::TpmSettings;
use crate::tcti;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Wait before the second attempt to reopen the TPM; doubled after each failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Everything the thread holds.
pub(crate) struct Owner {
    settings: TpmSettings,
    tcti: String,
    sent: Arc<AtomicU64>,
    state: State,
    ek: Option<Ek>,
    ak: Option<Ak>,
    /// The AK to reload after a loss.
    saved: Option<SavedAk>,
    known: KnownPcrs,
}

enum State {
    Open(Rc<Connection>),
    Lost(Loss),
}

/// The TPM is being reopened.
struct Loss {
    reason: Arc<TpmError>,
    /// Kept if only keys were lost.
    connection: Option<Rc<Connection>>,
    next_try: Instant,
    wait: Duration,
}

impl Owner {
    /// Opens the TPM, checks it against the settings and clears what a killed process of ours left in it.
    pub(crate) fn open(settings: TpmSettings, sent: Arc<AtomicU64>) -> Result<Self, TpmError> {
        let tcti = tcti::choose(settings.tcti.as_deref(), Path::exists);
        let connection = connect(&tcti, &settings, &sent)?;
        Ok(Owner {
            settings,
            tcti,
            sent,
            state: State::Open(connection),
            ek: None,
            ak: None,
            saved: None,
            known: KnownPcrs::default(),
        })
    }

    /// Runs one operation. What shows that the TPM or its keys were lost becomes [`TpmError::Unavailable`].
    pub(crate) fn attend<T>(
        &mut self,
        operation: impl FnOnce(&mut Self, &Rc<Connection>) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        if self.next_recovery().is_some_and(|due| due <= Instant::now()) {
            self.recover();
        }
        let connection = match &self.state {
            State::Open(connection) => Rc::clone(connection),
            State::Lost(loss) => return Err(TpmError::Unavailable(Arc::clone(&loss.reason))),
        };
        match operation(self, &connection) {
            Err(error) if error.loses_tpm() => {
                let reason = Arc::new(error);
                self.lose(Arc::clone(&reason), &connection);
                Err(TpmError::Unavailable(reason))
            }
            other => other,
        }
    }

    /// When to call [`Self::recover`]; `None` while the TPM works.
    pub(crate) fn next_recovery(&self) -> Option<Instant> {
        match &self.state {
            State::Open(_) => None,
            State::Lost(loss) => Some(loss.next_try),
        }
    }

    fn lose(&mut self, reason: Arc<TpmError>, connection: &Rc<Connection>) {
        tracing::warn!(tcti = self.tcti, error = %Report(&reason), "lost the TPM or its keys, reopening it");
        let keys_only = match reason.as_ref() {
            TpmError::ForeignKey => true,
            TpmError::Command { code, .. } => code.is_missing_object(),
            _ => false,
        };
        if !keys_only {
            connection.abandon();
        }
        self.release_keys();
        self.known.forget();
        self.state = State::Lost(Loss {
            reason,
            connection: keys_only.then(|| Rc::clone(connection)),
            next_try: Instant::now(),
            wait: FIRST_WAIT,
        });
    }

    /// Reopens the TPM and reloads the AK, if it is time to try again.
    pub(crate) fn recover(&mut self) {
        let State::Lost(loss) = &mut self.state else { return };
        let kept = loss.connection.take();
        match self.reopen(kept) {
            Ok((connection, ak)) => {
                tracing::info!(tcti = self.tcti, "the TPM is available again");
                self.ak = ak;
                self.state = State::Open(connection);
            }
            Err(error) => {
                let State::Lost(loss) = &mut self.state else { return };
                // Each reason once; the attempts go on for as long as the TPM is away.
                let text = Report(&error).to_string();
                if text == Report(&loss.reason).to_string() {
                    tracing::debug!(tcti = self.tcti, error = text, "the TPM is still not available");
                } else {
                    tracing::warn!(tcti = self.tcti, error = text, "the TPM is not available, trying again");
                }
                loss.reason = Arc::new(error);
                loss.next_try = Instant::now() + loss.wait;
                loss.wait = (loss.wait * 2).min(LONGEST_WAIT);
            }
        }
    }

    fn reopen(&self, kept: Option<Rc<Connection>>) -> Result<(Rc<Connection>, Option<Ak>), TpmError> {
        let connection = match kept {
            Some(connection) => connection,
            None => connect(&self.tcti, &self.settings, &self.sent)?,
        };
        let reloaded = self.reload_ak(&connection);
        if reloaded.as_ref().is_err_and(TpmError::loses_tpm) {
            connection.abandon();
        }
        reloaded.map(|ak| (connection, ak))
    }

    /// Loads the AK that was in use, if there was one.
    fn reload_ak(&self, connection: &Rc<Connection>) -> Result<Option<Ak>, TpmError> {
        let Some(saved) = &self.saved else { return Ok(None) };
        ak::flush_leftovers(connection, saved)?;
        let ek = self.obtain_ek(connection)?;
        let loaded = ak::load_saved(connection, &ek, &self.settings, saved);
        ek.release();
        loaded?.map(Some).map_err(TpmError::AkLost)
    }

    fn obtain_ek(&self, connection: &Rc<Connection>) -> Result<Ek, TpmError> {
        let settings = &self.settings;
        Ek::obtain(connection, settings.ek, settings.key_alg, &settings.endorsement_auth)
    }

    /// The EK, made anew if it has been flushed.
    fn take_ek(&mut self, connection: &Rc<Connection>) -> Result<Ek, TpmError> {
        match self.ek.take() {
            Some(ek) => Ok(ek),
            None => self.obtain_ek(connection),
        }
    }

    pub(crate) fn create_ek(&mut self, connection: &Rc<Connection>) -> Result<EkInfo, TpmError> {
        let ek = self.take_ek(connection)?;
        let info = ek.describe(connection, &self.settings.endorsement_auth);
        self.ek = Some(ek);
        Ok(info)
    }

    pub(crate) fn ensure_ek(&mut self, connection: &Rc<Connection>) -> Result<(), TpmError> {
        self.ek = Some(self.take_ek(connection)?);
        Ok(())
    }

    pub(crate) fn load_or_create_ak(
        &mut self,
        connection: &Rc<Connection>,
        saved: Option<&SavedAk>,
    ) -> Result<AkInfo, TpmError> {
        if let Some(ak) = self.ak.take() {
            ak.release();
        }
        if let Some(saved) = saved {
            ak::flush_leftovers(connection, saved)?;
        }
        let ek = self.take_ek(connection)?;
        let loaded = match saved {
            Some(saved) => ak::load_saved(connection, &ek, &self.settings, saved)
                .and_then(|loaded| loaded.map_err(TpmError::AkRejected)),
            None => ak::create(connection, &ek, &self.settings),
        };
        self.ek = Some(ek);
        let ak = loaded?;
        let info = ak.describe();
        self.saved = Some(ak.saved.clone());
        self.ak = Some(ak);
        Ok(info)
    }

    pub(crate) fn activate(
        &mut self,
        connection: &Rc<Connection>,
        credential: &ParsedCredential,
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let ek = self.take_ek(connection)?;
        let auth = &self.settings.endorsement_auth;
        let secret = match &self.ak {
            Some(ak) => credential::activate(connection, &ek, ak, auth, credential),
            None => Err(TpmError::NoAk),
        };
        self.ek = Some(ek);
        secret
    }

    pub(crate) fn device_key(
        &self,
        connection: &Rc<Connection>,
        kind: DeviceKeyKind,
        source: &DeviceKeySource,
    ) -> Result<Vec<u8>, TpmError> {
        device_identity::public(connection, kind, source, &self.settings.endorsement_auth)
    }

    pub(crate) fn certify_ak(
        &self,
        connection: &Rc<Connection>,
        iak: &DeviceKeySource,
        qualifying_data: &[Vec<u8>],
    ) -> Result<CertifiedAk, TpmError> {
        let ak = self.ak.as_ref().ok_or(TpmError::NoAk)?;
        device_identity::certify(connection, iak, &self.settings.endorsement_auth, ak, qualifying_data)
    }

    pub(crate) fn flush_ek(&mut self) {
        if let Some(ek) = self.ek.take() {
            ek.release();
        }
    }

    pub(crate) fn quote(&mut self, connection: &Connection, request: &QuoteRequest) -> Result<Quote, TpmError> {
        let ak = self.ak.as_ref().ok_or(TpmError::NoAk)?;
        quote::quote(connection, ak, &mut self.known, self.settings.hash, request)
    }

    fn release_keys(&mut self) {
        self.flush_ek();
        if let Some(ak) = self.ak.take() {
            ak.release();
        }
    }
}

impl Drop for Owner {
    /// Leaves nothing of ours in the TPM.
    fn drop(&mut self) {
        self.release_keys();
    }
}

/// Opens the connection and makes sure that the TPM can do what the settings ask for.
fn connect(tcti: &str, settings: &TpmSettings, sent: &Arc<AtomicU64>) -> Result<Rc<Connection>, TpmError> {
    let connection = Connection::open(tcti, Arc::clone(sent)).map_err(|cause| tcti::explain(tcti, cause))?;
    let checked = capability::require_bank(&connection, settings.hash)
        .and_then(|()| settings.leftover_ak.as_ref().map_or(Ok(()), |saved| ak::flush_leftovers(&connection, saved)));
    match checked {
        Ok(()) => Ok(connection),
        Err(error @ TpmError::BankInactive { .. }) => Err(error),
        Err(error) => {
            connection.abandon();
            Err(tcti::explain(tcti, OpenCause::Tpm(Box::new(error))))
        }
    }
}

/// An error with its sources, in one line.
struct Report<'a>(&'a TpmError);

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
