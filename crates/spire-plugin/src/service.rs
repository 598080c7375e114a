// SPDX-License-Identifier: Apache-2.0
//! SPIRE's `Init` and `Config` services.

mod upkeep;

use std::sync::{Arc, Mutex};

use spire_proto::{
    agent_nodeattestor, config as proto,
    config::{ConfigureRequest, ConfigureResponse, ValidateRequest, ValidateResponse},
    init::{self, DeinitRequest, DeinitResponse, InitRequest, InitResponse},
    server_nodeattestor,
};
use tonic::{Request, Response, Status, service::Routes};

use upkeep::{Shared, Source};

use crate::{
    ConfigStore, Metrics, Problems,
    config::{self, PluginConfig},
};

/// gRPC name of the agent's node attestor service.
pub const AGENT_NODE_ATTESTOR: &str = agent_nodeattestor::node_attestor_server::SERVICE_NAME;
/// gRPC name of the server's node attestor service.
pub const SERVER_NODE_ATTESTOR: &str = server_nodeattestor::node_attestor_server::SERVICE_NAME;
/// gRPC name of the configuration service.
pub const CONFIG: &str = proto::config_server::SERVICE_NAME;

/// Largest attestation message that an agent's plugin takes, in bytes: a challenge, of which SPIRE itself passes on up
/// to 4 MiB. The two plugins' own take less than a KiB.
const MAX_AGENT_MESSAGE: usize = 128 << 10;

/// Largest attestation message that a server's plugin takes, in bytes. SPIRE itself passes on up to 4 MiB of what a node
/// nobody knows sends. The longest of the two plugins, a quote with a boot log, takes up to 512 KiB; the plugin has
/// tighter bounds for each message.
const MAX_SERVER_MESSAGE: usize = 768 << 10;

/// What an agent plugin serves to SPIRE: `attestor`, configuration into `store`, and `Init`. From then on `metrics` has
/// a heartbeat and the days that certificates have left, besides what the plugin itself adds.
pub fn agent_routes<C, A>(store: ConfigStore<C>, attestor: A, metrics: &Metrics) -> Routes
where
    C: PluginConfig,
    A: agent_nodeattestor::node_attestor_server::NodeAttestor,
{
    let services = [AGENT_NODE_ATTESTOR, CONFIG];
    Routes::new(init::init_server::InitServer::new(InitService::new(services, metrics.clone())))
        .add_service(proto::config_server::ConfigServer::new(ConfigService::new(store, metrics.clone())))
        .add_service(
            agent_nodeattestor::node_attestor_server::NodeAttestorServer::new(attestor)
                .max_decoding_message_size(MAX_AGENT_MESSAGE),
        )
}

/// What a server plugin serves to SPIRE: `attestor`, configuration into `store`, and `Init`. For `metrics` see
/// [`agent_routes`].
pub fn server_routes<C, A>(store: ConfigStore<C>, attestor: A, metrics: &Metrics) -> Routes
where
    C: PluginConfig,
    A: server_nodeattestor::node_attestor_server::NodeAttestor,
{
    let services = [SERVER_NODE_ATTESTOR, CONFIG];
    Routes::new(init::init_server::InitServer::new(InitService::new(services, metrics.clone())))
        .add_service(proto::config_server::ConfigServer::new(ConfigService::new(store, metrics.clone())))
        .add_service(
            server_nodeattestor::node_attestor_server::NodeAttestorServer::new(attestor)
                .max_decoding_message_size(MAX_SERVER_MESSAGE),
        )
}

/// Tells SPIRE which services the plugin serves. Of SPIRE's own services the plugin uses the metrics, where they are
/// offered.
#[derive(Debug, Clone)]
pub struct InitService {
    services: [&'static str; 2],
    metrics: Metrics,
}

impl InitService {
    /// A plugin that serves its type's service and [`CONFIG`].
    pub fn new(services: [&'static str; 2], metrics: Metrics) -> Self {
        Self { services, metrics }
    }
}

#[tonic::async_trait]
impl init::init_server::Init for InitService {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        let host_services = &request.get_ref().host_service_names;
        tracing::debug!(host_services = host_services.join(" "), "plugin initialized");
        self.metrics.offered(host_services);
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
///
/// After a `Configure` the files that the configuration was built from are looked at every 2 s. When they have changed,
/// and have come to rest, the configuration is built anew from the same text and put in force as by a `Configure`;
/// attestations under way keep what they have. If that fails, the old one stays and the problems are logged: at once,
/// every hour that it stays so, and when meanwhile a certificate in use is about to end. What a configuration keeps of
/// the one before it, instead of what the files have now, is logged in the same way.
///
/// Looks and reading go on a thread of their own, which ends after each: a network mount that hangs holds up neither
/// attestations nor the heartbeat. There is one at a time. Only the first `Configure` reads where it is: until it is
/// done there is nothing to hold up.
#[derive(Debug)]
pub struct ConfigService<C> {
    shared: Arc<Shared<C>>,
    /// Held by a `Configure` from beginning to end, so that the last to begin has the last word.
    turn: tokio::sync::Mutex<()>,
}

impl<C: PluginConfig> ConfigService<C> {
    /// Puts configurations into `store`.
    pub fn new(store: ConfigStore<C>, metrics: Metrics) -> Self {
        Self { shared: Arc::new(Shared { store, metrics, running: Mutex::default() }), turn: Default::default() }
    }
}

#[tonic::async_trait]
impl<C: PluginConfig> proto::config_server::Config for ConfigService<C> {
    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<ConfigureResponse>, Status> {
        let _turn = self.turn.lock().await;
        let source = Arc::new(Source::new(request.into_inner()));
        let reading = Arc::clone(&source);
        let built = self.shared.read(move || reading.build(None)).await?;
        let built = built.map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        self.shared.configure(source, built);
        tracing::debug!("configuration in force");
        Ok(Response::new(ConfigureResponse {}))
    }

    async fn validate(&self, request: Request<ValidateRequest>) -> Result<Response<ValidateResponse>, Status> {
        let ValidateRequest { core_configuration: core, hcl_configuration: text } = request.into_inner();
        let validate = move || config::build::<C>(core.as_ref(), &text, None).err();
        let notes = self.shared.read(validate).await?.map(Problems::into_texts).unwrap_or_default();
        Ok(Response::new(ValidateResponse { valid: notes.is_empty(), notes }))
    }
}

#[cfg(test)]
mod tests;
