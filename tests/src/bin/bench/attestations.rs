// SPDX-License-Identifier: Apache-2.0
//! The plugins: start to handshake, memory when idle, and whole attestations through the real verifier.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::{Host, keylime_options};
use spire_plugin::host::{Launch, SpireHost};
use test_support::{KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, bin, process};
use tokio::runtime::Runtime;

use crate::report::{Goal, Report, Samples, timed};

/// Time from `exec` to the handshake line, both plugins and their peers in turns.
pub(crate) fn start_to_handshake(report: &mut Report, rounds: usize) -> Result<()> {
    for (name, peer) in PLUGINS {
        let (ours, peer) = (bin::built(name)?, env::var_os(peer).map(PathBuf::from));
        let (mut our_times, mut peer_times) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            handshake(&ours, &mut our_times)?;
            if let Some(peer) = &peer {
                handshake(peer, &mut peer_times)?;
            }
        }
        let beside = (!peer_times.is_empty()).then(|| ("Go plugin", peer_times.median_ms()));
        report.add(&format!("start to handshake `{name}`"), "ms", our_times.median_ms(), beside, Goal::AtMost(3.0));
    }
    Ok(())
}

const PLUGINS: [(&str, &str); 2] =
    [("keylime-attestor-agent", "PEER_GO_AGENT_PLUGIN"), ("keylime-attestor-server", "PEER_GO_SERVER_PLUGIN")];

fn handshake(plugin: &Path, times: &mut Samples) -> Result<()> {
    let start = Instant::now();
    let mut child = Command::new(plugin)
        .env("NodeAttestor", "NodeAttestor")
        .env("PLUGIN_PROTOCOL_VERSIONS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", plugin.display()))?;
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line);
    times.push(start.elapsed());
    child.kill()?;
    child.wait()?;
    read?;
    ensure!(line.starts_with("1|1|unix|"), "no handshake line from {}: {line:?}", plugin.display());
    // A killed plugin leaves its socket behind.
    if let Some(socket) = line.split('|').nth(3) {
        let _gone = std::fs::remove_file(socket);
    }
    Ok(())
}

/// What one pair of plugins needs for an attestation.
struct Pair {
    name: &'static str,
    host: Host,
    agent: (PathBuf, String),
    server: (PathBuf, String),
    first: Samples,
    next: Samples,
    /// Resident memory of agent and server plugin in MB, configured and idle.
    idle: Option<[f64; 2]>,
}

impl Pair {
    fn ours() -> Result<Self> {
        let host = Host::start()?;
        host.enrol()?;
        let (agent, server) = (host.agent_plugin()?, host.server_plugin()?);
        Ok(Self::new("ours", host, (agent.command, agent.data), (server.command, server.data)))
    }

    /// The Go pair with the stock agent; it speaks plain HTTP only.
    fn go() -> Result<Option<Self>> {
        let paths = ["PEER_KEYLIME_AGENT", "PEER_GO_AGENT_PLUGIN", "PEER_GO_SERVER_PLUGIN"].map(env::var_os);
        let [Some(stock), Some(agent), Some(server)] = paths else { return Ok(None) };
        let tpm = Swtpm::start(SwtpmOptions::default())?;
        let servers = KeylimeServers::start(&KeylimeOptions { agent_mtls: false, ..keylime_options(&tpm) })?;
        let options = KeylimeAgentOptions { mtls: false, ..KeylimeAgentOptions::new(stock) };
        let host = Host::with(tpm, servers, options)?;
        host.enrol()?;
        let agent_data = format!("keylime_agent_port = \"{}\"", host.agent.port);
        let server_data = host.server_data();
        Ok(Some(Self::new("Go pair, stock agent", host, (agent.into(), agent_data), (server.into(), server_data))))
    }

    fn new(name: &'static str, host: Host, agent: (PathBuf, String), server: (PathBuf, String)) -> Self {
        Self { name, host, agent, server, first: Samples::default(), next: Samples::default(), idle: None }
    }

    /// Loads both plugins afresh and attests, once at once and then a few times more.
    fn round(&mut self, runtime: &Runtime) -> Result<()> {
        let spire = SpireHost::new("tower.example".parse()?, "keylime");
        let server = runtime.block_on(spire.load_server(Launch::new(&self.server.0), &self.server.1))?;
        let agent = runtime.block_on(spire.load_agent(Launch::new(&self.agent.0), &self.agent.1))?;
        if self.idle.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(500));
            let mut idle = [0.0; 2];
            for (place, pid) in idle.iter_mut().zip([agent.pid(), server.pid()]) {
                *place = process::rss_kib(pid).context("the plugin has ended")? as f64 * 1024.0 / 1e6;
            }
            self.idle = Some(idle);
        }
        timed(&mut self.first, || runtime.block_on(spire.attest(&agent, &server)))
            .with_context(|| format!("{}: first attestation of {}", self.name, self.host.id))?;
        for _ in 0..5 {
            timed(&mut self.next, || runtime.block_on(spire.attest(&agent, &server)))
                .with_context(|| format!("{}: next attestation", self.name))?;
        }
        runtime.block_on(agent.unload());
        runtime.block_on(server.unload());
        Ok(())
    }
}

/// Whole attestations through both plugins, the Keylime agent, the verifier and the registrar, as SPIRE drives them.
pub(crate) fn whole(report: &mut Report, runtime: &Runtime, rounds: usize) -> Result<()> {
    let (mut ours, mut go) = (Pair::ours()?, Pair::go()?);
    for _ in 0..rounds {
        ours.round(runtime)?;
        if let Some(go) = &mut go {
            go.round(runtime)?;
        }
    }
    let beside = |figure: &dyn Fn(&Pair) -> f64| go.as_ref().map(|go| (go.name, figure(go)));
    for (index, (name, _)) in PLUGINS.iter().enumerate() {
        let idle = |pair: &Pair| pair.idle.and_then(|idle| idle.get(index).copied()).unwrap_or_default();
        report.add(&format!("VmRSS idle `{name}`"), "MB", idle(&ours), beside(&idle), Goal::AtMost(6.0));
    }
    let first = |pair: &Pair| pair.first.median_ms();
    report.add("first whole attestation", "ms", first(&ours), beside(&first), Goal::AtMost(25.0));
    let next = |pair: &Pair| pair.next.median_ms();
    report.add("next whole attestation", "ms", next(&ours), beside(&next), Goal::None);
    Ok(())
}
