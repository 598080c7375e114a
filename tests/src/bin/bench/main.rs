// SPDX-License-Identifier: Apache-2.0
//! `spire-keylime-bench`: speed and size of our programs, as ratios of one run.
//!
//! The machine's speed drifts, so figures are taken in turns (raw TPM, ours, the peer, and again) and quoted as
//! medians. Peers are measured where `PEER_KEYLIME_AGENT`, `PEER_GO_AGENT_PLUGIN` and `PEER_GO_SERVER_PLUGIN` name
//! them. It asserts nothing: a figure that falls short is printed like any other.

mod attestations;
mod client;
mod contender;
mod crowd;
mod fleet;
mod integrity;
mod quotes;
mod raw_tpm;
mod report;
mod sizes;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio::runtime::Builder;

use crate::contender::Contenders;
use crate::report::Report;

/// Speed and size of our programs beside the raw TPM and the peers, as ratios of one run.
#[derive(Debug, Parser)]
#[command(name = "spire-keylime-bench", version)]
struct Arguments {
    /// Rounds of quotes on kept connections; other measurements take a fraction of it.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("spire-keylime-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Report> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let rounds = arguments.rounds.max(10);
    let mut report = Report::default();
    sizes::binaries(&mut report)?;
    quotes::measure(&mut report, &runtime, rounds)?;
    integrity::measure(&mut report, &runtime, rounds)?;
    attestations::start_to_handshake(&mut report, rounds / 5)?;
    let contenders = Contenders::start()?;
    attestations::whole(&mut report, &runtime, &contenders, rounds / 10)?;
    fleet::measure(&mut report, &contenders, rounds / 10)?;
    crowd::measure(&mut report, &contenders)?;
    Ok(report)
}
