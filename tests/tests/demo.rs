// SPDX-License-Identifier: Apache-2.0
//! The demo shows what it says, with SPIRE and without.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use test_support::process::{Program, success};
use test_support::{bin, require};

fn demo(spire: Option<&str>) -> String {
    let mut program = Program::new(bin::built("spire-keylime-demo").unwrap());
    for name in ["KEYLIME_VENV", "SPIRE_BIN_DIRS", bin::FOLDER_VARIABLE] {
        if let Ok(value) = std::env::var(name) {
            program = program.env(name, value);
        }
    }
    if let Some(folder) = spire {
        program = program.env("SPIRE_BIN_DIRS", folder);
    }
    success("demo", program.run(Duration::from_secs(180)).unwrap()).unwrap()
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
