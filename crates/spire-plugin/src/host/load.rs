// SPDX-License-Identifier: Apache-2.0
//! Loading, configuring and unloading a plugin.

use std::{marker::PhantomData, time::Duration};

use go_plugin::host::{ExitReport, Launch, LaunchError, Plugin};
use spire_proto::{
    config::{ConfigureRequest, CoreConfiguration, ValidateRequest, config_client::ConfigClient},
    init::{DeinitRequest, InitRequest, init_client::InitClient},
};
use tonic::{Code, Status, service::Routes, transport::Channel};

use super::{NodeAttestorSide, code, quoted};
use crate::service::CONFIG;

/// Broker number of all of SPIRE's host services.
const HOST_SERVICES: u32 = 1;

/// Longest time for `Init`, `Configure` and `Validate` each. SPIRE itself has none, except 30 s for a whole
/// `spire-server validate`.
const ANSWER: Duration = Duration::from_secs(30);

/// Longest time for `Deinit`, which is SPIRE's.
const DEINIT: Duration = Duration::from_secs(10);

/// Why a plugin was not loaded. The texts are those SPIRE ends its start with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The process did not become a plugin.
    #[error("failed to load plugin {name:?}: failed to launch plugin")]
    Launch {
        /// Configured name of the plugin.
        name: String,
        /// What went wrong.
        source: LaunchError,
    },
    /// `Init` failed.
    #[error("failed to load plugin {name:?}: rpc error: code = {code:?} desc = {text}")]
    Init {
        /// Configured name of the plugin.
        name: String,
        /// gRPC code.
        code: Code,
        /// The plugin's text.
        text: String,
    },
    /// The plugin does not serve the node attestor service of this side: it may be the other side's.
    #[error("failed to bind plugin {name:?}: no supported plugin interface found in: {}", quoted(services))]
    NoInterface {
        /// Configured name of the plugin.
        name: String,
        /// What it serves.
        services: Vec<String>,
    },
    /// The plugin has data and takes none.
    #[error("failed to configure plugin {name:?}: no supported configuration interface found")]
    NoConfiguration {
        /// Configured name of the plugin.
        name: String,
    },
    /// The plugin refuses its configuration.
    #[error("failed to configure plugin {name:?}: rpc error: code = {code:?} desc = {text}")]
    Configure {
        /// Configured name of the plugin.
        name: String,
        /// gRPC code.
        code: Code,
        /// The plugin's text.
        text: String,
    },
}

/// A plugin that has been launched, initialized and bound. Dropping it kills the process.
#[derive(Debug)]
pub struct LoadedPlugin<S> {
    name: String,
    core: CoreConfiguration,
    plugin: Plugin,
    configurable: bool,
    side: PhantomData<fn() -> S>,
}

impl<S: NodeAttestorSide> LoadedPlugin<S> {
    /// Launches the plugin, calls `Init` and looks at the services it names.
    pub(super) async fn start(name: String, trust_domain: String, launch: Launch) -> Result<Self, LoadError> {
        // SPIRE announces its host services to every plugin. Here there are none behind the announcement.
        let launch = launch.handshake(crate::handshake()).host_services(HOST_SERVICES, Routes::default());
        let plugin = match launch.start().await {
            Ok(plugin) => plugin,
            Err(source) => return Err(LoadError::Launch { name, source }),
        };
        let mut init = InitClient::new(plugin.channel());
        let services = match within(ANSWER, init.init(InitRequest { host_service_names: Vec::new() })).await {
            Ok(response) => response.plugin_service_names,
            Err(status) => {
                return Err(LoadError::Init { name, code: code(&status), text: status.message().to_owned() });
            }
        };
        if !services.iter().any(|service| service == S::SERVICE) {
            return Err(LoadError::NoInterface { name, services });
        }
        for service in services.iter().filter(|service| *service != S::SERVICE && *service != CONFIG) {
            tracing::warn!(plugin = name, plugin_service = service, "unsupported plugin service found");
        }
        let configurable = services.iter().any(|service| service == CONFIG);
        tracing::debug!(plugin = name, pid = plugin.pid(), "plugin loaded");
        Ok(Self { name, core: CoreConfiguration { trust_domain }, plugin, configurable, side: PhantomData })
    }

    /// Configures the plugin, for the first time or anew. A plugin without configuration takes empty data only.
    ///
    /// # Errors
    /// [`LoadError::NoConfiguration`] or [`LoadError::Configure`]. The plugin stays loaded.
    pub async fn configure(&self, data: &str) -> Result<(), LoadError> {
        if !self.configurable {
            return self.unconfigurable(data);
        }
        let request =
            ConfigureRequest { core_configuration: Some(self.core.clone()), hcl_configuration: data.to_owned() };
        let mut client = ConfigClient::new(self.channel());
        within(ANSWER, client.configure(request)).await.map(drop).map_err(|status| self.refused(&status))
    }

    /// Has the plugin check `data` without applying it, and returns what is wrong with it.
    ///
    /// As in SPIRE only notes count; a plugin that cannot validate has none.
    ///
    /// # Errors
    /// [`LoadError::NoConfiguration`], or [`LoadError::Configure`] if the call itself fails.
    pub async fn validate(&self, data: &str) -> Result<Vec<String>, LoadError> {
        if !self.configurable {
            return self.unconfigurable(data).map(|()| Vec::new());
        }
        let request =
            ValidateRequest { core_configuration: Some(self.core.clone()), hcl_configuration: data.to_owned() };
        let mut client = ConfigClient::new(self.channel());
        match within(ANSWER, client.validate(request)).await {
            Ok(response) => Ok(response.notes),
            Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
            Err(status) => Err(self.refused(&status)),
        }
    }

    /// Process ID of the plugin.
    pub fn pid(&self) -> u32 {
        self.plugin.pid()
    }

    /// Resolves when the process has ended, for whatever reason. SPIRE neither restarts it nor ends itself.
    pub async fn exited(&self) -> ExitReport {
        self.plugin.exited().await
    }

    /// Unloads the plugin: `Deinit`, then go-plugin's shutdown, then, after its grace period, a kill.
    pub async fn unload(self) -> ExitReport {
        match within(DEINIT, InitClient::new(self.channel()).deinit(DeinitRequest {})).await {
            Err(status) if status.code() != Code::Unimplemented => {
                tracing::warn!(plugin = self.name, error = status.message(), "failed to deinitialize plugin");
            }
            _ => {}
        }
        self.plugin.shutdown().await
    }

    pub(super) fn channel(&self) -> Channel {
        self.plugin.channel()
    }

    fn unconfigurable(&self, data: &str) -> Result<(), LoadError> {
        if data.is_empty() { Ok(()) } else { Err(LoadError::NoConfiguration { name: self.name.clone() }) }
    }

    fn refused(&self, status: &Status) -> LoadError {
        LoadError::Configure { name: self.name.clone(), code: code(status), text: status.message().to_owned() }
    }
}

/// The answer to a call, if it comes in time.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("the plugin has not answered within {limit:?}"))),
    }
}
