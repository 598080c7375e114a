// SPDX-License-Identifier: Apache-2.0
//! SPIRE's `Init` and `Config` services.

use std::sync::{Arc, Mutex, PoisonError};

use spire_proto::{
    agent_nodeattestor, config as proto,
    config::{ConfigureRequest, ConfigureResponse, ValidateRequest, ValidateResponse},
    init::{self, DeinitRequest, DeinitResponse, InitRequest, InitResponse},
    server_nodeattestor,
};
use tokio::task::AbortHandle;
use tonic::{Request, Response, Status, service::Routes};

use crate::{
    ConfigStore, Problems,
    config::{self, PluginConfig},
};

/// gRPC name of the agent's node attestor service.
pub const AGENT_NODE_ATTESTOR: &str = agent_nodeattestor::node_attestor_server::SERVICE_NAME;
/// gRPC name of the server's node attestor service.
pub const SERVER_NODE_ATTESTOR: &str = server_nodeattestor::node_attestor_server::SERVICE_NAME;
/// gRPC name of the configuration service.
pub const CONFIG: &str = proto::config_server::SERVICE_NAME;

/// Largest attestation message taken, in bytes. SPIRE itself passes on up to 4 MiB of what a node nobody knows sends;
/// the longest message of the two plugins, a quote over all PCRs, takes 26 KiB.
const MAX_MESSAGE: usize = 128 << 10;

/// What an agent plugin serves to SPIRE: `attestor`, configuration into `store`, and `Init`.
pub fn agent_routes<C, A>(store: ConfigStore<C>, attestor: A) -> Routes
where
    C: PluginConfig,
    A: agent_nodeattestor::node_attestor_server::NodeAttestor,
{
    Routes::new(init::init_server::InitServer::new(InitService::new([AGENT_NODE_ATTESTOR, CONFIG])))
        .add_service(proto::config_server::ConfigServer::new(ConfigService::new(store)))
        .add_service(
            agent_nodeattestor::node_attestor_server::NodeAttestorServer::new(attestor)
                .max_decoding_message_size(MAX_MESSAGE),
        )
}

/// What a server plugin serves to SPIRE: `attestor`, configuration into `store`, and `Init`.
pub fn server_routes<C, A>(store: ConfigStore<C>, attestor: A) -> Routes
where
    C: PluginConfig,
    A: server_nodeattestor::node_attestor_server::NodeAttestor,
{
    Routes::new(init::init_server::InitServer::new(InitService::new([SERVER_NODE_ATTESTOR, CONFIG])))
        .add_service(proto::config_server::ConfigServer::new(ConfigService::new(store)))
        .add_service(
            server_nodeattestor::node_attestor_server::NodeAttestorServer::new(attestor)
                .max_decoding_message_size(MAX_MESSAGE),
        )
}

/// Tells SPIRE which services the plugin serves. The plugin uses no host service.
#[derive(Debug, Clone)]
pub struct InitService {
    services: [&'static str; 2],
}

impl InitService {
    /// A plugin that serves its type's service and [`CONFIG`].
    pub fn new(services: [&'static str; 2]) -> Self {
        Self { services }
    }
}

#[tonic::async_trait]
impl init::init_server::Init for InitService {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        tracing::debug!(host_services = request.get_ref().host_service_names.join(" "), "plugin initialized");
        let plugin_service_names = self.services.map(str::to_owned).to_vec();
        Ok(Response::new(InitResponse { plugin_service_names }))
    }

    async fn deinit(&self, _: Request<DeinitRequest>) -> Result<Response<DeinitResponse>, Status> {
        tracing::debug!("plugin about to be unloaded");
        Ok(Response::new(DeinitResponse {}))
    }
}

/// Takes and checks the plugin's configuration.
///
/// `Configure` builds the new configuration completely, then puts it in force; a configuration with problems is
/// `InvalidArgument` with all of them in one text, and the old one stays in force. `Validate` is always OK and has one
/// note for each problem, and none without one, since SPIRE takes any note for a failure.
#[derive(Debug)]
pub struct ConfigService<C> {
    store: ConfigStore<C>,
    background: Mutex<Option<AbortHandle>>,
}

impl<C: PluginConfig> ConfigService<C> {
    /// Puts configurations into `store`.
    pub fn new(store: ConfigStore<C>) -> Self {
        Self { store, background: Mutex::new(None) }
    }

    fn apply(&self, config: C) {
        let config = Arc::new(config);
        self.store.replace(Arc::clone(&config));
        let task = tokio::spawn(config.configured()).abort_handle();
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = background.replace(task) {
            old.abort();
        }
    }
}

#[tonic::async_trait]
impl<C: PluginConfig> proto::config_server::Config for ConfigService<C> {
    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<ConfigureResponse>, Status> {
        let request = request.into_inner();
        let config = config::build(request.core_configuration.as_ref(), &request.hcl_configuration)
            .map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        self.apply(config);
        tracing::debug!("configuration in force");
        Ok(Response::new(ConfigureResponse {}))
    }

    async fn validate(&self, request: Request<ValidateRequest>) -> Result<Response<ValidateResponse>, Status> {
        let request = request.into_inner();
        let result = config::build::<C>(request.core_configuration.as_ref(), &request.hcl_configuration);
        let notes = result.err().map(Problems::into_texts).unwrap_or_default();
        Ok(Response::new(ValidateResponse { valid: notes.is_empty(), notes }))
    }
}

#[cfg(test)]
mod tests;
