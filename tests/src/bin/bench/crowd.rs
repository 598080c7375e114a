// SPDX-License-Identifier: Apache-2.0
//! Many attestations at one moment, all of one host: its agent plugin, its Keylime agent, its TPM.

use std::sync::Arc;

use anyhow::Result;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::contender::{Contender, Contenders};
use crate::report::{Goal, Report};

/// Attestations that start at once.
const ALL: usize = 128;

/// Counts who is let in; what the others are told is printed.
pub(crate) fn measure(report: &mut Report, contenders: &Contenders) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut let_in = Vec::new();
    for contender in contenders.all() {
        let_in.push((contender.name, runtime.block_on(all_at_once(contender))? as f64));
    }
    let [(_, ours), (_, local), go @ ..] = &let_in[..] else { return Ok(()) };
    let goal = || Goal::AtLeast(ALL as f64);
    report.add(&format!("let in, of {ALL} at once"), "attestations", *ours, go.first().copied(), goal());
    report.add("the same, quotes verified locally", "attestations", *local, go.first().copied(), goal());
    Ok(())
}

async fn all_at_once(contender: &Contender) -> Result<usize> {
    let pair = Arc::new(contender.load(1).await?);
    let mut tasks = JoinSet::new();
    for _ in 0..ALL {
        let pair = pair.clone();
        tasks.spawn(async move { pair.attest(0).await });
    }
    let mut let_in = 0;
    for outcome in tasks.join_all().await {
        match outcome {
            Ok(_) => let_in += 1,
            Err(refusal) => eprintln!("{}, {ALL} at once: {refusal:#}", contender.name),
        }
    }
    if let Some(pair) = Arc::into_inner(pair) {
        pair.unload().await;
    }
    Ok(let_in)
}
