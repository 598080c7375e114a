// SPDX-License-Identifier: Apache-2.0
//! The second half of the demo, with the real SPIRE.

use anyhow::{Context, Result, ensure};
use e2e::{Host, LIMIT, WATCHED_PCR};
use test_support::spire::SpireBinaries;
use test_support::{SpireAgent, SpireAgentOptions, SpireServer, SpireServerOptions};

use crate::steps::Steps;

const WORKLOAD: &str = "spiffe://tower.example/demo-workload";

/// Shows it, and calls `at_the_end` while everything still runs.
pub(crate) fn show(
    steps: &mut Steps,
    host: &Host,
    spire: &SpireBinaries,
    at_the_end: impl FnOnce(&SpireServer, &SpireAgent) -> Result<()>,
) -> Result<()> {
    let version = spire.version;
    let options = SpireServerOptions::new(host.server_plugin()?).with(spire);
    let title = format!("SPIRE server {version} loaded keylime-attestor-server, pinned by its SHA-256");
    let server = steps.run(&title, || {
        let validated = SpireServer::validate(&options)?;
        let said = String::from_utf8_lossy(&validated.stdout).trim().to_owned();
        ensure!(validated.status.success(), "spire-server validate: {said}");
        let server = SpireServer::start(&options)?;
        let told = format!("spire-server validate: {said}");
        Ok((server, told))
    })?;
    let agent_id = server.agent_id(&host.id);
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    server.entry_create(&agent_id, WORKLOAD, &[&uid])?;

    let options = SpireAgentOptions::new(host.agent_plugin()?);
    let title = format!("SPIRE agent {version} loaded keylime-attestor-agent, and attested");
    let mut agent = steps.timed(&title, || {
        let mut agent = SpireAgent::start(&server, &options)?;
        let took = agent.attested(LIMIT)?;
        Ok((agent, agent_id.clone(), took))
    })?;
    steps.run("A workload on this host asked for its X.509-SVID", || {
        let svids = agent.fetch_x509(LIMIT)?;
        let svid = svids.first().context("SPIRE gave no SVID")?;
        Ok(((), svid.spiffe_id.clone()))
    })?;
    change_pcr(steps, host)?;
    steps.run("The SPIRE agent started afresh, and was refused", || {
        agent.wipe_and_restart()?;
        Ok(((), agent.refused(LIMIT)?))
    })?;
    at_the_end(&server, &agent)
}

/// Changes the watched PCR, and waits until the verifier has seen it.
pub(crate) fn change_pcr(steps: &mut Steps, host: &Host) -> Result<()> {
    steps.run(&format!("PCR {WATCHED_PCR} was extended in the TPM, as a tampered boot would"), || {
        host.tpm.pcr_extend(WATCHED_PCR)?;
        let record = host.servers.wait_state(&host.id, 9, LIMIT)?;
        let event = record.get("last_event_id").and_then(|event| event.as_str()).unwrap_or_default();
        Ok(((), format!("the verifier noticed: state 9, Invalid Quote ({event})")))
    })
}
