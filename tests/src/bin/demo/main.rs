// SPDX-License-Identifier: Apache-2.0
//! `scripts/demo`: shows a host getting its SPIFFE identity because its TPM says so, and losing it when the TPM says
//! otherwise. Everything it starts is real and runs on loopback, in folders below `TMPDIR`; it ends with this process,
//! however that ends, and the script removes the folders.

mod built_in_host;
mod real_spire;
mod steps;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use e2e::{Host, LIMIT, WATCHED_PCR, keylime_options, our_agent};
use test_support::spire::SpireBinaries;
use test_support::{KeylimeServers, SpireAgent, SpireServer, Swtpm, SwtpmOptions};

use crate::steps::Steps;

/// A host gets its SPIFFE identity because its TPM says so: the real SPIRE, Keylime and a software TPM, on loopback.
#[derive(Debug, Parser)]
#[command(name = "./scripts/demo", bin_name = "./scripts/demo", version)]
struct Arguments {
    /// Leave everything running at the end, say how to look at it and how to heal the host, and wait for Ctrl-C.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match show(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(arguments: &Arguments) -> Result<()> {
    let spire = SpireBinaries::find();
    println!("A host gets its SPIFFE identity because its TPM says so.\n");
    let mut steps = Steps::new();

    let tpm = steps.run("Software TPM with an EK certificate", || {
        let tpm = Swtpm::start(SwtpmOptions::default())?;
        let told = format!("TCTI {}", tpm.tcti);
        Ok((tpm, told))
    })?;
    let servers = steps.run("Keylime verifier and registrar", || {
        let servers = KeylimeServers::start(&keylime_options(&tpm))?;
        let told = format!("verifier :{}, registrar :{} (TLS)", servers.verifier_port, servers.registrar_tls_port);
        Ok((servers, told))
    })?;
    let host = steps.run("keylime_agent made its AK and registered it, with the EK", || {
        let options = our_agent(&tpm)?;
        let host = Host::with(tpm, servers, options)?;
        let told = format!("id {} (hash of the EK)", host.id);
        Ok((host, told))
    })?;
    steps.run("keylime_tenant checked the EK certificate and enrolled the host", || {
        host.servers.enrol(&host.id, host.agent.port, Some(&e2e::tpm_policy()))?;
        Ok(((), format!("policy: PCR {WATCHED_PCR} must be zero")))
    })?;
    steps.run("The verifier accepted the first quote", || {
        host.servers.wait_verified(&host.id, LIMIT)?;
        Ok(((), "state 3, Get Quote; it asks again every 2 s".to_owned()))
    })?;

    match spire {
        Ok(spire) => real_spire::show(&mut steps, &host, &spire, |server, agent| {
            keep(arguments, &host, Some((&spire, server, agent)))
        }),
        Err(why) => {
            println!("    SPIRE is not here ({why}): the built-in plugin host stands in for it.");
            built_in_host::show(&mut steps, &host)?;
            keep(arguments, &host, None)
        }
    }
}

/// With `--keep`, says how to look at what is running, and waits until this process and all of that is ended.
fn keep(arguments: &Arguments, host: &Host, spire: Option<(&SpireBinaries, &SpireServer, &SpireAgent)>) -> Result<()> {
    if !arguments.keep {
        return Ok(());
    }
    let tenant = host.servers.tenant_script()?;
    let (tenant, tls, id) = (tenant.display(), host.servers.cv_ca.display(), &host.id);
    let tpm = format!("TPM2TOOLS_TCTI={}", host.tpm.tcti);
    println!("\n  To look at it:");
    if let Some((binaries, server, agent)) = spire {
        println!(
            "    SPIRE's agents:        {spire} agent list -socketPath {socket}\
             \n                           (it lists the host until its SVID expires or it is evicted)\
             \n    SPIRE server's log:    less {server}/spire-server.log\
             \n    SPIRE agent's log:     less {agent}/spire-agent.log (the refusal has ended it)",
            spire = binaries.server.display(),
            socket = server.socket.display(),
            server = server.folder().display(),
            agent = agent.folder().display()
        );
    }
    println!(
        "    The TPM:               {tpm} tpm2_pcrread sha256:{WATCHED_PCR}\
         \n    Keylime's view:        {tenant} -c status -u {id}\
         \n    The verifier's record: curl -s --cacert {tls}/cacert.crt --cert {tls}/client-cert.crt \\\
         \n                             --key {tls}/client-private.pem https://127.0.0.1:{verifier}/v2.5/agents/{id}\
         \n    keylime_agent's log:   less {agent}/agent.log\
         \n\n  To heal the host:\
         \n    Put the PCR right:     {tpm} tpm2_pcrreset {WATCHED_PCR}\
         \n    Have Keylime go on:    {tenant} -c reactivate -u {id}",
        verifier = host.servers.verifier_port,
        agent = host.agent.scratch().display(),
    );
    if let Some((binaries, _, agent)) = spire {
        println!("    Start the SPIRE agent: {} run -config {}", binaries.agent.display(), agent.config.display());
    }
    println!(
        "\n  Everything else is left running; Ctrl-C, or kill {}, ends it and removes its folders.",
        std::process::id()
    );
    loop {
        std::thread::park();
    }
}
