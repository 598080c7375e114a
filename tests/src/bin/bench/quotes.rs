// SPDX-License-Identifier: Apache-2.0
//! Identity quotes of a Keylime agent beside TPM2_Quote itself, on the same TPM, and the agent's memory.

use std::env;

use anyhow::{Context, Result};
use e2e::{keylime_options, our_agent};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeServers, Swtpm, SwtpmOptions, process};
use tokio::runtime::Runtime;

use crate::client::AgentEndpoint;
use crate::raw_tpm::RawTpm;
use crate::report::{Goal, Report, Samples, timed};

/// An agent on a TPM of its own (two on one would undo each other's PCR 16), with the raw TPM beside it.
struct Measured {
    endpoint: AgentEndpoint,
    agent: KeylimeAgent,
    raw_tpm: RawTpm,
    _tpm: Swtpm,
    raw: Samples,
    kept: Samples,
    new: Samples,
}

impl Measured {
    fn start(tpm: Swtpm, servers: &KeylimeServers, options: KeylimeAgentOptions) -> Result<Self> {
        let options = KeylimeAgentOptions { log: "info".to_owned(), ..options };
        let agent = KeylimeAgent::start(&tpm.tcti, servers, &options)?;
        let endpoint = AgentEndpoint::new(&agent, servers);
        let raw_tpm = RawTpm::new(&tpm)?;
        let [raw, kept, new] = std::array::from_fn(|_| Samples::default());
        Ok(Self { endpoint, agent, raw_tpm, _tpm: tpm, raw, kept, new })
    }

    fn memory_mb(&mut self) -> Result<f64> {
        let kib = process::rss_kib(self.agent.part().pid()).context("the agent has ended")?;
        Ok(kib as f64 * 1024.0 / 1e6)
    }
}

pub(crate) fn measure(report: &mut Report, runtime: &Runtime, rounds: usize) -> Result<()> {
    let tpm = Swtpm::start(SwtpmOptions::default())?;
    let servers = KeylimeServers::start(&keylime_options(&tpm))?;
    let options = our_agent(&tpm)?;
    let mut ours = Measured::start(tpm, &servers, options)?;
    let mut stock = match env::var_os("PEER_KEYLIME_AGENT") {
        Some(binary) => {
            let tpm = Swtpm::start(SwtpmOptions::default())?;
            Some(Measured::start(tpm, &servers, KeylimeAgentOptions::new(binary))?)
        }
        None => None,
    };

    let mut agents: Vec<&mut Measured> = std::iter::once(&mut ours).chain(stock.as_mut()).collect();
    let clients: Vec<_> = agents.iter().map(|agent| agent.endpoint.fresh()).collect::<Result<_>>()?;
    for (agent, client) in agents.iter().zip(&clients) {
        runtime.block_on(agent.endpoint.quote(client, &nonce(0)))?;
    }
    for round in 1..=rounds {
        for (agent, client) in agents.iter_mut().zip(&clients) {
            timed(&mut agent.raw, || agent.raw_tpm.quote(&nonce(round)))?;
            timed(&mut agent.kept, || runtime.block_on(agent.endpoint.quote(client, &nonce(round))))?;
        }
    }
    for round in 0..rounds / 5 {
        for agent in &mut agents {
            let client = agent.endpoint.fresh()?;
            timed(&mut agent.new, || runtime.block_on(agent.endpoint.quote(&client, &nonce(round))))?;
        }
    }
    drop(agents);

    let beside_raw = |agent: &Measured| (agent.kept.median_ms(), Some(("raw TPM2_Quote", agent.raw.median_ms())));
    let (kept, raw) = beside_raw(&ours);
    report.add("identity quote, kept mTLS connection", "ms", kept, raw, Goal::ShareOf(1.3));
    if let Some(stock) = &stock {
        let (stock_kept, raw) = beside_raw(stock);
        report.add("the stock agent's, for comparison", "ms", stock_kept, raw, Goal::None);
        report.add("identity quote, kept mTLS connection", "ms", kept, Some(("stock agent", stock_kept)), Goal::None);
    }
    let beside = stock.as_ref().map(|stock| ("stock agent", stock.new.median_ms()));
    report.add("identity quote, new mTLS connection", "ms", ours.new.median_ms(), beside, Goal::ShareOf(0.2));
    let memory = ours.memory_mb()?;
    let beside = stock.as_mut().map(Measured::memory_mb).transpose()?;
    report.add("VmRSS `keylime_agent`", "MB", memory, beside.map(|mb| ("stock agent", mb)), Goal::AtMost(9.0));
    Ok(())
}

/// A nonce as a verifier would send it: 32 letters and digits.
fn nonce(round: usize) -> [u8; 32] {
    let mut nonce = [b'A'; 32];
    for (place, digit) in nonce.iter_mut().zip(format!("{round:032}").bytes()) {
        *place = digit;
    }
    nonce
}
