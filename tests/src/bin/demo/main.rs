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
    /// Leave everything running at the end, say how to look at it, and wait for Ctrl-C.
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
        Ok(_) => real_spire::show(&mut steps, &host, |server, agent| keep(arguments, &host, Some((server, agent)))),
        Err(why) => {
            println!("    SPIRE is not here ({why}): the built-in plugin host stands in for it.");
            built_in_host::show(&mut steps, &host)?;
            keep(arguments, &host, None);
            Ok(())
        }
    }
}

/// With `--keep`, says how to look at what is running, and waits until Ctrl-C ends this process and all of that.
fn keep(arguments: &Arguments, host: &Host, spire: Option<(&SpireServer, &SpireAgent)>) {
    if !arguments.keep {
        return;
    }
    if let Some((server, agent)) = spire {
        println!(
            "\n  SPIRE's agents:        spire-server agent list -socketPath {}\
             \n                         (it lists the host until its SVID expires or it is evicted)\
             \n  SPIRE server's log:    less {}/spire-server.log\
             \n  SPIRE agent's log:     less {}/spire-agent.log (the refusal has ended it)",
            server.socket.display(),
            server.folder().display(),
            agent.folder().display()
        );
    }
    let tls = host.servers.cv_ca.display();
    println!(
        "\n  The TPM:               TPM2TOOLS_TCTI={tcti} tpm2_pcrread sha256:{WATCHED_PCR}\
         \n  The verifier's record: curl -s --cacert {tls}/cacert.crt --cert {tls}/client-cert.crt \\\
         \n                           --key {tls}/client-private.pem https://127.0.0.1:{verifier}/v2.5/agents/{id}\
         \n  keylime_agent's log:   less {agent}/agent.log\
         \n\n  Everything else is left running; Ctrl-C ends it and removes its folders.",
        tcti = host.tpm.tcti,
        verifier = host.servers.verifier_port,
        id = host.id,
        agent = host.agent.scratch().display(),
    );
    loop {
        std::thread::park();
    }
}
