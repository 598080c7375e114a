// SPDX-License-Identifier: Apache-2.0
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use spire_proto::{
    agent_nodeattestor::{Challenge, PayloadOrChallengeResponse},
    config::{CoreConfiguration, config_client::ConfigClient},
    init::init_client::InitClient,
    server_nodeattestor::{AttestRequest, AttestResponse},
};
use tokio::sync::Semaphore;
use tonic::{Code, Streaming, codegen::BoxStream, transport::Channel};

use super::*;
use crate::{
    CoreConfig, LoadedCertificate, Options,
    test_support::{Log, channel},
};

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

fn core(trust_domain: &str) -> Option<CoreConfiguration> {
    Some(CoreConfiguration { trust_domain: trust_domain.to_owned() })
}

async fn configure(channel: &Channel, core: Option<CoreConfiguration>, text: &str) -> Result<(), Status> {
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

/// A configuration out of one file, which holds its number.
#[derive(Debug)]
struct FromFile {
    number: u32,
    path: PathBuf,
}

impl PluginConfig for FromFile {
    fn build(_: &CoreConfig, options: &mut Options) -> Option<Self> {
        let path = PathBuf::from(options.string("file", ""));
        let mut read = |key: &str, path: &Path| match fs::read_to_string(path) {
            Ok(text) => text.parse::<u32>().map_err(|_| options.refuse(key, &text, "a number")).ok(),
            Err(error) => {
                options.problem(format!("`{key}`: {}", error.kind()));
                None
            }
        };
        let (cert, key) = (read("cert", &path), read("key", &path.with_extension("key")));
        Some(Self { number: cert.zip(key).filter(|(cert, key)| cert == key)?.0, path })
    }

    fn watched_files(&self) -> Vec<PathBuf> {
        vec![self.path.clone(), self.path.with_extension("key")]
    }

    fn certificates(&self) -> Vec<LoadedCertificate> {
        let not_before = SystemTime::now() - DAY;
        let not_after = not_before + DAY * self.number;
        vec![LoadedCertificate { option: "file", path: "cert".into(), not_before, not_after }]
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Reloading {
    dir: tempfile::TempDir,
    store: ConfigStore<FromFile>,
    channel: Channel,
    log: Log,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Reloading {
    async fn start() -> Self {
        let log = Log::default();
        let guard = log.listen();
        let store = ConfigStore::new();
        let service = ConfigService::new(store.clone(), Metrics::nowhere());
        let channel = channel(Routes::new(proto::config_server::ConfigServer::new(service)));
        let this = Self { dir: tempfile::tempdir().unwrap(), store, channel, log, _guard: guard };
        this.write(10);
        this.configure().await;
        // The file was written within a clock step of being read, so it counts as changed once.
        this.looks(3).await;
        this.log.take();
        this
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("file")
    }

    fn write(&self, number: u32) {
        fs::write(self.path(), number.to_string()).unwrap();
        fs::write(self.path().with_extension("key"), number.to_string()).unwrap();
    }

    async fn configure(&self) {
        configure(&self.channel, core("td"), &format!("file = {:?}", self.path())).await.unwrap();
    }

    async fn looks(&self, count: u32) {
        tokio::time::sleep(upkeep::LOOK * count + Duration::from_millis(1)).await;
    }

    fn number(&self) -> u32 {
        self.store.snapshot().unwrap().number
    }
}

#[tokio::test(start_paused = true)]
async fn changed_files_make_a_new_configuration_and_running_work_keeps_the_old() {
    let plugin = Reloading::start().await;
    let before = plugin.store.snapshot().unwrap();
    plugin.write(20);
    plugin.looks(1).await;
    assert_eq!(plugin.number(), 10, "one look is not enough");
    plugin.looks(1).await;
    assert_eq!((before.number, plugin.number()), (10, 20));
    assert_eq!(plugin.log.take(), ["INFO Certificates reloaded"]);
    plugin.looks(10).await;
    assert_eq!(plugin.log.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn half_a_pair_is_not_read() {
    let plugin = Reloading::start().await;
    fs::write(plugin.path(), "20").unwrap();
    plugin.looks(1).await;
    fs::write(plugin.path().with_extension("key"), "20").unwrap();
    plugin.looks(2).await;
    assert_eq!(plugin.number(), 20);
    assert_eq!(plugin.log.take(), ["INFO Certificates reloaded"]);
}

#[tokio::test(start_paused = true)]
async fn refused_files_keep_the_old_configuration_and_are_told_once() {
    let plugin = Reloading::start().await;
    let refused = "WARN Changed files are refused, what was in use before stays in use error=";
    let key = plugin.path().with_extension("key");
    fs::write(plugin.path(), "x").unwrap();
    fs::remove_file(&key).unwrap();
    plugin.looks(100).await;
    assert_eq!(
        plugin.log.take(),
        [format!("{refused}`cert`: found `x`, allowed is a number; `key`: entity not found")]
    );
    fs::remove_file(plugin.path()).unwrap();
    plugin.looks(100).await;
    assert_eq!(plugin.log.take(), [format!("{refused}`cert`: entity not found; `key`: entity not found")]);
    assert_eq!(plugin.number(), 10);
    plugin.write(30);
    plugin.looks(2).await;
    assert_eq!((plugin.number(), plugin.log.take()), (30, vec!["INFO Certificates reloaded".to_owned()]));
}

/// Refuses as long as the static says so, whatever the file holds.
#[derive(Debug)]
struct Moody;

static MOOD: AtomicBool = AtomicBool::new(true);
static MOODY_FILE: LazyLock<tempfile::NamedTempFile> = LazyLock::new(|| tempfile::NamedTempFile::new().unwrap());

impl PluginConfig for Moody {
    fn build(_: &CoreConfig, _: &mut Options) -> Option<Self> {
        MOOD.load(Ordering::Relaxed).then_some(Self)
    }

    fn watched_files(&self) -> Vec<PathBuf> {
        vec![MOODY_FILE.path().to_owned()]
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_wrong_for_the_moment_is_tried_again() {
    let log = Log::default();
    let _guard = log.listen();
    let service = ConfigService::new(ConfigStore::<Moody>::new(), Metrics::nowhere());
    let channel = channel(Routes::new(proto::config_server::ConfigServer::new(service)));
    configure(&channel, core("td"), "").await.unwrap();
    tokio::time::sleep(upkeep::LOOK * 3).await;
    log.take();
    MOOD.store(false, Ordering::Relaxed);
    fs::write(MOODY_FILE.path(), "changed").unwrap();
    tokio::time::sleep(upkeep::MINUTE * 2).await;
    assert_eq!(
        log.take(),
        ["WARN Changed files are refused, what was in use before stays in use \
          error=the configuration was refused without a reason"]
    );
    MOOD.store(true, Ordering::Relaxed);
    tokio::time::sleep(upkeep::MINUTE * 2).await;
    assert_eq!(log.take(), ["INFO Certificates reloaded"]);
}

#[tokio::test(start_paused = true)]
async fn a_configure_in_between_has_the_last_word() {
    let plugin = Reloading::start().await;
    plugin.write(20);
    plugin.looks(1).await;
    plugin.configure().await;
    assert_eq!(plugin.number(), 20);
    let other = plugin.dir.path().join("other");
    fs::write(&other, "40").unwrap();
    fs::write(other.with_extension("key"), "40").unwrap();
    configure(&plugin.channel, core("td"), &format!("file = {other:?}")).await.unwrap();
    // The files of the earlier configuration are nobody's.
    plugin.write(30);
    plugin.looks(10).await;
    assert_eq!(plugin.number(), 40);
}

#[tokio::test(start_paused = true)]
async fn certificates_are_looked_at_and_a_reload_ends_the_worry() {
    let plugin = Reloading::start().await;
    plugin.write(1);
    plugin.looks(2).await;
    let ended = "WARN A certificate has expired option=\"file\" path=cert";
    assert_eq!(plugin.log.take(), ["INFO Certificates reloaded", ended]);
    plugin.looks(100).await;
    assert_eq!(plugin.log.take(), [""; 0]);
    plugin.write(10);
    plugin.looks(100).await;
    assert_eq!(plugin.log.take(), ["INFO Certificates reloaded"]);
}

#[tokio::test(start_paused = true)]
async fn the_upkeep_ends_with_the_service() {
    let store = ConfigStore::<Settings>::new();
    let service = ConfigService::new(store.clone(), Metrics::nowhere());
    let shared = Arc::downgrade(&service.shared);
    let request = ConfigureRequest { core_configuration: core("td"), hcl_configuration: String::new() };
    proto::config_server::Config::configure(&service, Request::new(request)).await.unwrap();
    tokio::time::sleep(upkeep::MINUTE).await;
    drop(service);
    assert!(shared.upgrade().is_none());
}
