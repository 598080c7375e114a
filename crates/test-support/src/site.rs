// SPDX-License-Identifier: Apache-2.0
//! A CA with certificates for both ends of a connection, and TLS settings that use them.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tls::{ClientTls, Identity, ServerTls, Trust};

use crate::ca::{LeafSpec, TestCa};
use crate::scratch::Scratch;

/// A CA and its file. All calls panic where a file cannot be written.
#[derive(Debug)]
pub struct Site {
    /// Where the files are.
    pub scratch: Scratch,
    /// The CA.
    pub ca: TestCa,
    /// Its certificate.
    pub ca_file: PathBuf,
}

#[allow(clippy::new_without_default, reason = "it makes files")]
impl Site {
    /// A new CA.
    ///
    /// # Panics
    /// See [`Site`].
    #[must_use]
    pub fn new() -> Self {
        let scratch = Scratch::new("site").expect("a folder can be made");
        let ca = TestCa::root("Test Root").expect("a CA can be made");
        let ca_file = ca.write(scratch.path(), "ca").expect("a file can be written");
        Self { scratch, ca, ca_file }
    }

    /// The files of a certificate and its key, from this CA or another.
    ///
    /// # Panics
    /// See [`Site`].
    #[must_use]
    pub fn issue(&self, ca: &TestCa, spec: &LeafSpec) -> Identity {
        let issued = ca.issue(spec).expect("a certificate can be made");
        let (cert, key) = issued.write(self.scratch.path(), &spec.name).expect("a file can be written");
        Identity { cert, key, password: None }
    }

    /// A client of this CA.
    ///
    /// # Panics
    /// See [`Site`].
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client_as(Some(self.issue(&self.ca, &LeafSpec::new("client").client_only())))
    }

    /// A client with this certificate that trusts this CA.
    ///
    /// # Panics
    /// See [`Site`].
    #[must_use]
    pub fn client_as(&self, identity: Option<Identity>) -> Arc<ClientConfig> {
        let ca = Trust::Files(vec![self.ca_file.clone()]);
        ClientTls { ca, identity, server_name: None }.build().expect("the files are good")
    }

    /// A server of this CA.
    ///
    /// # Panics
    /// See [`Site`].
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server_as(self.issue(&self.ca, &LeafSpec::new("server").server_only()))
    }

    /// A server with this certificate that trusts this CA.
    ///
    /// # Panics
    /// See [`Site`].
    #[must_use]
    pub fn server_as(&self, identity: Identity) -> Arc<ServerConfig> {
        ServerTls { identity, client_cas: vec![self.ca_file.clone()] }.build().expect("the files are good").config
    }
}
