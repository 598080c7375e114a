// SPDX-License-Identifier: Apache-2.0
//! Our server plugin in the care of an operator of the real SPIRE: new settings and new certificates while it runs, and
//! what monitoring sees. Keylime and the host are stand-ins.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use e2e::{LIMIT, SoftwareAgent};
use nix::sys::signal::Signal;
use test_support::ca::LeafSpec;
use test_support::keylime::fake::{FakeAgent, FakeKeylime, Security};
use test_support::scratch::Scratch;
use test_support::spire::{LogLine, Prometheus, SpireBinaries, VERSIONS};
use test_support::{PluginSpec, SpireAgent, SpireAgentOptions, SpireServer, SpireServerOptions, bin, require, wait};

const ID: &str = "7f3a2b1c-0000-4000-8000-0123456789ab";

/// A host that Keylime holds to be good.
struct Lab {
    keylime: FakeKeylime,
    host: SoftwareAgent,
    scratch: Scratch,
}

impl Lab {
    fn start() -> Self {
        let (keylime, host) = (FakeKeylime::start().unwrap(), SoftwareAgent::start(ID).unwrap());
        // Any public key stands in for the EK's.
        keylime.put(ID, FakeAgent::verified(host.ak().to_vec(), Some(host.ak().to_vec())));
        Self { keylime, host, scratch: Scratch::new("operations").unwrap() }
    }

    fn server_plugin(&self) -> PluginSpec {
        PluginSpec::keylime(bin::built("keylime-attestor-server").unwrap(), self.keylime.plugin_data())
    }

    fn spire_agent(&self, server: &SpireServer) -> SpireAgent {
        let plugin = PluginSpec::keylime(bin::built("keylime-attestor-agent").unwrap(), self.host.agent_data());
        SpireAgent::start(server, &SpireAgentOptions::new(plugin)).unwrap()
    }
}

fn start(plugin: PluginSpec, spire: &SpireBinaries) -> SpireServer {
    SpireServer::start(&SpireServerOptions::new(plugin).with(spire)).unwrap()
}

/// Waits for the `count`th line with this message.
fn line(server: &SpireServer, message: &str, count: usize) -> LogLine {
    let look = || Ok(server.log().into_iter().filter(|line| line.message == message).nth(count - 1));
    wait::until(&format!("{count} x {message}"), LIMIT, look).unwrap()
}

#[test]
fn new_plugin_data_takes_effect_on_a_signal_and_bad_data_does_not() {
    for version in VERSIONS {
        let Some(spire) = require::spire_version(version) else { continue };
        let lab = Lab::start();
        let data = lab.scratch.join("keylime.conf");
        let mut plugin = lab.server_plugin();
        let options = plugin.data.clone();
        plugin.data_file = Some(data.clone());
        let mut server = start(plugin, &spire);
        let mut agent = lab.spire_agent(&server);
        agent.attested(LIMIT).unwrap();
        let selectors = |server: &SpireServer| {
            let record = server.agent_show(&server.agent_id(ID)).unwrap();
            let values = record.get("selectors").and_then(|list| list.as_array()).unwrap().iter();
            values.filter_map(|selector| Some(selector.get("value")?.as_str()?.to_owned())).collect::<Vec<_>>()
        };
        let id = format!("agent_id:{ID}");
        let all = selectors(&server);
        assert!(all.len() == 2 && all.contains(&id) && all.iter().any(|value| value.starts_with("ek_hash:sha256:")));

        fs::write(&data, format!("{options}\nselectors = [\"agent_id\"]")).unwrap();
        server.part().signal(Signal::SIGUSR1);
        line(&server, "Plugin reconfigured", 1);
        agent.wipe_and_restart().unwrap();
        agent.attested(LIMIT).unwrap();
        assert_eq!(selectors(&server), [id.as_str()]);

        fs::write(&data, format!("{options}\nselectors = [\"agent\"]\nquote_verification = \"no\"")).unwrap();
        server.part().signal(Signal::SIGUSR1);
        let refused = line(&server, "Failed to reconfigure plugin", 1).error;
        assert!(refused.contains("`selectors`") && refused.contains("`quote_verification`"), "{refused}");
        agent.wipe_and_restart().unwrap();
        agent.attested(LIMIT).unwrap();
        assert_eq!(selectors(&server), [id.as_str()]);
    }
}

#[test]
fn monitoring_sees_who_was_let_in_and_who_was_not() {
    for version in VERSIONS {
        let Some(spire) = require::spire_version(version) else { continue };
        let lab = Lab::start();
        let prometheus = Prometheus::new().unwrap();
        let options = SpireServerOptions::new(lab.server_plugin()).with(&spire);
        let server = SpireServer::start(&SpireServerOptions { blocks: prometheus.block(), ..options }).unwrap();
        let mut agent = lab.spire_agent(&server);
        agent.attested(LIMIT).unwrap();
        lab.keylime.change(ID, |agent| agent.state = Some(9)).unwrap();
        agent.wipe_and_restart().unwrap();
        agent.refused(LIMIT).unwrap();

        let counted = |metric: &str, label: &str, at_least: f64| {
            let name = format!("spire_server_keylime_attestor_{metric}{{");
            prometheus.wait(&[&name, label], LIMIT, |value| value >= at_least).unwrap()
        };
        let exactly = |value: f64| (value - 1.0).abs() < 1e-9;
        assert!(exactly(counted("attestation", "result=\"Ok\"", 1.0)));
        assert!(exactly(counted("attestation", "result=\"PermissionDenied\"", 1.0)));
        counted("heartbeat", "", 1.0);
        for hop in ["verifier", "verify_identity", "registrar", "node", "attestation"] {
            counted("latency_count", &format!("hop=\"{hop}\""), 1.0);
        }
        counted("certificate_days_left", "", 0.0);
    }
}

#[test]
fn a_new_client_certificate_is_taken_up_while_hosts_attest() {
    for version in VERSIONS {
        let Some(spire) = require::spire_version(version) else { continue };
        let lab = Lab::start();
        let [cert, key] = ["client.crt", "client.pem"].map(|name| lab.scratch.join(name));
        // Keylime trusts both of these, until the first is given up.
        let [given_up, lasting] = ["Given up", "Lasting"].map(|name| lab.keylime.ca.intermediate(name).unwrap());
        let first = given_up.issue(&LeafSpec::new("first").client_only()).unwrap();
        let next = lasting.issue(&LeafSpec::new("next").client_only()).unwrap();
        write(&cert, &first.chain_pem);
        write(&key, &first.key_pem);
        let mut plugin = lab.server_plugin();
        plugin.data = with_client(&plugin.data, &cert, &key);
        let server = start(plugin, &spire);

        let (stop, attested) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let _end = SetOnDrop(&stop);
            let attesting = scope.spawn(|| {
                let mut agent = lab.spire_agent(&server);
                agent.attested(LIMIT).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    attested.fetch_add(1, Ordering::Relaxed);
                    agent.wipe_and_restart().unwrap();
                    agent.attested(LIMIT).unwrap();
                }
            });
            let more = |than: usize| {
                let look = || {
                    assert!(!attesting.is_finished(), "an attestation failed");
                    Ok((attested.load(Ordering::Relaxed) > than + 1).then_some(()))
                };
                wait::until("two more attestations", LIMIT, look).unwrap();
            };
            more(0);
            write(&cert, "this is no certificate\n");
            let warning = line(&server, "Changed files are refused, what was in use before stays in use", 1);
            assert!(warning.level == "warning" && warning.error.contains("`keylime_tls_cert_file`"), "{warning:?}");
            more(attested.load(Ordering::Relaxed));
            write(&cert, &next.chain_pem);
            write(&key, &next.key_pem);
            line(&server, "Certificates reloaded", 1);
            more(attested.load(Ordering::Relaxed));
        });
        let identity = lab.keylime.ca.issue(&LeafSpec::new("server").server_only()).unwrap();
        let security = Security::tls(&identity, lasting.pem()).unwrap();
        lab.keylime.verifier.restart(Some(security.clone())).unwrap();
        lab.keylime.registrar.restart(Some(security)).unwrap();
        lab.spire_agent(&server).attested(LIMIT).unwrap();
    }
}

/// Ends the attestations however the test ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn write(path: &Path, text: &str) {
    // At once and whole, as tools that renew certificates do it.
    let new = PathBuf::from(format!("{}.new", path.display()));
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// The same plugin data with another client certificate and key.
fn with_client(data: &str, cert: &Path, key: &Path) -> String {
    let other = |line: &&str| !line.starts_with("keylime_tls_cert_file") && !line.starts_with("keylime_tls_key_file");
    let kept: Vec<_> = data.lines().filter(other).collect();
    format!("{}\nkeylime_tls_cert_file = {cert:?}\nkeylime_tls_key_file = {key:?}", kept.join("\n"))
}
