// SPDX-License-Identifier: Apache-2.0
//! The thread and the queue in front of it; [`Tpm`] is what the rest of the program holds.

use crate::ak::{AkInfo, SavedAk};
use crate::capability;
use crate::connection::Connection;
use crate::credential::ParsedCredential;
use crate::device_identity::{CertifiedAk, DeviceKeyKind, DeviceKeySource};
use crate::ek::EkInfo;
use crate::error::TpmError;
use crate::owner::Owner;
use crate::quote::{Quote, QuoteRequest};
use crate::settings::TpmSettings;
use crate::{tcti, template};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

/// Time limit of the operations at start, which can make keys: a discrete TPM takes a minute or more for a large RSA
/// key when it is unlucky.
const STARTUP_LIMIT: Duration = Duration::from_secs(300);

/// How long a shutdown waits for the command the TPM is working on.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(6);

/// The thread marshals small structures only.
const STACK: usize = 256 * 1024;

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// The TPM: a handle to the thread that owns it. Clones share the thread.
///
/// The thread ends, and leaves nothing in the TPM, at [`Tpm::shutdown`] or when the last clone is dropped; the
/// process has to wait for it, by `shutdown` or a [`TpmGuard`].
#[derive(Clone)]
pub struct Tpm {
    queue: SyncSender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    /// When those who asked for the end stop waiting for it; set by the first of them.
    stop_by: OnceLock<Instant>,
    /// TPM commands sent.
    sent: Arc<AtomicU64>,
    /// Closed when the thread has ended; for tasks that wait.
    ended: watch::Receiver<()>,
    /// The same for threads that wait.
    ended_blocking: Mutex<Receiver<()>>,
}

/// Shuts the TPM down when dropped and waits for it, at most until six seconds after the shutdown was first asked for:
/// for `main`, so that nothing stays in the TPM when a start fails or a task panics.
pub struct TpmGuard(Tpm);

impl Tpm {
    /// Opens the TPM on a thread of its own. Cancel safe: a TPM that answers after that is closed at once.
    ///
    /// # Errors
    /// Settings that cannot work together, a TPM that cannot be opened ([`TpmError::Open`] names the TCTI and what to
    /// do), or a PCR bank that is not active.
    pub async fn open(settings: TpmSettings) -> Result<Self, TpmError> {
        if let Some(problem) = template::check(settings.hash, settings.key_alg, settings.scheme).into_iter().next() {
            return Err(problem);
        }
        tcti::silence_library_log();
        let (queue, jobs) = sync_channel(settings.queue.get());
        let (ended_sender, ended) = watch::channel(());
        let (ended_blocking_sender, ended_blocking) = sync_channel(1);
        let sent = Arc::new(AtomicU64::new(0));
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            stop_by: OnceLock::new(),
            sent: Arc::clone(&sent),
            ended,
            ended_blocking: Mutex::new(ended_blocking),
        });
        // The thread must not keep the queue open, so it gets the flag only.
        let stop = Arc::downgrade(&shared);
        let stop = move || stop.upgrade().is_none_or(|shared| shared.stop.load(Ordering::Acquire));
        let (ready, opened) = oneshot::channel();
        thread::Builder::new()
            .name("tpm".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Dropped last, after the owner has released the keys.
                let _ended = (ended_sender, ended_blocking_sender);
                match Owner::open(settings, sent) {
                    Ok(owner) => {
                        let listening = ready.send(Ok(()));
                        if listening.is_ok() {
                            work(owner, &jobs, stop);
                        }
                    }
                    // The caller may have gone meanwhile.
                    Err(error) => drop(ready.send(Err(error))),
                }
            })
            .map_err(TpmError::Thread)?;
        opened.await.unwrap_or(Err(TpmError::Closed))?;
        Ok(Tpm { queue, shared })
    }

    /// A guard that shuts the TPM down when it is dropped.
    pub fn guard(&self) -> TpmGuard {
        TpmGuard(self.clone())
    }

    /// Puts an operation into the queue and waits for its result.
    async fn submit<T: Send + 'static>(
        &self,
        deadline: Instant,
        operation: impl FnOnce(&mut Owner, &Rc<Connection>) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let (reply, answer) = oneshot::channel();
        let job = move |owner: &mut Owner| {
            // Nobody waits any more, or in vain: the TPM's time is better spent on the next request.
            if reply.is_closed() {
                return;
            }
            let result = if Instant::now() < deadline { owner.attend(operation) } else { Err(TpmError::Deadline) };
            // The waiter may have gone meanwhile.
            drop(reply.send(result));
        };
        if self.shared.stop.load(Ordering::Acquire) {
            return Err(TpmError::Closed);
        }
        self.queue.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => TpmError::Busy,
            TrySendError::Disconnected(_) => TpmError::Closed,
        })?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(TpmError::Closed),
            Err(_) => Err(TpmError::Deadline),
        }
    }

    fn startup_deadline() -> Instant {
        Instant::now() + STARTUP_LIMIT
    }

    /// Makes or finds the EK and reads its certificates. It stays loaded until [`Tpm::flush_ek`].
    ///
    /// # Errors
    /// [`TpmError::EndorsementAuth`], [`TpmError::EkHandle`], [`TpmError::NoRoom`] and the TPM's own.
    pub async fn create_ek(&self) -> Result<EkInfo, TpmError> {
        self.submit(Self::startup_deadline(), |owner, tpm| owner.create_ek(tpm)).await
    }

    /// Makes or finds the EK, unless it is loaded, and reads nothing of it. It stays loaded until [`Tpm::flush_ek`].
    ///
    /// # Errors
    /// As for [`Tpm::create_ek`].
    pub async fn ensure_ek(&self) -> Result<(), TpmError> {
        self.submit(Self::startup_deadline(), |owner, tpm| owner.ensure_ek(tpm)).await
    }

    /// Loads the saved AK, or makes one if there is none.
    ///
    /// # Errors
    /// As for [`Tpm::create_ek`], and [`TpmError::AkRejected`] if the saved AK is of no use under these settings or in
    /// this TPM.
    pub async fn load_or_create_ak(&self, saved: Option<SavedAk>) -> Result<AkInfo, TpmError> {
        let deadline = Self::startup_deadline();
        self.submit(deadline, move |owner, tpm| owner.load_or_create_ak(tpm, saved.as_ref())).await
    }

    /// Recovers the secret of a credential made for this EK and AK. Makes the EK again if it has been flushed.
    ///
    /// # Errors
    /// [`TpmError::Credential`] if the credential is for other keys, [`TpmError::NoAk`].
    pub async fn activate_credential(&self, credential: ParsedCredential) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let deadline = Self::startup_deadline();
        self.submit(deadline, move |owner, tpm| owner.activate(tpm, &credential)).await
    }

    /// Makes or finds the IDevID or IAK and returns its TPM2B_PUBLIC with the 2-byte size prefix (Keylime's `idevid_tpm`). It
    /// does not stay loaded.
    ///
    /// # Errors
    /// [`TpmError::DeviceKeyTemplate`], [`TpmError::DeviceKeyUnsupported`], [`TpmError::DeviceKeyHandle`],
    /// [`TpmError::EndorsementAuth`], [`TpmError::NoRoom`] and the TPM's own.
    pub async fn device_key(&self, kind: DeviceKeyKind, source: DeviceKeySource) -> Result<Vec<u8>, TpmError> {
        self.submit(Self::startup_deadline(), move |owner, tpm| owner.device_key(tpm, kind, &source)).await
    }

    /// Certifies the AK with the IAK (TPM2_Certify), once for each of the qualifying data. The IAK does not stay loaded.
    ///
    /// # Errors
    /// As for [`Tpm::device_key`], and [`TpmError::IakAuth`] and [`TpmError::NoAk`].
    pub async fn certify_ak(
        &self,
        iak: DeviceKeySource,
        qualifying_data: Vec<Vec<u8>>,
    ) -> Result<CertifiedAk, TpmError> {
        let deadline = Self::startup_deadline();
        self.submit(deadline, move |owner, tpm| owner.certify_ak(tpm, &iak, &qualifying_data)).await
    }

    /// Flushes a transient EK, which is needed for activation only. The AK stays.
    ///
    /// # Errors
    /// [`TpmError::Unavailable`] and the queue's.
    pub async fn flush_ek(&self) -> Result<(), TpmError> {
        let flush = |owner: &mut Owner, _: &Rc<Connection>| {
            owner.flush_ek();
            Ok(())
        };
        self.submit(Self::startup_deadline(), flush).await
    }

    /// Makes a quote.
    ///
    /// # Errors
    /// [`TpmError::Busy`] at once if the queue is full, [`TpmError::Deadline`], [`TpmError::Unavailable`] while the TPM
    /// is being reopened, [`TpmError::PcrsUnstable`], [`TpmError::NoAk`] and the TPM's own.
    pub async fn quote(&self, request: QuoteRequest) -> Result<Quote, TpmError> {
        self.submit(request.deadline, move |owner, tpm| owner.quote(tpm, &request)).await
    }

    /// Whether this is a software TPM, which gives no hardware root of trust.
    ///
    /// # Errors
    /// The queue's and the TPM's.
    pub async fn vendor_is_software(&self) -> Result<bool, TpmError> {
        self.submit(Self::startup_deadline(), |_, tpm| capability::is_software(tpm)).await
    }

    /// How many commands were sent to the TPM since it was opened.
    pub fn commands_sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Tells the thread to end; until when to wait for it.
    fn stop(&self) -> Instant {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the thread if it sleeps. A full queue means that it is awake; a closed one that it has ended.
        let wake: Job = Box::new(|_| ());
        drop(self.queue.try_send(wake));
        *self.shared.stop_by.get_or_init(|| Instant::now() + SHUTDOWN_LIMIT)
    }

    /// Completes when the thread has ended: after a shutdown, or because it panicked, which nothing recovers from.
    /// Cancel safe.
    pub async fn ended(&self) {
        // Nothing is ever sent: the channel closes with the thread.
        let _closed = self.shared.ended.clone().changed().await;
    }

    /// Flushes all that is ours from the TPM and ends the thread; waiting requests get [`TpmError::Closed`].
    ///
    /// # Errors
    /// [`TpmError::Deadline`] if the thread did not end within six seconds after the shutdown was first asked for.
    pub async fn shutdown(&self) -> Result<(), TpmError> {
        let by = self.stop();
        tokio::time::timeout_at(by.into(), self.ended()).await.map_err(|_| TpmError::Deadline)
    }
}

impl fmt::Debug for Tpm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tpm").field("commands_sent", &self.commands_sent()).finish_non_exhaustive()
    }
}

impl Drop for TpmGuard {
    fn drop(&mut self) {
        let by = self.0.stop();
        let ended = self.0.shared.ended_blocking.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = by.saturating_duration_since(Instant::now());
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the TPM did not finish its command in time, keys may stay loaded in it");
        }
    }
}

impl fmt::Debug for TpmGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TpmGuard")
    }
}

/// The thread: one job after the other, and attempts to reopen a lost TPM in between.
fn work(mut owner: Owner, jobs: &Receiver<Job>, stop: impl Fn() -> bool) {
    while !stop() {
        let job = match owner.next_recovery() {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => jobs.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match job {
            Ok(job) if !stop() => job(&mut owner),
            Err(RecvTimeoutError::Timeout) => owner.recover(),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_support::{Swtpm, SwtpmOptions, require};

    #[tokio::test]
    async fn a_panic_of_the_thread_is_told() {
        let Some(()) = require::swtpm() else { return };
        let swtpm = Swtpm::start(SwtpmOptions { ek_certificate: false, ..SwtpmOptions::default() }).unwrap();
        let tpm = Tpm::open(TpmSettings { tcti: Some(swtpm.tcti.clone()), ..TpmSettings::default() }).await.unwrap();
        let patience = Duration::from_secs(30);
        let soon = tokio::time::timeout(Duration::from_millis(10), tpm.ended()).await;
        assert!(soon.is_err(), "it has ended by itself");
        let broken = |_: &mut Owner, _: &Rc<Connection>| -> Result<(), TpmError> { panic!("on purpose") };
        let answer = tpm.submit(Instant::now() + patience, broken).await;
        assert!(matches!(answer, Err(TpmError::Closed)));
        tokio::time::timeout(patience, tpm.ended()).await.expect("the end is told");
        assert!(matches!(tpm.vendor_is_software().await, Err(TpmError::Closed)));
    }
}
