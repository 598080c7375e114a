// SPDX-License-Identifier: Apache-2.0
//! The second half of the demo where SPIRE cannot be had: our own host loads the two plugins and carries the messages
//! between them as SPIRE does. Keylime and the TPM are as real as before.

use anyhow::{Context, Result, bail};
use e2e::Host;
use spire_plugin::host::{Launch, Sha256, SpireHost};
use test_support::process;
use tokio::runtime::Builder;

use crate::real_spire::change_pcr;
use crate::steps::Steps;

pub(crate) fn show(steps: &mut Steps, host: &Host) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let spire = SpireHost::new("tower.example".parse()?, "keylime");
    let (server, agent) = (host.server_plugin()?, host.agent_plugin()?);
    let pinned = |plugin: &std::path::Path| -> Result<Launch> {
        let checksum: Sha256 = process::sha256(plugin)?.parse()?;
        Ok(Launch::new(plugin).checksum(checksum))
    };
    let server = steps.run("The plugin host loaded keylime-attestor-server, pinned by its SHA-256", || {
        let plugin = runtime.block_on(spire.load_server(pinned(&server.command)?, &server.data))?;
        Ok((plugin, "configured".to_owned()))
    })?;
    let agent = steps.run("The plugin host loaded keylime-attestor-agent, pinned by its SHA-256", || {
        let plugin = runtime.block_on(spire.load_agent(pinned(&agent.command)?, &agent.data))?;
        Ok((plugin, "configured".to_owned()))
    })?;
    steps.run("The host attested", || {
        let attributes = runtime.block_on(spire.attest(&agent, &server))?;
        Ok(((), attributes.spiffe_id.to_string()))
    })?;
    change_pcr(steps, host)?;
    steps.run("The host attested again, and was refused", || {
        match runtime.block_on(spire.attest(&agent, &server)) {
            Ok(attributes) => bail!("it was let in as {}", attributes.spiffe_id),
            Err(refusal) => Ok(((), refusal.to_string())),
        }
    })?;
    runtime.block_on(async {
        agent.unload().await;
        server.unload().await;
    });
    Ok(())
}
