// SPDX-License-Identifier: Apache-2.0
//! Integrity quotes of a Keylime agent beside TPM2_Quote itself, with an empty and with a long IMA list, its memory then,
//! and how long other questions wait while the TPM signs.

use std::env;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::{keylime_options, our_agent};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeServers, Swtpm, SwtpmOptions, process};
use tokio::runtime::{Builder, Runtime};

use crate::client::AgentEndpoint;
use crate::raw_tpm::RawTpm;
use crate::report::{Goal, Report, Samples, timed};

/// Entries of the long list, and how many are new at each quote.
const ENTRIES: usize = 100_000;
const NEW: usize = 10;
/// Connections that keep the TPM busy.
const QUOTING: usize = 4;
/// The PCR that IMA extends.
const IMA_PCR: u8 = 10;

/// An agent with an IMA list, on a TPM of its own, with the raw TPM beside it.
struct Measured {
    endpoint: AgentEndpoint,
    url: String,
    agent: KeylimeAgent,
    raw_tpm: RawTpm,
    tpm: Swtpm,
    ima: File,
    entries: usize,
}

/// The times of some rounds.
#[derive(Default)]
struct Times {
    raw: Samples,
    quotes: Samples,
}

impl Measured {
    fn start(tpm: Swtpm, servers: &KeylimeServers, options: KeylimeAgentOptions) -> Result<Self> {
        let path: PathBuf = tpm.scratch().join("ima");
        let ima = File::create(&path)?;
        let path = path.to_str().context("the scratch folder's name is not UTF-8")?;
        let options = KeylimeAgentOptions { log: "info".to_owned(), ..options };
        let options = options.env("KEYLIME_AGENT_IMA_ML_PATH", path);
        let agent = KeylimeAgent::start(&tpm.tcti, servers, &options)?;
        let endpoint = AgentEndpoint::new(&agent, servers);
        let raw_tpm = RawTpm::new(&tpm)?;
        let url = format!("https://127.0.0.1:{}/v2.5", agent.port);
        Ok(Self { endpoint, url, agent, raw_tpm, tpm, ima, entries: 0 })
    }

    /// Adds entries, and has PCR 10 follow.
    fn append(&mut self, count: usize) -> Result<()> {
        let mut lines = String::new();
        for n in self.entries..self.entries + count {
            writeln!(lines, "10 {n:040x} ima-ng sha256:{n:064x} /usr/lib/x86_64-linux-gnu/lib{n}.so.1")?;
        }
        self.entries += count;
        self.ima.write_all(lines.as_bytes())?;
        self.tpm.pcr_extend(IMA_PCR)
    }

    /// One integrity quote as the verifier asks for it, with the lines from `entry` on; the length of the answer.
    async fn quote(&self, client: &reqwest::Client, round: usize, entry: usize) -> Result<usize> {
        let query = format!("nonce={round:020}&mask=0x400&partial=1&ima_ml_entry={entry}");
        get(client, &format!("{}/quotes/integrity?{query}", self.url)).await
    }

    /// The memory that the agent has, and the most that it has had.
    fn memory_mb(&mut self) -> Result<(f64, f64)> {
        let pid = self.agent.part().pid();
        let mb = |kib: Option<u64>| kib.map(|kib| kib as f64 * 1024.0 / 1e6).context("the agent has ended");
        Ok((mb(process::rss_kib(pid))?, mb(process::peak_rss_kib(pid))?))
    }

    /// The time that 99 of 100 calls of `/agent/info` stay below while the TPM signs for others, in milliseconds.
    fn info_p99(&self, calls: usize) -> Result<f64> {
        let done = AtomicBool::new(false);
        let keep_busy = || -> Result<()> {
            let (runtime, client) = (Builder::new_current_thread().enable_all().build()?, self.endpoint.fresh()?);
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                runtime.block_on(self.quote(&client, round, self.entries))?;
            }
            Ok(())
        };
        let ask = || -> Result<Vec<Duration>> {
            let (runtime, client) = (Builder::new_current_thread().enable_all().build()?, self.endpoint.fresh()?);
            let url = format!("{}/agent/info", self.url);
            let mut times = Vec::with_capacity(calls);
            for _ in 0..calls {
                let start = Instant::now();
                runtime.block_on(get(&client, &url))?;
                times.push(start.elapsed());
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(times)
        };
        let mut times = std::thread::scope(|scope| {
            let busy: Vec<_> = (0..QUOTING).map(|_| scope.spawn(keep_busy)).collect();
            let times = ask();
            done.store(true, Ordering::Relaxed);
            for thread in busy {
                thread.join().map_err(|_| anyhow!("a thread that asks for quotes failed"))??;
            }
            times
        })?;
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).context("no calls")?;
        Ok(p99.as_secs_f64() * 1000.0)
    }
}

async fn get(client: &reqwest::Client, url: &str) -> Result<usize> {
    let answer = client.get(url).send().await.context("no answer")?;
    ensure!(answer.status().is_success(), "the agent answered {}", answer.status());
    Ok(answer.bytes().await?.len())
}

/// Raw quotes and quotes of each agent in turns, each with so many new entries.
fn turns(agents: &mut [Measured], runtime: &Runtime, rounds: usize, new: usize) -> Result<Vec<Times>> {
    let clients: Vec<_> = agents.iter().map(|agent| agent.endpoint.fresh()).collect::<Result<_>>()?;
    let mut times: Vec<_> = agents.iter().map(|_| Times::default()).collect();
    for (agent, client) in agents.iter().zip(&clients) {
        // All that there is so far, as the verifier begins.
        runtime.block_on(agent.quote(client, 0, 0))?;
    }
    for round in 1..=rounds {
        for ((agent, client), times) in agents.iter_mut().zip(&clients).zip(&mut times) {
            let seen = agent.entries;
            if new > 0 {
                agent.append(new)?;
            }
            timed(&mut times.raw, || agent.raw_tpm.quote(&[b'A'; 32]))?;
            let length = timed(&mut times.quotes, || runtime.block_on(agent.quote(client, round, seen)))?;
            ensure!(length < 16 << 10, "an answer of {length} bytes for {new} new entries");
        }
    }
    Ok(times)
}

pub(crate) fn measure(report: &mut Report, runtime: &Runtime, rounds: usize) -> Result<()> {
    let tpm = Swtpm::start(SwtpmOptions::default())?;
    let servers = KeylimeServers::start(&keylime_options(&tpm))?;
    let options = our_agent(&tpm)?;
    // Ours, then the stock agent if it is there.
    let mut agents = vec![Measured::start(tpm, &servers, options)?];
    if let Some(binary) = env::var_os("PEER_KEYLIME_AGENT") {
        let tpm = Swtpm::start(SwtpmOptions::default())?;
        agents.push(Measured::start(tpm, &servers, KeylimeAgentOptions::new(binary))?);
    }

    let times = turns(&mut agents, runtime, rounds, 0)?;
    beside_raw(report, "integrity quote, empty IMA list", &times, 1.4);
    for agent in &mut agents {
        agent.append(ENTRIES)?;
    }
    let times = turns(&mut agents, runtime, rounds, NEW)?;
    beside_raw(report, &format!("integrity quote, {ENTRIES} IMA entries and {NEW} new ones"), &times, 1.6);
    let memory: Vec<_> = agents.iter_mut().map(Measured::memory_mb).collect::<Result<_>>()?;
    let (now, peak): (Vec<_>, Vec<_>) = memory.into_iter().unzip();
    add(report, "VmRSS `keylime_agent` after those quotes", "MB", &now, Goal::ShareOf(0.5));
    add(report, "VmHWM, with the first transfer of the whole list", "MB", &peak, Goal::ShareOf(0.5));
    let p99: Vec<_> = agents.iter().map(|agent| agent.info_p99(rounds * 5)).collect::<Result<_>>()?;
    add(report, "`/agent/info`, 99 of 100, while the TPM signs", "ms", &p99, Goal::AtMost(5.0));
    Ok(())
}

/// Two rows: ours, and the stock agent's.
fn beside_raw(report: &mut Report, what: &str, times: &[Times], limit: f64) {
    let rows = [(what, Goal::ShareOf(limit)), ("the stock agent's, for comparison", Goal::None)];
    for (times, (what, goal)) in times.iter().zip(rows) {
        let raw = Some(("raw TPM2_Quote", times.raw.median_ms()));
        report.add(what, "ms", times.quotes.median_ms(), raw, goal);
    }
}

/// Ours, beside the stock agent's.
fn add(report: &mut Report, what: &str, unit: &str, figures: &[f64], goal: Goal) {
    if let Some(ours) = figures.first() {
        let stock = figures.get(1).map(|stock| ("stock agent", *stock));
        report.add(what, unit, *ours, stock, goal);
    }
}
