// SPDX-License-Identifier: Apache-2.0
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Condvar, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use spire_proto::config::config_server::{Config, ConfigServer};
use tonic::{Request, service::Routes, transport::Channel};

use super::*;
use crate::{
    CoreConfig, LoadedCertificate, Options,
    service::{
        ConfigService,
        tests::{configure, core},
    },
    test_support::{Log, channel},
};

/// A configuration out of a file and its key, which hold its number, and a file beside them that may hold another.
#[derive(Debug)]
struct FromFile {
    number: u32,
    beside: u32,
    kept: Problems,
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
        let number = cert.zip(key).filter(|(cert, key)| cert == key)?.0;
        let beside = fs::read_to_string(path.with_extension("beside")).ok().and_then(|text| text.parse().ok());
        Some(Self { number, beside: beside.unwrap_or_default(), kept: Problems::default(), path })
    }

    fn rebuild(core: &CoreConfig, options: &mut Options, now: &Self) -> Option<Self> {
        let mut config = Self::build(core, options)?;
        if now.beside != 0 && config.beside == 0 {
            config.beside = now.beside;
            config.kept.push("`beside` is no number");
        }
        Some(config)
    }

    fn kept(&self) -> Problems {
        self.kept.clone()
    }

    fn watched_files(&self) -> Vec<PathBuf> {
        ["", "key", "beside"].map(|extension| self.path.with_extension(extension)).to_vec()
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
        let channel = channel(Routes::new(ConfigServer::new(service)));
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
        tokio::time::sleep(LOOK * count + Duration::from_millis(1)).await;
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

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_told_like_what_is_refused_and_keeps_nothing_else_out() {
    let plugin = Reloading::start().await;
    let beside = plugin.path().with_extension("beside");
    fs::write(&beside, "5").unwrap();
    plugin.looks(2).await;
    assert_eq!(plugin.log.take(), ["INFO Certificates reloaded"]);
    fs::write(&beside, "x").unwrap();
    plugin.write(20);
    plugin.looks(2).await;
    let told = "WARN Changed files are refused, what was in use before stays in use error=`beside` is no number";
    assert_eq!(plugin.log.take(), ["INFO Certificates reloaded", told]);
    let in_force = plugin.store.snapshot().unwrap();
    assert_eq!((in_force.number, in_force.beside), (20, 5));
    // Reading it again changes nothing, and it is not forgotten.
    tokio::time::sleep(REMINDER - MINUTE).await;
    assert!(Arc::ptr_eq(&in_force, &plugin.store.snapshot().unwrap()));
    assert_eq!(plugin.log.take(), [""; 0]);
    tokio::time::sleep(MINUTE * 2).await;
    assert_eq!(plugin.log.take(), [told]);
    fs::write(&beside, "6").unwrap();
    plugin.looks(2).await;
    assert_eq!(plugin.log.take(), ["INFO Certificates reloaded"]);
    let in_force = plugin.store.snapshot().unwrap();
    assert_eq!((in_force.number, in_force.beside), (20, 6));
}

#[tokio::test(start_paused = true)]
async fn refused_files_are_told_again_every_hour_and_when_a_certificate_in_use_ends() {
    let plugin = Reloading::start().await;
    let refused = [concat!(
        "WARN Changed files are refused, what was in use before stays in use error=",
        "`cert`: found `x`, allowed is a number"
    )];
    fs::write(plugin.path(), "x").unwrap();
    plugin.looks(2).await;
    assert_eq!(plugin.log.take(), refused);
    tokio::time::sleep(REMINDER - MINUTE).await;
    assert_eq!(plugin.log.take(), [""; 0]);
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(plugin.log.take(), refused);
    tokio::time::sleep(REMINDER + MINUTE).await;
    assert_eq!(plugin.log.take(), refused);
}

#[tokio::test(start_paused = true)]
async fn refused_files_are_told_again_when_a_certificate_in_use_reaches_its_end() {
    let log = Log::default();
    let _guard = log.listen();
    let shared =
        Arc::new(Shared { store: ConfigStore::<Empty>::new(), metrics: Metrics::nowhere(), running: Mutex::default() });
    let mut problems = Problems::default();
    problems.push("bad file");
    let end = SystemTime::now() - DAY;
    let certificate = LoadedCertificate { option: "file", path: "cert".into(), not_before: end - DAY, not_after: end };
    let mut upkeep = Upkeep {
        shared: Arc::downgrade(&shared),
        metrics: Metrics::nowhere(),
        configured: 1,
        source: Arc::new(Source::new(ConfigureRequest::default())),
        watch: Watch::new(Vec::new(), Snapshot::default(), SystemTime::now()),
        expiry: Expiry::new(vec![certificate]),
        refused: Some((problems, Instant::now())),
        retry: false,
        job: None,
    };
    upkeep.minute();
    assert_eq!(
        log.take(),
        [
            "WARN A certificate has expired option=\"file\" path=cert",
            "WARN Changed files are refused, what was in use before stays in use error=bad file",
        ]
    );
    upkeep.minute();
    assert_eq!(log.take(), [""; 0]);
}

/// Waits while it is built, as for a network mount that hangs, while the gate is shut.
#[derive(Debug)]
struct Hanging;

static SHUT: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
static BUILDS: AtomicUsize = AtomicUsize::new(0);
static HANGING_FILE: LazyLock<tempfile::NamedTempFile> = LazyLock::new(|| tempfile::NamedTempFile::new().unwrap());

fn shut(now: bool) {
    *SHUT.0.lock().unwrap() = now;
    SHUT.1.notify_all();
}

impl PluginConfig for Hanging {
    fn build(_: &CoreConfig, _: &mut Options) -> Option<Self> {
        BUILDS.fetch_add(1, Ordering::Relaxed);
        let limit = Duration::from_secs(60);
        let (_shut, waited) = SHUT.1.wait_timeout_while(SHUT.0.lock().unwrap(), limit, |shut| *shut).unwrap();
        assert!(!waited.timed_out(), "the plugin waited for the file");
        Some(Self)
    }

    fn watched_files(&self) -> Vec<PathBuf> {
        vec![HANGING_FILE.path().to_owned()]
    }
}

#[tokio::test(start_paused = true)]
async fn files_that_hang_hold_up_one_thread_and_nothing_else() {
    let log = Log::default();
    let _guard = log.listen();
    let service = ConfigService::new(ConfigStore::<Hanging>::new(), Metrics::nowhere());
    let channel = channel(Routes::new(ConfigServer::new(service)));
    configure(&channel, core("td"), "").await.unwrap();
    tokio::time::sleep(LOOK * 3 + LOOK / 2).await;
    log.take();
    let builds = BUILDS.load(Ordering::Relaxed);
    shut(true);
    fs::write(HANGING_FILE.path(), "changed").unwrap();
    tokio::time::sleep(LOOK).await;
    // The next look finds the files at rest. The clock stands while other threads work, so it is moved by hand.
    tokio::time::advance(LOOK).await;
    while BUILDS.load(Ordering::Relaxed) == builds {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        tokio::time::advance(MINUTE).await;
        // A call goes through: what is refused for its text reads no file.
        configure(&channel, core(""), "").await.unwrap_err();
    }
    assert_eq!(BUILDS.load(Ordering::Relaxed), builds + 1);
    assert_eq!(
        log.take(),
        [
            "WARN Reading the configuration's files takes more than a minute, changes are not seen: are they on a network \
          mount that hangs?"
        ]
    );
    shut(false);
    while log.take() != ["INFO Certificates reloaded"] {
        tokio::task::yield_now().await;
    }
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
    let channel = channel(Routes::new(ConfigServer::new(service)));
    configure(&channel, core("td"), "").await.unwrap();
    tokio::time::sleep(LOOK * 3).await;
    log.take();
    MOOD.store(false, Ordering::Relaxed);
    fs::write(MOODY_FILE.path(), "changed").unwrap();
    tokio::time::sleep(MINUTE * 2).await;
    assert_eq!(
        log.take(),
        ["WARN Changed files are refused, what was in use before stays in use \
          error=the configuration was refused without a reason"]
    );
    MOOD.store(true, Ordering::Relaxed);
    tokio::time::sleep(MINUTE * 2).await;
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

/// Has no options.
#[derive(Debug)]
struct Empty;

impl PluginConfig for Empty {
    fn build(_: &CoreConfig, _: &mut Options) -> Option<Self> {
        Some(Self)
    }
}

#[tokio::test(start_paused = true)]
async fn the_upkeep_ends_with_the_service() {
    let service = ConfigService::new(ConfigStore::<Empty>::new(), Metrics::nowhere());
    let shared = Arc::downgrade(&service.shared);
    let request = ConfigureRequest { core_configuration: core("td"), hcl_configuration: String::new() };
    Config::configure(&service, Request::new(request)).await.unwrap();
    tokio::time::sleep(MINUTE).await;
    drop(service);
    assert!(shared.upgrade().is_none());
}
