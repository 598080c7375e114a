// SPDX-License-Identifier: Apache-2.0
//! For this crate's tests: files, and handshakes in memory

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use test_support::ca::{Issued, LeafSpec, TestCa};
use test_support::scratch::Scratch;

use crate::{ClientTls, FileKind, Identity, ServerTls, TlsError, Trust, explain};

/// A folder with a CA, a server and a client certificate of it.
pub(crate) struct Site {
    pub(crate) scratch: Scratch,
    pub(crate) ca: TestCa,
    pub(crate) ca_file: PathBuf,
    pub(crate) server: (PathBuf, PathBuf),
    pub(crate) client: (PathBuf, PathBuf),
}

impl Site {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new("tls").unwrap();
        let ca = TestCa::root("Test Root").unwrap();
        let ca_file = ca.write(scratch.path(), "ca").unwrap();
        let issue = |spec: LeafSpec, name| ca.issue(&spec).unwrap().write(scratch.path(), name).unwrap();
        let server = issue(LeafSpec::new("server").server_only(), "server");
        let client = issue(LeafSpec::new("client").client_only(), "client");
        Self { scratch, ca, ca_file, server, client }
    }

    /// Issues a certificate from `spec` and writes it.
    pub(crate) fn issue(&self, ca: &TestCa, spec: &LeafSpec, name: &str) -> (PathBuf, PathBuf) {
        ca.issue(spec).unwrap().write(self.scratch.path(), name).unwrap()
    }

    pub(crate) fn client_tls(&self) -> ClientTls {
        ClientTls {
            ca: Trust::Files(vec![self.ca_file.clone()]),
            identity: Some(identity(&self.client)),
            server_name: None,
        }
    }

    pub(crate) fn server_tls(&self) -> ServerTls {
        ServerTls { identity: identity(&self.server), client_cas: vec![self.ca_file.clone()] }
    }

    /// A file with this text.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.scratch.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

pub(crate) fn identity((cert, key): &(PathBuf, PathBuf)) -> Identity {
    Identity { cert: cert.clone(), key: key.clone(), password: None }
}

pub(crate) fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// Valid from an hour from now on.
pub(crate) fn not_yet_valid(name: &str) -> LeafSpec {
    let mut spec = LeafSpec::new(name);
    spec.not_before = SystemTime::now() + Duration::from_secs(3600);
    spec
}

/// The same certificate with another last byte, thus a signature that does not verify.
pub(crate) fn with_broken_signature(issued: &Issued) -> Issued {
    let mut broken = issued.clone();
    *broken.cert_der.last_mut().unwrap() ^= 1;
    let base64 = base64(&broken.cert_der);
    broken.cert_pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    broken.chain_pem = broken.cert_pem.clone();
    broken
}

fn base64(bytes: &[u8]) -> String {
    let pem = x509_cert::der::pem::encode_string("X", Default::default(), bytes).unwrap();
    pem.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>().join("\n")
}

/// Runs a handshake; what the client and the server have to say of a failure.
pub(crate) fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), (Option<String>, Option<String>)> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_says, mut server_says) = (None, None);
    // Each round carries what is written by one side to the other, alerts included.
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() && server.read_tls(&mut wire).unwrap() > 0 {
            server_says = server_says.or(server.process_new_packets().err());
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() && client.read_tls(&mut wire).unwrap() > 0 {
            client_says = client_says.or(client.process_new_packets().err());
        }
    }
    if client_says.is_none() && server_says.is_none() {
        assert!(!client.is_handshaking() && !server.is_handshaking());
        return Ok((client, server));
    }
    Err((client_says.map(|e| explain(&e)), server_says.map(|e| explain(&e))))
}

/// The text of an error, with the path of its file replaced by `FILE`.
pub(crate) fn text(error: &TlsError, file: &Path) -> String {
    error.to_string().replace(file.to_str().unwrap(), "FILE")
}

/// A kind for tests that need any.
pub(crate) const CA: FileKind = FileKind::Ca;
