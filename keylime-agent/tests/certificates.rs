// SPDX-License-Identifier: Apache-2.0
//! Server keys, certificates and addresses: with the real registrar, tenant and verifier where those can have them, and
//! what is refused, where `--check-config` and a start must say the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::{BINARY, LIMIT, Lab, options};
use test_support::ca::{Issued, LeafSpec, TestCa, self_signed};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions};

/// The folder of an agent, and the shell command lines that make its key and certificate there.
fn make(folder: &Path, commands: &[&str]) {
    for command in commands {
        let output = Command::new("sh").args(["-ec", command]).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

/// Makes a self-signed certificate for the key that is there.
const SELF_SIGNED: &str = "openssl req -new -x509 -key server-private.pem -passin pass:right -days 2 -subj /CN=agent \
                           -addext extendedKeyUsage=serverAuth -addext basicConstraints=critical,CA:FALSE \
                           -out server-cert.crt";
const P_256: &str = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out server-private.pem";

/// Enrols the agent at the address that the registrar has of it, and waits for a quote.
fn attest(lab: &Lab, id: &str, name: &str) {
    let output = lab.servers.tenant(&["-c", "add", "-u", id]).unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    lab.servers.wait_verified(id, LIMIT).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let record = lab.wait_quotes(id, 1);
    assert_eq!(record["operational_state"], 3, "{name}");
    // An enrolled agent that has gone would be asked for again and again.
    lab.servers.verifier_delete(id).unwrap();
}

/// The id of row number `row`.
fn id(row: usize) -> String {
    format!("d432fbb3-d2f1-4a97-9ef7-75bd81c1{row:04}")
}

fn start(lab: &Lab, options: &KeylimeAgentOptions) -> KeylimeAgent {
    let mut agent = KeylimeAgent::launch(&lab.tpm.tcti, &lab.servers, options).unwrap();
    agent.part().wait_log("> Listening on ", LIMIT).unwrap();
    agent
}

/// Starts the agent with what the commands leave in its folder, and has it attested.
fn attested_with(rows: &[(&str, &[&str], &str)]) {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    for (row, (name, commands, password)) in rows.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), commands);
        let key = fs::read(folder.path().join("server-private.pem")).ok();
        let mut options = KeylimeAgentOptions { folder: Some(folder.path().to_owned()), ..options() }
            .env("KEYLIME_AGENT_SERVER_KEY_PASSWORD", *password)
            .env("KEYLIME_AGENT_PAYLOAD_KEY_PASSWORD", *password);
        options.uuid = id(row);
        let mut agent = start(&lab, &options);
        let record = lab.servers.registrar_agent(&id(row)).unwrap().unwrap();
        // The registrar writes it anew, as one certificate.
        assert_eq!(record["mtls_cert"], certificates(&folder.path().join("server-cert.crt"))[0], "{name}");
        attest(&lab, &id(row), name);
        assert!(agent.terminate().unwrap().success());
        if let Some(key) = key {
            assert_eq!(fs::read(folder.path().join("server-private.pem")).unwrap(), key, "{name}");
        }
    }
}

/// The certificates of a file, each as its PEM text.
fn certificates(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    text.split_inclusive(end).filter(|part| part.ends_with(end)).map(str::to_owned).collect()
}

#[test]
fn the_verifier_takes_rsa_server_keys() {
    attested_with(&[
        ("RSA-2048", &["openssl genrsa -out server-private.pem 2048", SELF_SIGNED], ""),
        ("RSA-3072, PKCS#1, its certificate made", &["openssl genrsa -traditional -out server-private.pem 3072"], ""),
        ("RSA-4096", &["openssl genrsa -out server-private.pem 4096", SELF_SIGNED], ""),
        ("PKCS#1", &["openssl genrsa -traditional -out server-private.pem 2048", SELF_SIGNED], ""),
        (
            "encrypted",
            &[
                "openssl genrsa -out k 2048; openssl pkcs8 -topk8 -in k -out server-private.pem -passout pass:right",
                SELF_SIGNED,
            ],
            "right",
        ),
    ]);
}

#[test]
fn the_verifier_takes_other_server_keys() {
    attested_with(&[
        ("P-256", &[P_256, SELF_SIGNED], ""),
        (
            "P-384",
            &["openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out server-private.pem", SELF_SIGNED],
            "",
        ),
        ("Ed25519", &["openssl genpkey -algorithm ed25519 -out server-private.pem", SELF_SIGNED], ""),
        ("SEC1", &["openssl ecparam -name prime256v1 -genkey -out server-private.pem", SELF_SIGNED], ""),
        ("SEC1, its certificate made", &["openssl ecparam -name secp384r1 -genkey -noout -out server-private.pem"], ""),
        (
            "encrypted, its certificate made",
            &["openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes-128-cbc -pass pass:right -out \
                 server-private.pem"],
            "right",
        ),
        ("both made, encrypted", &[], "right"),
        ("a password for a key that has none", &[P_256, SELF_SIGNED], "right"),
    ]);
}

#[test]
fn the_verifier_takes_issued_certificates() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let ca = TestCa::root("Site").unwrap();
    let issuing = ca.intermediate("Site Issuing").unwrap();
    // The file is the `trusted_server_ca` of verifier and tenant, which read it for each agent.
    let mut trusted = fs::OpenOptions::new().append(true).open(lab.servers.ca_cert()).unwrap();
    trusted.write_all(ca.pem().as_bytes()).unwrap();
    let leaf = LeafSpec::new("agent").server_only();
    let long = LeafSpec { dns: (0..80).map(|n| format!("name-{n}.of.the.host.example")).collect(), ..leaf.clone() };
    let any = LeafSpec { server: false, ..leaf.clone() };
    let both = "can be used by a client, too, and whoever trusts its issuer may take this host for one";
    for (row, (name, issued, served, warning)) in [
        ("by the root", ca.issue(&leaf).unwrap(), 1, None),
        ("by an intermediate, which is sent", issuing.issue(&leaf).unwrap(), 2, None),
        ("more than the 2048 characters of the registrar's column", ca.issue(&long).unwrap(), 1, None),
        ("for clients, too", ca.issue(&LeafSpec::new("agent")).unwrap(), 1, Some(both)),
        ("without usages", ca.issue(&any).unwrap(), 1, Some(both)),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &issued);
        let mut options = KeylimeAgentOptions { folder: Some(folder.path().to_owned()), ..options() };
        options.uuid = id(row);
        let mut agent = start(&lab, &options);
        let record = lab.servers.registrar_agent(&id(row)).unwrap().unwrap();
        let file = certificates(&folder.path().join("server-cert.crt"));
        assert_eq!((&record["mtls_cert"], file.len()), (&json!(file[0]), served), "{name}");
        let log = agent.part().log();
        let warned: Vec<_> =
            log.lines().filter(|line| line.contains("WARN") && line.contains("our certificate")).collect();
        assert_eq!(warned.len(), usize::from(warning.is_some()), "{name}: {warned:?}");
        assert!(warning.is_none_or(|warning| warned[0].contains(warning)), "{name}: {warned:?}");
        attest(&lab, &id(row), name);
        assert!(agent.terminate().unwrap().success());
    }
}

fn write(folder: &Path, issued: &Issued) {
    fs::write(folder.join("server-cert.crt"), &issued.chain_pem).unwrap();
    fs::write(folder.join("server-private.pem"), &issued.key_pem).unwrap();
    make(folder, &["chmod 600 server-private.pem"]);
}

/// Passes connections on to another port of this host, and returns its own port.
fn forwarder(to: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
            for (mut from, mut into) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || {
                    // A connection that breaks off ends here, too.
                    let _ = io::copy(&mut from, &mut into);
                    let _ = into.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    port
}

#[test]
fn the_verifier_reaches_the_contact_address_and_port() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let long = "agent-with-a-longer-name.example";
    let v6 = "IP Address:0:0:0:0:0:0:0:1";
    for (row, (ip, contact, registered, listening, name, reached)) in [
        ("::1", "::1", "::1", "[::1]", v6, true),
        ("[::1]", "[::1]", "::1", "[::1]", v6, true),
        ("::", "127.0.0.1", "127.0.0.1", "[::]", "IP Address:127.0.0.1", true),
        ("::", "::1", "::1", "[::]", v6, true),
        ("0.0.0.0", "localhost", "localhost", "0.0.0.0", "DNS:localhost", true),
        ("0.0.0.0", "127.0.0.2", "127.0.0.2", "0.0.0.0", "IP Address:127.0.0.2", true),
        // No resolver knows the names, so only the registrar has them. The first is longer than its column says.
        ("localhost", long, long, "127.0.0.1", "DNS:agent-with-a-longer-name.example", false),
        ("127.0.0.1", "2001:db8:1:2::10", "2001:db8:1:2::10", "127.0.0.1", "IP Address:2001:DB8:1:2:0:0:0:10", false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut options = options().env("KEYLIME_AGENT_IP", ip).env("KEYLIME_AGENT_CONTACT_IP", contact);
        options.uuid = id(row);
        let mut agent = start(&lab, &options);
        assert!(agent.part().log().contains(&format!("> Listening on https://{listening}:{}\n", agent.port)), "{ip}");
        let record = lab.servers.registrar_agent(&id(row)).unwrap().unwrap();
        assert_eq!(record["ip"], registered);
        make(&agent.folder, &[&format!("openssl x509 -in server-cert.crt -noout -text | grep -F '{name}'")]);
        if reached {
            attest(&lab, &id(row), contact);
        }
        assert!(agent.terminate().unwrap().success());
    }

    // A port that is forwarded.
    let port = test_support::ports::reserve().unwrap();
    let outside = forwarder(port.number());
    let options = options()
        .env("KEYLIME_AGENT_PORT", port.number().to_string())
        .env("KEYLIME_AGENT_CONTACT_PORT", outside.to_string());
    let agent = start(&lab, &options);
    let id = agent.id().unwrap();
    assert_eq!(lab.servers.registrar_agent(&id).unwrap().unwrap()["port"], outside);
    attest(&lab, &id, "forwarded");
}

/// What keeps an agent from starting: its messages at error level, which `--check-config` must have, too. Then the
/// warnings about certificates.
fn refusals(folder: &Path, password: &str) -> (Vec<String>, Vec<String>) {
    let run = |arguments: &[&str]| {
        let output = Command::new("timeout")
            .args(["20", BINARY])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KEYLIME_AGENT_CONFIG", folder.join("agent.conf"))
            .env("KEYLIME_AGENT_KEYLIME_DIR", folder)
            .env("KEYLIME_AGENT_SERVER_KEY_PASSWORD", password)
            // There is none, and what is wrong must be found before it is asked for.
            .env("TCTI", "swtpm:path=nowhere")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap().replace(folder.to_str().unwrap(), "DIR");
        let of = |level: &str| {
            let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(level)?.split_once("> "));
            lines.map(|(_, message)| message.to_owned()).collect::<Vec<_>>()
        };
        let warnings = of("WARN").into_iter().filter(|warning| warning.contains("our certificate"));
        (of("ERROR"), warnings.collect::<Vec<_>>())
    };
    let checked = run(&["--check-config"]);
    if !checked.0.is_empty() {
        assert_eq!(run(&[]), checked);
    }
    checked
}

#[test]
fn what_cannot_be_used_is_refused_before_the_tpm_is_opened() {
    let unusable = "option 'server_key': the private key in DIR/server-private.pem cannot be used for TLS: failed to \
                    parse private key as RSA, ECDSA, or EdDSA: use RSA of 2048 to 4096 bits, ECDSA P-256 or P-384, \
                    or Ed25519";
    let unsupported = "option 'server_key': the private key in DIR/server-private.pem is encrypted in a way that is \
                       not supported: convert it with: openssl pkcs8 -topk8 -v2 aes-256-cbc";
    let wrong = "option 'server_key_password' (environment variable KEYLIME_AGENT_SERVER_KEY_PASSWORD): \
                 the private key in DIR/server-private.pem cannot be decrypted with the configured password: configure the one that it was encrypted with";
    let missing = "option 'server_key_password' (environment variable KEYLIME_AGENT_SERVER_KEY_PASSWORD): \
                   the private key in DIR/server-private.pem is encrypted and no password is configured: store it unencrypted with mode 0600, or configure its password where \
                   there is an option for it";
    let mismatch = "option 'server_key': the private key in DIR/server-private.pem does not belong to the \
                    certificate in DIR/server-cert.crt: after a renewal both files must be replaced together";
    let p_521 = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out server-private.pem";
    let encrypted = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes-256-cbc -pass pass:right \
                     -out server-private.pem";
    let other = "openssl req -x509 -newkey rsa:2048 -nodes -keyout k -subj /CN=a -out server-cert.crt";
    for (name, commands, password, refusal) in [
        ("P-521", &[p_521, SELF_SIGNED][..], "", unusable),
        ("P-521 without certificate", &[p_521], "", unusable),
        (
            "RSA-1024",
            &["openssl genrsa -out server-private.pem 1024", SELF_SIGNED],
            "",
            "option 'server_key': the private key in DIR/server-private.pem cannot be used for TLS: ",
        ),
        (
            "secp256k1",
            &["openssl ecparam -name secp256k1 -genkey -noout -out server-private.pem", SELF_SIGNED],
            "",
            unusable,
        ),
        (
            "legacy encryption",
            &["openssl genrsa -traditional -aes128 -passout pass:right -out server-private.pem 2048", SELF_SIGNED],
            "right",
            unsupported,
        ),
        (
            "3DES",
            &[
                "openssl genrsa -out k 2048; openssl pkcs8 -topk8 -v2 des3 -in k -passout pass:right -out \
                 server-private.pem",
                SELF_SIGNED,
            ],
            "right",
            unsupported,
        ),
        ("wrong password", &[encrypted, SELF_SIGNED], "wrong", wrong),
        ("wrong password, without certificate", &[encrypted], "wrong", wrong),
        ("no password", &[encrypted, SELF_SIGNED], "", missing),
        ("another key", &[P_256, other], "", mismatch),
        (
            "no key",
            &[other],
            "",
            "option 'server_key': there is no DIR/server-private.pem, but there is the certificate in \
             DIR/server-cert.crt: restore its key, or move the certificate away to have both made anew",
        ),
        (
            "DER certificate",
            &[P_256, SELF_SIGNED, "openssl x509 -in server-cert.crt -outform DER -out c; mv c server-cert.crt"],
            "",
            "option 'server_cert': the certificate file DIR/server-cert.crt holds no certificate: expected PEM text \
             with a line -----BEGIN CERTIFICATE-----, found binary (DER) data, to be converted to PEM",
        ),
        (
            "DER key",
            &[P_256, SELF_SIGNED, "openssl pkey -in server-private.pem -outform DER -out k; mv k server-private.pem"],
            "",
            "option 'server_key': the private key file DIR/server-private.pem holds no private key: expected PEM \
             text with a line -----BEGIN PRIVATE KEY-----, found binary (DER) data, to be converted to PEM",
        ),
    ] {
        let folder = agent_folder();
        make(folder.path(), commands);
        let (errors, _) = refusals(folder.path(), password);
        assert_eq!(errors.iter().filter(|error| error.starts_with(refusal)).count(), 1, "{name}: {errors:#?}");
    }
}

/// A folder with a CA for clients and a configuration file.
fn agent_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("cv_ca")).unwrap();
    fs::write(folder.path().join("cv_ca/cacert.crt"), TestCa::root("CA").unwrap().pem()).unwrap();
    fs::write(folder.path().join("agent.conf"), "[agent]\nrun_as = \"\"\n").unwrap();
    folder
}

#[test]
fn what_verifiers_refuse_is_warned_of() {
    let ca = TestCa::root("CA").unwrap();
    let server = LeafSpec::new("agent").server_only();
    let expired = "our certificate in DIR/server-cert.crt expired on ";
    let clients = "our certificate in DIR/server-cert.crt is not for servers (extended key usage): have it issued with \
                   server authentication, peers refuse it";
    let both = "our certificate in DIR/server-cert.crt can be used by a client, too, ";
    let early = LeafSpec { not_before: std::time::SystemTime::now() + LIMIT, ..server.clone() };
    let any = LeafSpec { server: false, ..server.clone() };
    for (name, issued, warning) in [
        ("as it should be", ca.issue(&server).unwrap(), None),
        ("self-made", self_signed(&LeafSpec::new("agent")).unwrap(), None),
        ("expired", ca.issue(&server.clone().expired()).unwrap(), Some(expired)),
        ("self-made and expired", self_signed(&server.clone().expired()).unwrap(), Some(expired)),
        (
            "not yet valid",
            ca.issue(&early).unwrap(),
            Some("our certificate in DIR/server-cert.crt is not valid before "),
        ),
        ("for clients", ca.issue(&LeafSpec::new("agent").client_only()).unwrap(), Some(clients)),
        ("for both", ca.issue(&LeafSpec::new("agent")).unwrap(), Some(both)),
        ("for anything", ca.issue(&any).unwrap(), Some(both)),
    ] {
        let folder = agent_folder();
        write(folder.path(), &issued);
        let (errors, warnings) = refusals(folder.path(), "");
        assert_eq!(errors, Vec::<String>::new(), "{name}");
        assert_eq!(warnings.len(), usize::from(warning.is_some()), "{name}: {warnings:?}");
        assert!(warning.is_none_or(|warning| warnings[0].starts_with(warning)), "{name}: {warnings:?}");
    }
}
