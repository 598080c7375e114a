// SPDX-License-Identifier: Apache-2.0
//! The real SPIRE with the `passphrase` example on both sides: metrics, and new data on a signal.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use nix::sys::signal::Signal;
use test_support::{
    PluginSpec, SpireAgent, SpireAgentOptions, SpireServer, SpireServerOptions,
    ports::{self, Port},
    require,
    spire::LogLine,
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

/// The block that has SPIRE show its metrics.
fn telemetry(port: &Port) -> String {
    format!("telemetry {{\n  Prometheus {{\n    host = \"127.0.0.1\"\n    port = {}\n  }}\n}}", port.number())
}

/// Waits until SPIRE shows a metric with all these parts of its line, and returns its value.
fn metric(port: &Port, parts: &[&str]) -> f64 {
    wait::until(&parts.join(" "), LIMIT, || {
        let Ok(mut connection) = TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())) else { return Ok(None) };
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        let line = text.lines().find(|line| parts.iter().all(|part| line.contains(part)) && !line.starts_with('#'));
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()))
    })
    .unwrap()
}

#[test]
fn spire_shows_what_the_plugins_measure() {
    let Some(_) = require::spire() else { return };
    let folder = tempfile::tempdir().unwrap();
    let [server_port, agent_port] = [(); 2].map(|()| ports::reserve().unwrap());
    let mut options = SpireServerOptions::new(plugin(folder.path(), "server"));
    options.blocks = telemetry(&server_port);
    let server = SpireServer::start(&options).unwrap();
    let mut options = SpireAgentOptions::new(plugin(folder.path(), "agent"));
    options.blocks = telemetry(&agent_port);
    let mut agent = SpireAgent::start(&server, &options).unwrap();
    agent.attested(LIMIT).unwrap();

    let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value}");
    assert!(metric(&server_port, &["spire_server_keylime_attestor_heartbeat{"]) >= 1.0);
    assert!(metric(&agent_port, &["spire_agent_keylime_attestor_heartbeat{"]) >= 1.0);
    for step in ["step=\"started\"", "step=\"attested\""] {
        near(metric(&server_port, &["spire_server_keylime_attestor_attestations{", step]), 1.0);
    }
    // A summary in milliseconds, as SPIRE's own times.
    near(metric(&server_port, &["spire_server_keylime_attestor_attestation_count{"]), 1.0);
    let milliseconds = metric(&server_port, &["spire_server_keylime_attestor_attestation_sum{"]);
    assert!(milliseconds > 0.1 && milliseconds < LIMIT.as_secs_f64() * 1000.0, "{milliseconds}");
    metric(&server_port, &["spire_server_keylime_attestor_attestation{", "quantile=\"0.99\""]);
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
