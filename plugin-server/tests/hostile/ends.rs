// SPDX-License-Identifier: Apache-2.0
//! Ends: SPIRE is killed, SPIRE asks the plugin to end. Whatever is under way, no process and no socket stays behind.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use spire_proto::server_nodeattestor::attest_request::Request as Said;
use tempfile::TempDir;
use test_support::keylime::fake::Reply;
use test_support::wait;

use crate::bench::{Bench, Call, ID, LIMIT, LOCAL, configure, init, launch, payload, response};
use crate::neighbours::for_agents;

/// Names what the host of this process is to do, for [`the_host_that_is_killed`].
const PHASE: &str = "HOSTILE_HOST_PHASE";
/// The plugin's configuration for that host.
const DATA: &str = "HOSTILE_HOST_DATA";
/// The folder of its sockets.
const SOCKETS: &str = "HOSTILE_HOST_SOCKETS";

/// How far the host gets before it is killed.
const PHASES: [&str; 6] =
    ["launched", "initialized", "configured", "before the payload", "before the quote", "asking Keylime"];

#[test]
fn a_plugin_whose_host_was_killed_ends_by_itself() {
    // The orphan becomes this process's child, which learns its exit status.
    prctl::set_child_subreaper(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bench = runtime.block_on(Bench::start(LOCAL));
    bench.keylime.verifier.conduct(for_agents(Reply::Hang));
    for phase in PHASES {
        let sockets = tempfile::tempdir().unwrap();
        let mut host = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ends::the_host_that_is_killed", "--nocapture"])
            .env(PHASE, phase)
            .env(DATA, format!("{}{LOCAL}", bench.keylime.plugin_data()))
            .env(SOCKETS, sockets.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
        let plugin = lines.find_map(|line| line.unwrap().strip_prefix("PLUGIN ").map(|pid| pid.parse().unwrap()));
        let plugin = Pid::from_raw(plugin.expect("the host says where it is"));
        // SIGKILL.
        host.kill().unwrap();
        host.wait().unwrap();
        let status = wait::until(&format!("end of the plugin of a host killed when {phase}"), LIMIT, || {
            let status = waitpid(plugin, Some(WaitPidFlag::WNOHANG))?;
            Ok((status != WaitStatus::StillAlive).then_some(status))
        });
        assert_eq!(status.unwrap(), WaitStatus::Exited(plugin, 0), "{phase}");
        assert_eq!(left_of_the_plugin(&sockets), 0, "{phase}");
    }
}

fn left_of_the_plugin(sockets: &TempDir) -> usize {
    std::fs::read_dir(sockets.path()).unwrap().count()
}

/// No test but the host of the test above, in a process of its own.
#[test]
fn the_host_that_is_killed() {
    let Ok(phase) = std::env::var(PHASE) else { return };
    let phase = PHASES.iter().position(|name| *name == phase).unwrap();
    let (data, sockets) = (std::env::var(DATA).unwrap(), std::env::var(SOCKETS).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let plugin = launch(sockets.as_ref()).start().await.unwrap();
        if phase >= 1 {
            init(&plugin).await;
        }
        if phase >= 2 {
            configure(plugin.channel(), &data).await;
        }
        let mut call = None;
        if phase >= 3 {
            let mut opened = Call::open(plugin.channel()).await;
            if phase >= 4 {
                opened.challenge(payload(ID, "sha256")).await.unwrap();
            }
            if phase >= 5 {
                let answer = Said::ChallengeResponse(response("r"));
                opened.say(Some(answer)).await;
            }
            call = Some(opened);
        }
        println!("\nPLUGIN {}", plugin.pid());
        std::future::pending::<()>().await;
        drop((plugin, call));
    });
}

#[tokio::test]
async fn shutdown_does_not_wait_for_attestations() {
    let bench = Bench::start(LOCAL).await;
    bench.still_works("the start").await;
    bench.keylime.verifier.conduct(for_agents(Reply::Hang));
    let mut calls = Vec::new();
    for number in 0..50 {
        let mut call = bench.open().await;
        if number % 3 > 0 {
            call.challenge(payload(ID, "sha256")).await.unwrap();
        }
        if number % 3 > 1 {
            let quote = response(&bench.tpm.quote("X").text());
            call.say(Some(Said::ChallengeResponse(quote))).await;
        }
        calls.push(call);
    }
    let Bench { plugin, sockets, .. } = bench;
    let report = plugin.shutdown().await;
    assert!(report.success() && !report.killed(), "{report}");
    assert_eq!(left_of_the_plugin(&sockets), 0);
    for mut call in calls {
        assert!(call.ends().await.is_err());
    }
}

/// Attestations that can end are let to their end.
#[tokio::test]
async fn shutdown_lets_those_end_that_can() {
    let bench = Bench::start(LOCAL).await;
    let mut call = bench.open().await;
    let nonce = call.challenge(payload(ID, "sha256")).await.unwrap();
    let quote = response(&bench.tpm.quote(&nonce).text());
    let Bench { plugin, keylime: _keylime, .. } = bench;
    let (report, outcome) = tokio::join!(plugin.shutdown(), call.outcome(quote));
    assert!(report.success() && !report.killed(), "{report}");
    assert!(outcome.is_ok(), "{outcome:?}");
}
