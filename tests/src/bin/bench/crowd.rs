// SPDX-License-Identifier: Apache-2.0
//! As many attestations as the server plugin may ever see at one moment.

use std::sync::Arc;

use anyhow::{Context, Result};
use e2e::{Host, agent_data, keylime_options, our_agent, tpm_policy};
use spire_plugin::host::{Launch, SpireHost};
use test_support::{KeylimeAgent, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, bin};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::report::{Goal, Report};

/// Hosts, each with its own TPM.
const HOSTS: usize = 8;

/// Agent plugins of each host, and attestations of each plugin: both the plugin and the TPM's queue take a few at once.
const PLUGINS: usize = 2;
const EACH: usize = 8;

/// Counts who is let in; what the others are told is printed.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let (host, more) = start()?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let let_in = runtime.block_on(all_at_once(&host, &more))?;
    let all = HOSTS * PLUGINS * EACH;
    report.add(&format!("let in, of {all} at once"), "attestations", let_in as f64, None, Goal::AtLeast(all as f64));
    Ok(())
}

/// The first host, with the servers, and the others.
fn start() -> Result<(Host, Vec<(KeylimeAgent, Swtpm)>)> {
    let mut tpms = (0..HOSTS).map(|_| Swtpm::start(SwtpmOptions::default())).collect::<Result<Vec<_>>>()?;
    let ek_ca_certs = tpms.iter().flat_map(|tpm| tpm.ca_certs.clone()).collect();
    let first = tpms.pop().context("no TPM")?;
    let servers = KeylimeServers::start(&KeylimeOptions { ek_ca_certs, ..keylime_options(&first) })?;
    let options = our_agent(&first)?;
    let host = Host::with(first, servers, options)?;
    host.enrol()?;
    let mut more = Vec::new();
    for tpm in tpms {
        let agent = KeylimeAgent::start(&tpm.tcti, &host.servers, &our_agent(&tpm)?)?;
        let id = agent.id()?;
        host.servers.enrol(&id, agent.port, Some(&tpm_policy()))?;
        host.servers.wait_verified(&id, e2e::LIMIT)?;
        more.push((agent, tpm));
    }
    Ok((host, more))
}

async fn all_at_once(host: &Host, more: &[(KeylimeAgent, Swtpm)]) -> Result<usize> {
    let spire = SpireHost::new("tower.example".parse()?, "keylime");
    let launch = Launch::new(bin::built("keylime-attestor-server")?);
    let server = Arc::new(spire.load_server(launch, &host.server_data()).await?);
    let mut plugins = Vec::new();
    for keylime_agent in more.iter().map(|(agent, _)| agent).chain([&host.agent]) {
        for _ in 0..PLUGINS {
            let launch = Launch::new(bin::built("keylime-attestor-agent")?);
            plugins.push(Arc::new(spire.load_agent(launch, &agent_data(keylime_agent, &host.servers)).await?));
        }
    }
    let mut tasks = JoinSet::new();
    for plugin in plugins.iter().cycle().take(plugins.len() * EACH) {
        let (spire, plugin, server) = (spire.clone(), plugin.clone(), server.clone());
        tasks.spawn(async move { spire.attest(&plugin, &server).await });
    }
    let mut let_in = 0;
    for outcome in tasks.join_all().await {
        match outcome {
            Ok(_) => let_in += 1,
            Err(refusal) => eprintln!("all at once: {refusal}"),
        }
    }
    Ok(let_in)
}
