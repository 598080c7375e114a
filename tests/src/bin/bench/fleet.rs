// SPDX-License-Identifier: Apache-2.0
//! Many attestations at once, and what they cost the server plugin.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use test_support::process;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::contender::{Contender, Contenders, Loaded};
use crate::report::{Goal, Report};

/// Attestations of a burst that run at the same time.
const AT_ONCE: usize = 8;

/// Attestations of a burst that each of them is followed by.
const IN_TURN: usize = 8;

/// What is measured of one pair of plugins.
struct Measured {
    name: &'static str,
    pair: Arc<Loaded>,
    /// Attestations a second, of each burst.
    rates: Vec<f64>,
    /// The server plugin's processor time in the bursts.
    cpu: Duration,
    attestations: usize,
}

impl Measured {
    async fn start(contender: &Contender) -> Result<Self> {
        let pair = Arc::new(contender.load(AT_ONCE).await?);
        for agent in 0..AT_ONCE {
            pair.attest(agent).await?;
        }
        let name = contender.name;
        Ok(Self { name, pair, rates: Vec::new(), cpu: Duration::ZERO, attestations: 0 })
    }

    fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.pair.server.pid()).context("the server plugin has ended")
    }

    async fn burst(&mut self) -> Result<()> {
        let (cpu, start) = (self.cpu_time()?, Instant::now());
        let mut tasks = JoinSet::new();
        for agent in 0..AT_ONCE {
            let pair = self.pair.clone();
            tasks.spawn(async move {
                for _ in 0..IN_TURN {
                    pair.attest(agent).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done?.context(self.name).with_context(|| format!("{AT_ONCE} at once"))?;
        }
        self.rates.push((AT_ONCE * IN_TURN) as f64 / start.elapsed().as_secs_f64());
        self.cpu += self.cpu_time()? - cpu;
        self.attestations += AT_ONCE * IN_TURN;
        Ok(())
    }

    fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_unstable_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    }

    fn cpu_ms(&self) -> f64 {
        self.cpu.as_secs_f64() * 1000.0 / self.attestations.max(1) as f64
    }
}

/// Rates of bursts, all pairs in turns.
pub(crate) fn measure(report: &mut Report, contenders: &Contenders, rounds: usize) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut all = Vec::new();
    for contender in contenders.all() {
        all.push(runtime.block_on(Measured::start(contender)).context(contender.name)?);
    }
    for _ in 0..rounds {
        for measured in &mut all {
            runtime.block_on(measured.burst())?;
        }
    }
    rows(report, &all);
    unload(&runtime, all);
    Ok(())
}

fn rows(report: &mut Report, all: &[Measured]) {
    let [ours, local, go @ ..] = all else { return };
    let beside = |figure: fn(&Measured) -> f64| go.first().map(|go| (go.name, figure(go)));
    let rate = beside(Measured::rate);
    report.add(&format!("attestations, {AT_ONCE} at once"), "a second", ours.rate(), rate, Goal::Times(2.3));
    report.add("the same, quotes verified locally", "a second", local.rate(), rate, Goal::Times(2.8));
    let (what, cpu) = ("processor time of `keylime-attestor-server` for each", beside(Measured::cpu_ms));
    report.add(what, "ms", ours.cpu_ms(), cpu, Goal::AtMost(0.4));
    report.add("the same, quotes verified locally", "ms", local.cpu_ms(), cpu, Goal::AtMost(0.4));
}

fn unload(runtime: &Runtime, all: Vec<Measured>) {
    for measured in all {
        if let Some(pair) = Arc::into_inner(measured.pair) {
            runtime.block_on(pair.unload());
        }
    }
}
