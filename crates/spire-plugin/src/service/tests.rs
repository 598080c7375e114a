// SPDX-License-Identifier: Apache-2.0
use std::sync::{Arc, LazyLock};

use spire_proto::{
    agent_nodeattestor::{Challenge, PayloadOrChallengeResponse},
    config::{CoreConfiguration, config_client::ConfigClient},
    init::init_client::InitClient,
    server_nodeattestor::{AttestRequest, AttestResponse},
};
use tokio::sync::Semaphore;
use tonic::{Code, Streaming, codegen::BoxStream, transport::Channel};

use super::*;
use crate::{CoreConfig, Options, test_support::channel};

#[derive(Debug, PartialEq)]
struct Settings {
    trust_domain: String,
    host: String,
    port: u16,
}

impl PluginConfig for Settings {
    fn build(core: &CoreConfig, options: &mut Options) -> Option<Self> {
        let settings = Self {
            trust_domain: core.trust_domain.to_string(),
            host: options.string("host", "127.0.0.1"),
            port: options.port("port", 9002),
        };
        options.ok().then_some(settings)
    }
}

struct Attestor(ConfigStore<Settings>);

#[tonic::async_trait]
impl agent_nodeattestor::node_attestor_server::NodeAttestor for Attestor {
    type AidAttestationStream = BoxStream<PayloadOrChallengeResponse>;

    async fn aid_attestation(
        &self,
        _: Request<Streaming<Challenge>>,
    ) -> Result<Response<Self::AidAttestationStream>, Status> {
        Err(Status::unavailable(self.0.snapshot()?.host.clone()))
    }
}

#[tonic::async_trait]
impl server_nodeattestor::node_attestor_server::NodeAttestor for Attestor {
    type AttestStream = BoxStream<AttestResponse>;

    async fn attest(&self, _: Request<Streaming<AttestRequest>>) -> Result<Response<Self::AttestStream>, Status> {
        Err(Status::unavailable(self.0.snapshot()?.host.clone()))
    }
}

fn plugin() -> (ConfigStore<Settings>, Channel) {
    let store = ConfigStore::new();
    let channel = channel(agent_routes(store.clone(), Attestor(store.clone()), &Metrics::nowhere()));
    (store, channel)
}

pub(super) fn core(trust_domain: &str) -> Option<CoreConfiguration> {
    Some(CoreConfiguration { trust_domain: trust_domain.to_owned() })
}

pub(super) async fn configure(channel: &Channel, core: Option<CoreConfiguration>, text: &str) -> Result<(), Status> {
    let request = ConfigureRequest { core_configuration: core, hcl_configuration: text.to_owned() };
    ConfigClient::new(channel.clone()).configure(request).await.map(drop)
}

async fn validate(channel: &Channel, core: Option<CoreConfiguration>, text: &str) -> ValidateResponse {
    let request = ValidateRequest { core_configuration: core, hcl_configuration: text.to_owned() };
    ConfigClient::new(channel.clone()).validate(request).await.unwrap().into_inner()
}

async fn attest(channel: &Channel) -> Status {
    let requests = tokio_stream::pending::<Challenge>();
    let mut client = agent_nodeattestor::node_attestor_client::NodeAttestorClient::new(channel.clone());
    client.aid_attestation(requests).await.unwrap_err()
}

#[tokio::test]
async fn init_names_the_services() {
    let store = ConfigStore::<Settings>::new();
    for (routes, attestor) in [
        (
            agent_routes(store.clone(), Attestor(store.clone()), &Metrics::nowhere()),
            "spire.plugin.agent.nodeattestor.v1.NodeAttestor",
        ),
        (
            server_routes(store.clone(), Attestor(store.clone()), &Metrics::nowhere()),
            "spire.plugin.server.nodeattestor.v1.NodeAttestor",
        ),
    ] {
        let mut client = InitClient::new(channel(routes));
        let host_service_names = vec!["spire.hostservice.common.metrics.v1.Metrics".to_owned()];
        let response = client.init(InitRequest { host_service_names }).await.unwrap().into_inner();
        assert_eq!(response.plugin_service_names, [attestor, "spire.service.common.config.v1.Config"]);
        client.deinit(DeinitRequest {}).await.unwrap();
    }
}

#[tokio::test]
async fn a_plugin_is_configured_and_configured_again() {
    let (store, channel) = plugin();
    let status = attest(&channel).await;
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not configured"));

    configure(&channel, core("example.org"), "").await.unwrap();
    let first = store.snapshot().unwrap();
    assert_eq!(*first, Settings { trust_domain: "example.org".into(), host: "127.0.0.1".into(), port: 9002 });
    assert_eq!(attest(&channel).await.message(), "127.0.0.1");

    configure(&channel, core("example.org"), "host = \"two\"\nport = \"1\"").await.unwrap();
    assert_eq!(attest(&channel).await.message(), "two");
    assert_eq!(first.host, "127.0.0.1", "a snapshot keeps what it was");
}

#[tokio::test]
async fn a_refused_configuration_has_every_problem_and_changes_nothing() {
    let (store, channel) = plugin();
    configure(&channel, core("example.org"), "host = \"old\"").await.unwrap();
    let trust_domain = "the trust domain of the core configuration is malformed: trust domain characters are limited \
                        to lowercase letters, numbers, dots, dashes, and underscores";
    for (core, text, problems) in [
        (None, "", vec!["the request has no core configuration"]),
        (core(""), "", vec!["the core configuration has no trust domain"]),
        (core("spiffe://example.org"), "", vec![trust_domain]),
        (core("Example.org"), "port = ;", vec![trust_domain, "plugin data: line 1, column 8: illegal character `;`"]),
        (
            core("example.org"),
            "a",
            vec!["plugin data: line 1, column 2: expected `=` or `{` after the key, found the end of the text"],
        ),
        (
            core("example.org"),
            "port = [",
            vec![
                "plugin data: line 1, column 9: expected a value or `]` (text needs double quotes), found the end of the text",
            ],
        ),
        (
            core("example.org"),
            &" ".repeat((1 << 20) + 1),
            vec!["plugin data: the text has 1048577 bytes, at most 1048576 are accepted"],
        ),
        (
            core("example.org"),
            "port = 0\nhots = \"x\"",
            vec![
                "`port`: found `0`, allowed is a port from 1 to 65535",
                "`hots`: unknown option, did you mean `host`?",
            ],
        ),
    ] {
        let status = configure(&channel, core.clone(), text).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, problems.join("; ").as_str()));
        let response = validate(&channel, core, text).await;
        assert_eq!((response.valid, response.notes), (false, problems.into_iter().map(str::to_owned).collect()));
        assert_eq!(store.snapshot().unwrap().host, "old");
    }
}

#[tokio::test]
async fn validate_applies_nothing_and_has_no_note_for_a_good_configuration() {
    let (store, channel) = plugin();
    let response = validate(&channel, core("example.org"), "host = \"x\"").await;
    assert_eq!((response.valid, response.notes), (true, vec![]));
    assert_eq!(store.snapshot().unwrap_err().code(), Code::FailedPrecondition);
}

/// Counts permits up while its background work runs.
#[derive(Debug)]
struct Background;

static STARTED: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(0));
static ENDED: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(0));

impl PluginConfig for Background {
    fn build(_: &CoreConfig, _: &mut Options) -> Option<Self> {
        Some(Self)
    }

    async fn configured(self: Arc<Self>) {
        struct Ended;
        impl Drop for Ended {
            fn drop(&mut self) {
                ENDED.add_permits(1);
            }
        }
        let _ended = Ended;
        STARTED.add_permits(1);
        std::future::pending().await
    }
}

#[tokio::test]
async fn background_work_follows_configure_alone_and_ends_with_the_next() {
    let service = proto::config_server::ConfigServer::new(ConfigService::new(
        ConfigStore::<Background>::new(),
        Metrics::nowhere(),
    ));
    let channel = channel(Routes::new(service));
    assert!(validate(&channel, core("td"), "").await.valid);
    assert!(configure(&channel, core(""), "").await.is_err());
    configure(&channel, core("td"), "").await.unwrap();
    STARTED.acquire().await.unwrap().forget();
    assert_eq!((STARTED.available_permits(), ENDED.available_permits()), (0, 0));

    configure(&channel, core("td"), "").await.unwrap();
    STARTED.acquire().await.unwrap().forget();
    ENDED.acquire().await.unwrap().forget();
    assert_eq!((STARTED.available_permits(), ENDED.available_permits()), (0, 0));
}
