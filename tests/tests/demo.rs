// SPDX-License-Identifier: Apache-2.0
//! The demo shows what it says, with SPIRE and without.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use test_support::process::{Program, success};
use test_support::scratch::Scratch;
use test_support::{bin, require, wait};

const LIMIT: Duration = Duration::from_secs(180);

fn program() -> Program {
    let mut program = Program::new(bin::built("spire-keylime-demo").unwrap());
    for name in ["KEYLIME_VENV", "SPIRE_BIN_DIRS", bin::FOLDER_VARIABLE] {
        if let Ok(value) = std::env::var(name) {
            program = program.env(name, value);
        }
    }
    program
}

fn demo(spire: Option<&str>) -> String {
    let mut program = program();
    if let Some(folder) = spire {
        program = program.env("SPIRE_BIN_DIRS", folder);
    }
    success("demo", program.run(LIMIT).unwrap()).unwrap()
}

#[test]
fn with_the_real_spire() {
    let (Some(()), Some(_), Some(_)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let Some(()) = require::root() else { return };
    let told = demo(None);
    for expected in [
        "spire-server validate: SPIRE server configuration file is valid.",
        "spiffe://tower.example/spire/agent/keylime/",
        "spiffe://tower.example/demo-workload",
        "the verifier noticed: state 9, Invalid Quote (pcr_validation.invalid_pcr_23)",
        "code = PermissionDenied desc = nodeattestor(keylime): the host failed its verification by Keylime (attempt ",
    ] {
        assert!(told.contains(expected), "{expected} is not in:\n{told}");
    }
}

#[test]
fn without_spire_the_built_in_host_stands_in() {
    let (Some(()), Some(_), Some(())) = (require::swtpm(), require::keylime(), require::root()) else { return };
    let told = demo(Some("/nonexistent"));
    for expected in [
        "the built-in plugin host stands in for it.",
        "spiffe://tower.example/spire/agent/keylime/",
        "server plugin: PermissionDenied: nodeattestor(keylime): the host failed its verification by Keylime (attempt ",
    ] {
        assert!(told.contains(expected), "{expected} is not in:\n{told}");
    }
}

/// What comes after the words on a line of what was told.
fn after<'a>(told: &'a str, words: &str) -> &'a str {
    let line = told.lines().find_map(|line| line.trim_start().strip_prefix(words));
    line.unwrap_or_else(|| panic!("no line begins with {words:?} in:\n{told}")).trim()
}

#[test]
fn a_host_that_is_left_running_can_be_looked_at_healed_and_stopped() {
    let (Some(()), Some(_), Some(spire)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let Some(()) = require::root() else { return };
    let scratch = Scratch::new("keep").unwrap();
    let mut demo = program().args(["--keep"]).start("demo", &scratch.join("demo.log")).unwrap();
    demo.wait_log("ends it and removes its folders", LIMIT).unwrap();
    let told = demo.log();
    assert!(told.contains(&format!("SPIRE server {} loaded", spire.version)), "{told}");
    let run = |command: &str| {
        let shell = Program::new("/bin/sh").args(["-c", command]).env("PATH", std::env::var_os("PATH").unwrap());
        success(command, shell.run(LIMIT).unwrap()).unwrap()
    };
    let status = after(&told, "Keylime's view:");
    assert!(run(status).contains("Invalid Quote"));
    run(after(&told, "Put the PCR right:"));
    run(after(&told, "Have Keylime go on:"));
    wait::until("Keylime vouches for the host again", LIMIT, || Ok(run(status).contains("Get Quote").then_some(())))
        .unwrap();
    let start = format!("exec {}", after(&told, "Start the SPIRE agent:"));
    let mut agent = Program::new("/bin/sh").args(["-c", &start]).start("agent", &scratch.join("agent.log")).unwrap();
    agent.wait_log("Node attestation was successful", LIMIT).unwrap();
    let kill = told.lines().rev().find_map(|line| line.split_once("or kill ")?.1.split_once(',')).unwrap().0;
    assert_eq!(kill, demo.pid().to_string());
    run(&format!("kill {kill}"));
    demo.wait_end(LIMIT).unwrap();
}
