// SPDX-License-Identifier: Apache-2.0
//! The real SPIRE with the `passphrase` example on both sides: metrics, and new data on a signal.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use nix::sys::signal::Signal;
use test_support::{
    PluginSpec, SpireAgent, SpireAgentOptions, SpireServer, SpireServerOptions, require,
    spire::{LogLine, Prometheus},
    wait,
};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const DATA: &str = "passphrase = \"open sesame\"";

/// The plugin of one side. SPIRE runs a script, which becomes the example, which takes its side as an argument.
fn plugin(folder: &Path, side: &str) -> PluginSpec {
    let mut example = std::env::current_exe().unwrap();
    example.pop();
    example.pop();
    let example = example.join("examples/passphrase");
    assert!(example.exists(), "{} is missing: cargo build -p spire-plugin --examples", example.display());
    let script = folder.join(side);
    fs::write(&script, format!("#!/bin/sh\nexec '{}' {side}\n", example.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut plugin = PluginSpec::keylime(script, DATA);
    "passphrase".clone_into(&mut plugin.name);
    plugin
}

#[test]
fn spire_shows_what_the_plugins_measure() {
    let Some(_) = require::spire() else { return };
    let folder = tempfile::tempdir().unwrap();
    let [of_server, of_agent] = [(); 2].map(|()| Prometheus::new().unwrap());
    let mut options = SpireServerOptions::new(plugin(folder.path(), "server"));
    options.blocks = of_server.block();
    let server = SpireServer::start(&options).unwrap();
    let mut options = SpireAgentOptions::new(plugin(folder.path(), "agent"));
    options.blocks = of_agent.block();
    let mut agent = SpireAgent::start(&server, &options).unwrap();
    agent.attested(LIMIT).unwrap();

    let near = |expected: f64| move |value: f64| (value - expected).abs() < 1e-9;
    of_server.wait(&["spire_server_keylime_attestor_heartbeat{"], LIMIT, |count| count >= 1.0).unwrap();
    of_agent.wait(&["spire_agent_keylime_attestor_heartbeat{"], LIMIT, |count| count >= 1.0).unwrap();
    for step in ["step=\"started\"", "step=\"attested\""] {
        of_server.wait(&["spire_server_keylime_attestor_attestations{", step], LIMIT, near(1.0)).unwrap();
    }
    // A summary in milliseconds, as SPIRE's own times.
    of_server.wait(&["spire_server_keylime_attestor_attestation_count{"], LIMIT, near(1.0)).unwrap();
    let sensible = |milliseconds| milliseconds > 0.1 && milliseconds < LIMIT.as_secs_f64() * 1000.0;
    of_server.wait(&["spire_server_keylime_attestor_attestation_sum{"], LIMIT, sensible).unwrap();
    let quantile = ["spire_server_keylime_attestor_attestation{", "quantile=\"0.99\""];
    of_server.wait(&quantile, LIMIT, |_| true).unwrap();
}

#[test]
fn a_signal_has_spire_configure_the_plugin_anew() {
    let Some(_) = require::spire() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("passphrase.conf");
    let mut options = SpireServerOptions::new(plugin(folder.path(), "server"));
    options.plugins[0].data_file = Some(data.clone());
    let mut server = SpireServer::start(&options).unwrap();
    attest(&server, folder.path()).attested(LIMIT).unwrap();

    // What is not changed does not reach the plugin, what is refused changes nothing, and the next signal tries again.
    signal(&mut server, "Plugin not reconfigured since the config is unchanged", 1);
    fs::write(&data, "passphrase = \"other\" node = 1").unwrap();
    for count in [1, 2] {
        let line = signal(&mut server, "Failed to reconfigure plugin", count);
        assert!(line.error.ends_with("`node`: unknown option, known are `passphrase`"), "{}", line.error);
    }
    // JSON is passed on as it is.
    fs::write(&data, "{\"passphrase\": \"other\"}").unwrap();
    signal(&mut server, "Plugin reconfigured", 1);
    let reason = attest(&server, folder.path()).refused(LIMIT).unwrap();
    assert!(reason.contains("the node does not know the passphrase"), "{reason}");
    fs::write(&data, DATA).unwrap();
    signal(&mut server, "Plugin reconfigured", 2);
    attest(&server, folder.path()).attested(LIMIT).unwrap();
}

/// Starts an agent whose plugin knows the first passphrase.
fn attest(server: &SpireServer, folder: &Path) -> SpireAgent {
    SpireAgent::start(server, &SpireAgentOptions::new(plugin(folder, "agent"))).unwrap()
}

/// Has SPIRE read plugin data anew, and returns the `count`th line with this message.
fn signal(server: &mut SpireServer, message: &str, count: usize) -> LogLine {
    server.part().signal(Signal::SIGUSR1);
    let look = || Ok(server.log().into_iter().filter(|line| line.message == message).nth(count - 1));
    wait::until(message, LIMIT, look).unwrap()
}
