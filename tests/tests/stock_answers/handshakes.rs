// SPDX-License-Identifier: Apache-2.0
//! Which clients, versions, ciphers and groups an agent takes with mTLS, as OpenSSL's client sees it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions};

use crate::Answers;
use crate::clients::{Client, Clients};

/// How often a handshake is tried whose refusal got lost: who sends on when the other side has closed may not get to
/// read why it has.
const ATTEMPTS: usize = 8;

/// What each client gets.
pub(crate) fn outcomes(binary: &Path) -> Answers {
    let clients = Clients::new();
    let servers = KeylimeServers::start(&KeylimeOptions::default()).unwrap();
    let mut outcomes = Answers::new();
    for (server, of_ec_server) in [("P-256", true), ("RSA-2048", false)] {
        let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
        let mut options =
            KeylimeAgentOptions::new(binary).env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", clients.trusted.clone());
        if !of_ec_server {
            options.folder = Some(folder_with_rsa_key(&clients));
        }
        let agent = KeylimeAgent::start(&tpm.tcti, &servers, &options).unwrap();
        let talk = Talk { agent: &agent, clients: &clients };
        let session = clients.scratch.join("session.pem").display().to_string();
        for (name, arguments) in common() {
            outcomes.insert(format!("{server}: {name}"), talk.with("for clients", arguments));
        }
        if !of_ec_server {
            continue;
        }
        for (name, client) in &clients.all {
            outcomes.insert(format!("client {name}"), talk.handshake(Some(client), &[]));
            outcomes.insert(format!("client {name}, TLS 1.2"), talk.handshake(Some(client), &["-tls1_2"]));
        }
        outcomes.insert("no certificate".to_owned(), talk.handshake(None, &[]));
        outcomes.insert("no certificate, TLS 1.2".to_owned(), talk.handshake(None, &["-tls1_2"]));
        for (name, arguments) in of_hello() {
            outcomes.insert(name.to_owned(), talk.with("for clients", arguments));
        }
        for version in ["-tls1_2", "-tls1_3"] {
            talk.with("for clients", &[version, "-sess_out", &session]);
            let again = talk.with("for clients", &[version, "-sess_in", &session]);
            outcomes.insert(format!("a resumed session, {version}"), again);
        }
        for (name, bytes) in
            [("plain HTTP", "GET /version HTTP/1.1\r\nHost: a\r\n\r\n"), ("no TLS at all", "\0\0\0\0\0")]
        {
            outcomes.insert(name.to_owned(), talk.raw(bytes));
        }
    }
    outcomes
}

/// Versions and cipher suites, which depend on the server's key.
fn common() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("what the client likes best", &[]),
        ("TLS 1.0", &["-tls1", "-cipher", "ALL:@SECLEVEL=0"]),
        ("TLS 1.1", &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]),
        ("TLS 1.2", &["-tls1_2"]),
        ("TLS 1.3", &["-tls1_3"]),
        ("TLS_AES_128_GCM_SHA256", &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"]),
        ("TLS_AES_256_GCM_SHA384", &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"]),
        ("TLS_CHACHA20_POLY1305_SHA256", &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"]),
        ("TLS_AES_128_CCM_SHA256", &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"]),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"]),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]),
        ("ECDHE-RSA-AES128-GCM-SHA256", &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]),
        ("ECDHE-RSA-AES256-GCM-SHA384", &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"]),
        ("ECDHE-RSA-CHACHA20-POLY1305", &["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"]),
        ("DHE-RSA-AES128-GCM-SHA256", &["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"]),
        ("DHE-RSA-AES256-GCM-SHA384", &["-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"]),
        ("ECDHE-ECDSA-AES128-SHA", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"]),
        ("ECDHE-RSA-AES128-SHA", &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"]),
        ("AES128-GCM-SHA256", &["-tls1_2", "-cipher", "AES128-GCM-SHA256"]),
        ("AES128-SHA", &["-tls1_2", "-cipher", "AES128-SHA"]),
    ]
}

/// What else a client may say in its first message.
fn of_hello() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("no server name", &["-noservername"]),
        ("a server name", &["-servername", "localhost"]),
        ("another server name", &["-servername", "elsewhere.example"]),
        ("a server name with an underscore", &["-servername", "a_host.example"]),
        ("an address as server name", &["-servername", "127.0.0.1"]),
        ("ALPN http/1.1", &["-alpn", "http/1.1"]),
        ("ALPN h2 and http/1.1", &["-alpn", "h2,http/1.1"]),
        ("ALPN http/1.0", &["-alpn", "http/1.0"]),
        ("group X25519", &["-groups", "X25519"]),
        ("group P-256", &["-groups", "P-256"]),
        ("group P-384", &["-groups", "P-384"]),
        ("group P-521", &["-groups", "P-521"]),
        ("group X448", &["-groups", "X448"]),
        ("group ffdhe2048", &["-groups", "ffdhe2048"]),
        ("a fragment of 512 bytes at most", &["-maxfraglen", "512"]),
        ("signatures with SHA-1 only", &["-tls1_2", "-sigalgs", "ECDSA+SHA1", "-cipher", "ALL:@SECLEVEL=0"]),
    ]
}

/// A folder with an RSA server key, for which the agent makes a certificate.
fn folder_with_rsa_key(clients: &Clients) -> std::path::PathBuf {
    let folder = clients.scratch.folder("keylime").unwrap();
    let output = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
        .arg(folder.join("server-private.pem"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    folder
}

struct Talk<'a> {
    agent: &'a KeylimeAgent,
    clients: &'a Clients,
}

impl Talk<'_> {
    fn with(&self, client: &str, arguments: &[&str]) -> Value {
        self.handshake(self.clients.all.get(client), arguments)
    }

    /// Connects and asks for the versions.
    fn handshake(&self, client: Option<&Client>, arguments: &[&str]) -> Value {
        let request = "GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let request = self.clients.scratch.write("request", request).unwrap();
        for _ in 0..ATTEMPTS {
            let mut command = Command::new("timeout");
            command.args(["20", "openssl", "s_client", "-ign_eof", "-connect"]);
            command.arg(format!("127.0.0.1:{}", self.agent.port));
            if let Some(Client { certificate, key }) = client {
                command.arg("-cert").arg(certificate).arg("-cert_chain").arg(certificate).arg("-key").arg(key);
            }
            let output = command.args(arguments).stdin(File::open(&request).unwrap()).output().unwrap();
            let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            if let Some(outcome) = told(&text.concat()) {
                return outcome;
            }
        }
        json!({ "status": "refused", "why": "without a word" })
    }

    /// Sends bytes and tells what comes back.
    fn raw(&self, bytes: &str) -> Value {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.agent.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut received = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut received);
        json!({ "received": crate::hex(&received) })
    }
}

/// What the client has said; nothing if it does not know how it came to its end.
fn told(text: &str) -> Option<Value> {
    let after = |words: &str| Some(text.split_once(words)?.1.lines().next()?.trim().to_owned());
    if let Some(status) = after("HTTP/1.1 ") {
        return Some(json!({
            "status": status.split(' ').next().and_then(|code| code.parse::<u16>().ok()),
            "session": after("\n---\nNew, ").or_else(|| after("\n---\nReused, ").map(|how| format!("reused, {how}"))),
            "key exchange": after("Server Temp Key: "),
            "signature": after("Peer signature type: "),
            "ALPN": after("ALPN protocol: "),
            "authorities named": text.contains("Acceptable client certificate CA names"),
        }));
    }
    if let Some(alert) = after(":SSL alert number ") {
        return Some(json!({ "status": "refused", "why": format!("alert {alert}") }));
    }
    None
}
