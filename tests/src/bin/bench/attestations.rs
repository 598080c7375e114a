// SPDX-License-Identifier: Apache-2.0
//! The plugins: start to handshake, memory when idle, and whole attestations through the real verifier.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use test_support::{bin, process};
use tokio::runtime::Runtime;

use crate::contender::{Contender, Contenders};
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

/// What is measured of one pair of plugins.
struct Measured<'a> {
    contender: &'a Contender,
    first: Samples,
    next: Samples,
    /// Resident memory of agent and server plugin in MB, configured and idle.
    idle: Option<[f64; 2]>,
}

impl<'a> Measured<'a> {
    fn new(contender: &'a Contender) -> Self {
        Self { contender, first: Samples::default(), next: Samples::default(), idle: None }
    }

    /// Loads both plugins afresh and attests, once at once and then a few times more.
    fn round(&mut self, runtime: &Runtime) -> Result<()> {
        let name = self.contender.name;
        let pair = runtime.block_on(self.contender.load(1)).context(name)?;
        if self.idle.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(500));
            let mut idle = [0.0; 2];
            let pids = pair.agents.iter().map(|agent| agent.pid()).chain([pair.server.pid()]);
            for (place, pid) in idle.iter_mut().zip(pids) {
                *place = process::rss_kib(pid).context("the plugin has ended")? as f64 * 1024.0 / 1e6;
            }
            self.idle = Some(idle);
        }
        timed(&mut self.first, || runtime.block_on(pair.attest(0))).context(name).context("first attestation")?;
        for _ in 0..5 {
            timed(&mut self.next, || runtime.block_on(pair.attest(0))).context(name).context("next attestation")?;
        }
        runtime.block_on(pair.unload());
        Ok(())
    }

    fn idle(&self, index: usize) -> f64 {
        self.idle.and_then(|idle| idle.get(index).copied()).unwrap_or_default()
    }
}

/// Whole attestations one after the other, through both plugins, the Keylime agent, the verifier and the registrar, as
/// SPIRE drives them.
pub(crate) fn whole(report: &mut Report, runtime: &Runtime, contenders: &Contenders, rounds: usize) -> Result<()> {
    let mut all: Vec<_> = contenders.all().into_iter().map(Measured::new).collect();
    for _ in 0..rounds {
        for measured in &mut all {
            measured.round(runtime)?;
        }
    }
    let mut all = all.iter();
    let (Some(ours), Some(local), go) = (all.next(), all.next(), all.next()) else { return Ok(()) };
    let beside = |figure: &dyn Fn(&Measured<'_>) -> f64| go.map(|go| (go.contender.name, figure(go)));
    for (index, (name, _)) in PLUGINS.iter().enumerate() {
        let idle = |pair: &Measured<'_>| pair.idle(index);
        report.add(&format!("VmRSS idle `{name}`"), "MB", idle(ours), beside(&idle), Goal::AtMost(6.0));
    }
    let first = |pair: &Measured<'_>| pair.first.median_ms();
    report.add("first whole attestation", "ms", first(ours), beside(&first), Goal::AtMost(25.0));
    let next = |pair: &Measured<'_>| pair.next.median_ms();
    report.add("next whole attestation", "ms", next(ours), beside(&next), Goal::ShareOf(0.55));
    report.add("the same, quotes verified locally", "ms", next(local), beside(&next), Goal::ShareOf(0.35));
    Ok(())
}
