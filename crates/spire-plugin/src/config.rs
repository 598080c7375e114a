// SPDX-License-Identifier: Apache-2.0
//! A plugin's configuration: how it is built from SPIRE's request, and the snapshot that attestations take.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use spire_proto::config::CoreConfiguration;
use tonic::Status;

use crate::{LoadedCertificate, Options, Problems, TrustDomain, hcl};

/// What SPIRE itself is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoreConfig {
    /// Trust domain of the SPIRE server or agent that loads the plugin.
    pub trust_domain: TrustDomain,
}

impl CoreConfig {
    /// Of a member of `trust_domain`.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain }
    }
}

/// The validated configuration of a plugin.
pub trait PluginConfig: Sized + Send + Sync + 'static {
    /// Builds the configuration out of its options, for `Configure` and `Validate` alike.
    ///
    /// Reads every option and notes every problem, then returns `None` if there is any. Files that the options name
    /// may be read. No network and no TPM: SPIRE validates without side effects.
    fn build(core: &CoreConfig, options: &mut Options) -> Option<Self>;

    /// Builds it again out of the same options, when [`watched_files`](Self::watched_files) have changed. Files that
    /// cannot be used need not keep out the others: what `now`, the configuration in force, has of them may be kept.
    fn rebuild(core: &CoreConfig, options: &mut Options, now: &Self) -> Option<Self> {
        let _ = now;
        Self::build(core, options)
    }

    /// Why [`rebuild`](Self::rebuild) has kept something.
    fn kept(&self) -> Problems {
        Problems::default()
    }

    /// Files and folders that [`build`](Self::build) read. When one of them changes, the configuration is built anew.
    /// For a folder that means the files in it.
    fn watched_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Certificates whose end an operator has to know of beforehand.
    fn certificates(&self) -> Vec<LoadedCertificate> {
        Vec::new()
    }

    /// Runs in the background after a `Configure` that was accepted and after a rebuild, for example to open
    /// connections in advance.
    ///
    /// Not called for `Validate`. The next configuration ends it where it is.
    fn configured(self: Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        async {}
    }
}

/// Builds a configuration out of SPIRE's request, or tells everything that is wrong with it.
pub(crate) fn build<C: PluginConfig>(
    core: Option<&CoreConfiguration>,
    text: &str,
    now: Option<&C>,
) -> Result<C, Problems> {
    let mut problems = Problems::default();
    let core = match core {
        None => Err("the request has no core configuration".to_owned()),
        Some(core) if core.trust_domain.is_empty() => Err("the core configuration has no trust domain".to_owned()),
        Some(core) => core
            .trust_domain
            .parse()
            .map(CoreConfig::new)
            .map_err(|error| format!("the trust domain of the core configuration is malformed: {error}")),
    };
    let body = hcl::parse(text).map_err(|error| format!("plugin data: {error}"));
    match (core, body) {
        (Ok(core), Ok(body)) => {
            let mut options = Options::new(body);
            let config = match now {
                None => C::build(&core, &mut options),
                Some(now) => C::rebuild(&core, &mut options, now),
            };
            problems = options.finish();
            match config {
                Some(config) if problems.is_empty() => return Ok(config),
                None if problems.is_empty() => problems.push("the configuration was refused without a reason"),
                _ => {}
            }
        }
        (core, body) => [core.err(), body.err()].into_iter().flatten().for_each(|text| problems.push(text)),
    }
    Err(problems)
}

/// The configuration in force. Clones share it.
#[derive(Debug)]
pub struct ConfigStore<C>(Arc<ArcSwapOption<C>>);

impl<C> ConfigStore<C> {
    /// A store without configuration.
    pub fn new() -> Self {
        Self(Arc::new(ArcSwapOption::empty()))
    }

    /// The configuration in force. An attestation takes one snapshot and keeps to it.
    ///
    /// Before the first successful `Configure`: `FailedPrecondition`, `not configured`.
    pub fn snapshot(&self) -> Result<Arc<C>, Status> {
        self.0.load_full().ok_or_else(|| Status::failed_precondition("not configured"))
    }

    /// Whether there has been no successful `Configure` yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load().is_none()
    }

    pub(crate) fn replace(&self, config: Arc<C>) {
        self.0.store(Some(config));
    }
}

impl<C> Clone for ConfigStore<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Default for ConfigStore<C> {
    fn default() -> Self {
        Self::new()
    }
}
