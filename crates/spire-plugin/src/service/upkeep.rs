// SPDX-License-Identifier: Apache-2.0
//! What goes on after a `Configure`: the configuration's own background work, the watch over its files and
//! certificates, and the heartbeat.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use spire_proto::config::ConfigureRequest;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{ConfigStore, Metrics, PluginConfig, Problems, config, expiry::Expiry, reload::Watch};

/// How often files are looked at. A change is in force after two to three looks.
const LOOK: Duration = Duration::from_secs(2);
/// How often certificates are looked at, and changed files that were refused are read once more: what was wrong may
/// have been the moment.
const MINUTE: Duration = Duration::from_secs(60);
/// How often the heartbeat counts.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a configuration is built from.
#[derive(Debug)]
pub(super) struct Source {
    request: ConfigureRequest,
    /// When it was built for the first time.
    since: SystemTime,
}

impl Source {
    pub(super) fn now(request: ConfigureRequest) -> Self {
        Self { request, since: SystemTime::now() }
    }

    pub(super) fn build<C: PluginConfig>(&self) -> Result<C, Problems> {
        config::build(self.request.core_configuration.as_ref(), &self.request.hcl_configuration)
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
    /// Puts `config` in force and looks after it.
    pub(super) fn configure(self: &Arc<Self>, source: Source, config: C) {
        let config = Arc::new(config);
        let mut running = self.running();
        running.configured += 1;
        let upkeep = Upkeep {
            shared: Arc::downgrade(self),
            metrics: self.metrics.clone(),
            configured: running.configured,
            watch: Watch::new(config.watched_files(), source.since),
            expiry: Expiry::new(config.certificates()),
            source,
            refused: false,
        };
        self.put_in_force(&mut running, config);
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
    source: Source,
    watch: Watch,
    expiry: Expiry,
    /// Whether the files as they are now were refused.
    refused: bool,
}

impl<C: PluginConfig> Upkeep<C> {
    async fn run(mut self) {
        let [mut looks, mut minutes, mut heartbeats] = [LOOK, MINUTE, HEARTBEAT].map(|period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        loop {
            tokio::select! {
                _ = heartbeats.tick() => self.metrics.count("heartbeat", &[]),
                _ = minutes.tick() => {
                    if self.refused {
                        self.rebuild(false);
                    }
                    self.expiry.check(SystemTime::now(), &self.metrics);
                }
                _ = looks.tick() => {
                    if self.watch.settled() {
                        self.rebuild(true);
                    }
                }
            }
        }
    }

    /// Builds the configuration from the files as they are now. `changed`: they are not those of the last try.
    fn rebuild(&mut self, changed: bool) {
        let since = SystemTime::now();
        let config = match self.source.build::<C>() {
            Ok(config) => Arc::new(config),
            Err(problems) => {
                if changed {
                    tracing::warn!(error = %problems, "Changed files are refused, what was in use before stays in use");
                }
                self.refused = true;
                return;
            }
        };
        let Some(shared) = self.shared.upgrade() else { return };
        let (files, certificates) = (config.watched_files(), config.certificates());
        {
            let mut running = shared.running();
            // A newer Configure has the last word; it is about to end this task.
            if running.configured != self.configured {
                return;
            }
            shared.put_in_force(&mut running, config);
        }
        tracing::info!("Certificates reloaded");
        self.refused = false;
        self.watch.follow(files, since);
        self.expiry.replace(certificates);
        self.expiry.check(SystemTime::now(), &self.metrics);
    }
}

#[cfg(test)]
mod tests;
