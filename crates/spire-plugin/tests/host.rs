// SPDX-License-Identifier: Apache-2.0
//! The host with real plugin processes: the `passphrase` example on both sides.

use std::{error::Error, path::PathBuf, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spire_plugin::{
    TrustDomain,
    host::{AttestError, Launch, LoadError, Side, SpireHost},
};
use tempfile::TempDir;
use tonic::Code;

/// Cargo builds the examples before the tests run, beside them.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().expect("own path");
    path.pop();
    path.pop();
    let path = path.join("examples/passphrase");
    assert!(path.exists(), "{} is missing: cargo build -p spire-plugin --examples", path.display());
    path
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().expect("a process ID")), signal).expect("a running process");
}

struct Bench {
    host: SpireHost,
    sockets: TempDir,
}

impl Bench {
    fn new() -> Self {
        let trust_domain: TrustDomain = "example.org".parse().expect("a trust domain");
        Self { host: SpireHost::new(trust_domain, "passphrase"), sockets: tempfile::tempdir().expect("a folder") }
    }

    fn launch(&self, side: &str) -> Launch {
        Launch::new(program()).args([side]).socket_dir(self.sockets.path())
    }

    fn sockets_left(&self) -> usize {
        std::fs::read_dir(self.sockets.path()).expect("a folder").count()
    }
}

const DATA: &str = "passphrase = \"open sesame\"";

#[tokio::test]
async fn a_node_is_attested_refused_and_attested_again() {
    let bench = Bench::new();
    let server = bench.host.load_server(bench.launch("server"), DATA).await.unwrap();
    let agent = bench.host.load_agent(bench.launch("agent"), &format!("{DATA}\nnode = \"n1\"")).await.unwrap();

    let attributes = bench.host.attest(&agent, &server).await.unwrap();
    assert_eq!(attributes.spiffe_id.to_string(), "spiffe://example.org/spire/agent/passphrase/n1");
    assert_eq!(attributes.selector_values, ["knows:passphrase"]);
    assert!(attributes.can_reattest && attributes.warnings.is_empty());

    agent.configure("passphrase = \"sesame\"").await.unwrap();
    let error = bench.host.attest(&agent, &server).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "server plugin: PermissionDenied: nodeattestor(passphrase): the node does not know the passphrase"
    );

    // A configuration that is refused leaves the old one in force.
    let error = agent.configure("node = true").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to configure plugin \"passphrase\": rpc error: code = InvalidArgument desc = `passphrase`: not \
         given, allowed is any text; `node`: found `true`, allowed is text in double quotes"
    );
    assert!(bench.host.attest(&agent, &server).await.is_err());
    agent.configure(DATA).await.unwrap();
    let attributes = bench.host.attest(&agent, &server).await.unwrap();
    assert_eq!(attributes.spiffe_id.to_string(), "spiffe://example.org/spire/agent/passphrase/n0");

    for report in [agent.unload().await, server.unload().await] {
        assert!(report.success() && !report.killed(), "{report}");
    }
    assert_eq!(bench.sockets_left(), 0);
}

#[tokio::test]
async fn attestations_run_at_the_same_time() {
    let bench = Bench::new();
    let server = bench.host.load_server(bench.launch("server"), DATA).await.unwrap();
    let agent = bench.host.load_agent(bench.launch("agent"), DATA).await.unwrap();
    let attest = || bench.host.attest(&agent, &server);
    let (a, b, c) = tokio::join!(attest(), attest(), attest());
    assert!(a == b && b == c && c.is_ok());
}

#[tokio::test]
async fn validate_tells_what_is_wrong_and_leaves_nothing_behind() {
    let bench = Bench::new();
    assert_eq!(bench.host.validate_server(bench.launch("server"), DATA).await.unwrap(), Vec::<String>::new());
    let notes = bench.host.validate_agent(bench.launch("agent"), "nodes = 1").await.unwrap();
    assert_eq!(
        notes,
        ["`passphrase`: not given, allowed is any text", "`nodes`: unknown option, did you mean `node`?"]
    );
    assert_eq!(bench.sockets_left(), 0);
}

#[tokio::test]
async fn a_plugin_of_the_other_side_is_refused() {
    let bench = Bench::new();
    let error = bench.host.load_agent(bench.launch("server"), DATA).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to bind plugin \"passphrase\": no supported plugin interface found in: \
         [\"spire.plugin.server.nodeattestor.v1.NodeAttestor\" \"spire.service.common.config.v1.Config\"]"
    );
}

#[tokio::test]
async fn a_plugin_that_refuses_its_data_is_not_loaded() {
    let bench = Bench::new();
    let error = bench.host.load_server(bench.launch("server"), "passphrase = ").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to configure plugin \"passphrase\": rpc error: code = InvalidArgument desc = `passphrase`: not \
         given, allowed is any text"
    );
}

#[tokio::test]
async fn what_is_no_plugin_is_not_loaded() {
    let bench = Bench::new();
    let error = bench.host.load_agent(Launch::new("/bin/true"), DATA).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to load plugin \"passphrase\": failed to launch plugin");
    assert_eq!(error.source().unwrap().to_string(), "plugin exited before we could connect: exit status 0");
    assert!(matches!(error, LoadError::Launch { .. }));
}

#[tokio::test]
async fn a_dead_plugin_fails_every_attestation() {
    let bench = Bench::new();
    let server = bench.host.load_server(bench.launch("server"), DATA).await.unwrap();
    let agent = bench.host.load_agent(bench.launch("agent"), DATA).await.unwrap();
    signal(agent.pid(), Signal::SIGKILL);
    agent.exited().await;
    let AttestError { side, code, .. } = bench.host.attest(&agent, &server).await.unwrap_err();
    assert_eq!((side, code), (Side::Agent, Code::Unavailable));
    assert!(!agent.unload().await.success());
}

#[tokio::test]
async fn an_attestation_that_takes_too_long_is_given_up() {
    let bench = Bench::new();
    let server = bench.host.load_server(bench.launch("server"), DATA).await.unwrap();
    let agent = bench.host.load_agent(bench.launch("agent"), DATA).await.unwrap();
    // Stopped, the process neither answers nor ends.
    signal(server.pid(), Signal::SIGSTOP);
    let host = bench.host.clone().attestation_limit(Duration::from_millis(200));
    let error = host.attest(&agent, &server).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "server plugin: DeadlineExceeded: nodeattestor(passphrase): the plugin has not answered; the whole \
         attestation may take 200ms"
    );
    signal(server.pid(), Signal::SIGCONT);
    assert!(bench.host.attest(&agent, &server).await.is_ok());
}
