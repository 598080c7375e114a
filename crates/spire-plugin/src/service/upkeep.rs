// SPDX-License-Identifier: Apache-2.0
//! What goes on after a `Configure`: the configuration's own background work, the watch over its files and
//! certificates, and the heartbeat.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use spire_proto::config::ConfigureRequest;
use tokio::{
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, interval_at},
};
use tonic::Status;

use crate::{
    ConfigStore, LoadedCertificate, Metrics, PluginConfig, Problems, config,
    expiry::Expiry,
    reload::{Snapshot, Watch},
};

/// How often files are looked at. A change is in force after two to three looks.
const LOOK: Duration = Duration::from_secs(2);
/// How often certificates are looked at, and changed files that were refused are read once more: what was wrong may
/// have been the moment.
const MINUTE: Duration = Duration::from_secs(60);
/// How often it is told that changed files are refused.
const REMINDER: Duration = Duration::from_secs(60 * 60);
/// How often the heartbeat counts.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a configuration is built from.
#[derive(Debug)]
pub(super) struct Source(ConfigureRequest);

/// A configuration, and the state of its files after they were read.
pub(super) struct Built<C> {
    config: C,
    /// When reading began.
    since: SystemTime,
    files: Vec<PathBuf>,
    now: Snapshot,
    certificates: Vec<LoadedCertificate>,
}

impl Source {
    pub(super) fn new(request: ConfigureRequest) -> Self {
        Self(request)
    }

    /// Builds the configuration from the files as they are now; anew if there is one in force. Blocks.
    pub(super) fn build<C: PluginConfig>(&self, in_force: Option<&C>) -> Result<Built<C>, Problems> {
        let since = SystemTime::now();
        let config: C = config::build(self.0.core_configuration.as_ref(), &self.0.hcl_configuration, in_force)?;
        let (files, certificates) = (config.watched_files(), config.certificates());
        let now = Snapshot::take(&files);
        Ok(Built { config, since, files, now, certificates })
    }
}

/// What the service and its tasks share.
#[derive(Debug)]
pub(super) struct Shared<C> {
    pub(super) store: ConfigStore<C>,
    pub(super) metrics: Metrics,
    pub(super) running: Mutex<Running>,
}

/// The tasks of the configuration in force; they end when replaced.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Counts the calls of `Configure`.
    configured: u64,
    background: JoinSet<()>,
    upkeep: JoinSet<()>,
}

impl<C: PluginConfig> Shared<C> {
    /// Runs `work`, which reads files: away from the thread that attestations need, once there can be any.
    pub(super) async fn read<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        if self.store.is_empty() {
            return Ok(work());
        }
        // The panic hook has logged what happened.
        spawn_blocking(work).await.map_err(|_| Status::internal("internal error in the plugin, see its log"))
    }

    /// Puts a configuration in force and looks after it.
    pub(super) fn configure(self: &Arc<Self>, source: Arc<Source>, built: Built<C>) {
        let mut running = self.running();
        running.configured += 1;
        let upkeep = Upkeep {
            shared: Arc::downgrade(self),
            metrics: self.metrics.clone(),
            configured: running.configured,
            watch: Watch::new(built.files, built.now, built.since),
            expiry: Expiry::new(built.certificates),
            source,
            refused: None,
            retry: false,
            job: None,
        };
        self.put_in_force(&mut running, Arc::new(built.config));
        running.upkeep = JoinSet::new();
        running.upkeep.spawn(upkeep.run());
    }

    fn put_in_force(&self, running: &mut Running, config: Arc<C>) {
        self.store.replace(Arc::clone(&config));
        running.background = JoinSet::new();
        running.background.spawn(config.configured());
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after one `Configure`.
struct Upkeep<C> {
    // Weak, since the shared part holds the task.
    shared: Weak<Shared<C>>,
    metrics: Metrics,
    configured: u64,
    source: Arc<Source>,
    watch: Watch,
    expiry: Expiry,
    /// Why the files as they are now were refused, and when that was last told.
    refused: Option<(Problems, Instant)>,
    /// They are to be read once more.
    retry: bool,
    job: Option<Job<C>>,
}

/// Work on files, on a thread of its own. There is one at a time, so a file system that hangs holds up one thread.
struct Job<C> {
    work: JoinHandle<Done<C>>,
    since: Instant,
    /// It has been told that this takes long.
    told: bool,
}

enum Done<C> {
    Looked(Snapshot),
    Built {
        /// The files are not those of the last try.
        changed: bool,
        result: Result<Built<C>, Problems>,
    },
}

impl<C: PluginConfig> Upkeep<C> {
    async fn run(mut self) {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        let [mut minutes, mut heartbeats] = [MINUTE, HEARTBEAT].map(interval);
        for ticks in [&mut looks, &mut minutes, &mut heartbeats] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                _ = heartbeats.tick() => self.metrics.count("heartbeat", &[]),
                _ = minutes.tick() => self.minute(),
                _ = looks.tick() => {
                    let files = self.watch.files().to_vec();
                    self.start(move || Done::Looked(Snapshot::take(&files)));
                }
                done = async { (&mut self.job.as_mut()?.work).await.ok() }, if self.job.is_some() => {
                    self.job = None;
                    match done {
                        Some(Done::Looked(now)) => {
                            let settled = self.watch.settled(now);
                            if settled {
                                self.rebuild(true);
                            }
                        }
                        Some(Done::Built { changed, result }) => self.rebuilt(changed, result),
                        // It panicked, which is in the log.
                        None => {}
                    }
                    self.retry();
                }
            }
        }
    }

    /// Starts work on files unless there is some.
    fn start(&mut self, work: impl FnOnce() -> Done<C> + Send + 'static) {
        if self.job.is_none() {
            self.job = Some(Job { work: spawn_blocking(work), since: Instant::now(), told: false });
        }
    }

    fn minute(&mut self) {
        let ends = self.expiry.check(SystemTime::now(), &self.metrics);
        if let Some((problems, told)) = &mut self.refused
            && (ends || told.elapsed() >= REMINDER)
        {
            warn_of_refusal(problems);
            *told = Instant::now();
        }
        if let Some(job) = &mut self.job
            && !job.told
            && job.since.elapsed() >= MINUTE
        {
            job.told = true;
            tracing::warn!(
                "Reading the configuration's files takes more than a minute, changes are not seen: are they on a \
                 network mount that hangs?"
            );
        }
        self.retry = self.refused.is_some();
        self.retry();
    }

    /// Reads refused files once more, if it is time, and no look is under way.
    fn retry(&mut self) {
        if self.retry && self.job.is_none() {
            self.rebuild(false);
        }
    }

    /// Builds the configuration from the files as they are now.
    fn rebuild(&mut self, changed: bool) {
        self.retry = false;
        let source = Arc::clone(&self.source);
        let in_force = self.shared.upgrade().and_then(|shared| shared.store.snapshot().ok());
        self.start(move || Done::Built { changed, result: source.build(in_force.as_deref()) });
    }

    fn rebuilt(&mut self, changed: bool, result: Result<Built<C>, Problems>) {
        let built = match result {
            Ok(built) => built,
            Err(problems) => return self.refuse(changed, problems),
        };
        let kept = built.config.kept();
        // Read once more, and nothing has come of it.
        if !changed && self.refused.as_ref().is_some_and(|(problems, _)| *problems == kept) {
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        {
            let mut running = shared.running();
            // A newer Configure has the last word; it is about to end this task.
            if running.configured != self.configured {
                return;
            }
            shared.put_in_force(&mut running, Arc::new(built.config));
        }
        tracing::info!("Certificates reloaded");
        self.refused = None;
        self.watch.follow(built.files, built.now, built.since);
        self.expiry.replace(built.certificates);
        self.expiry.check(SystemTime::now(), &self.metrics);
        if !kept.is_empty() {
            self.refuse(true, kept);
        }
    }

    fn refuse(&mut self, changed: bool, problems: Problems) {
        let told = match &self.refused {
            Some((_, told)) if !changed => *told,
            _ => {
                warn_of_refusal(&problems);
                Instant::now()
            }
        };
        self.refused = Some((problems, told));
    }
}

fn warn_of_refusal(problems: &Problems) {
    tracing::warn!(error = %problems, "Changed files are refused, what was in use before stays in use");
}

#[cfg(test)]
mod tests;
