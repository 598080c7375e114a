// SPDX-License-Identifier: Apache-2.0
//! A verifier and a registrar that say what a test wants: well-behaved until told otherwise, and quick.
//!
//! They speak HTTPS with client certificates of a CA of their own, on fixed ports that stay theirs while they are
//! stopped. Each runs on a thread of its own, so that blocking tests may use it as well as asynchronous ones. Nothing
//! is kept of a request but its number: they serve thousands a second without growing.

mod records;
mod server;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::ca::{Issued, LeafSpec, TestCa};
pub use crate::http::{Gate, Reply, Request};
use crate::scratch::Scratch;

pub use records::FakeAgent;
pub use server::{FakeServer, Security};

/// A verifier and a registrar that know the same agents.
#[derive(Debug)]
pub struct FakeKeylime {
    /// The verifier.
    pub verifier: FakeServer,
    /// The registrar's TLS side.
    pub registrar: FakeServer,
    /// The CA of both servers and of the client.
    pub ca: TestCa,
    agents: Agents,
    ca_file: PathBuf,
    client_files: (PathBuf, PathBuf),
    scratch: Scratch,
}

/// The agents by id.
#[derive(Debug, Clone, Default)]
struct Agents(Arc<RwLock<HashMap<String, FakeAgent>>>);

impl Agents {
    fn find(&self, id: &str) -> Option<FakeAgent> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

impl FakeKeylime {
    /// Starts both.
    ///
    /// # Errors
    /// When there is no free port, or a certificate cannot be made or written.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new("fake-keylime")?;
        let ca = TestCa::root("Fake Keylime CA")?;
        let ca_file = ca.write(scratch.path(), "ca")?;
        let client_files = ca.issue(&LeafSpec::new("client").client_only())?.write(scratch.path(), "client")?;
        let security = Security::tls(&ca.issue(&LeafSpec::new("server").server_only())?, ca.pem())?;
        let agents = Agents::default();
        let known = agents.clone();
        let verifier = FakeServer::start(security.clone(), move |request| records::verifier(&known, request))?;
        let known = agents.clone();
        let registrar = FakeServer::start(security, move |request| records::registrar(&known, request))?;
        Ok(Self { verifier, registrar, ca, agents, ca_file, client_files, scratch })
    }

    /// One verifier more, of the same CA and with the same agents.
    ///
    /// # Errors
    /// As [`FakeKeylime::start`].
    pub fn another_verifier(&self) -> Result<FakeServer> {
        let security = self.security(&self.ca.issue(&LeafSpec::new("server").server_only())?)?;
        let known = self.agents.clone();
        FakeServer::start(security, move |request| records::verifier(&known, request))
    }

    /// Makes an agent known to both, or replaces it.
    pub fn put(&self, id: &str, agent: FakeAgent) {
        self.agents.0.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), agent);
    }

    /// Changes what both know of an agent.
    ///
    /// # Errors
    /// When there is no such agent.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut FakeAgent)) -> Result<()> {
        let mut agents = self.agents.0.write().unwrap_or_else(PoisonError::into_inner);
        change(agents.get_mut(id).context("no such agent")?);
        Ok(())
    }

    /// The good answers again from both, at their ports and with the certificate of the beginning.
    ///
    /// # Errors
    /// As [`FakeServer::restart`].
    pub fn behave(&self) -> Result<()> {
        for server in [&self.verifier, &self.registrar] {
            server.behave();
            if !server.is_as_started() {
                server.restart(None)?;
            }
        }
        Ok(())
    }

    /// TLS settings of a server with a certificate of [`FakeKeylime::ca`].
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn security(&self, identity: &Issued) -> Result<Security> {
        Security::tls(identity, self.ca.pem())
    }

    /// The lines of the server plugin's configuration that name these servers and the TLS files for them.
    #[must_use]
    pub fn plugin_data(&self) -> String {
        format!(
            "keylime_verifier_port = \"{}\"\nkeylime_registrar_port = \"{}\"\n{}",
            self.verifier.port(),
            self.registrar.port(),
            self.tls_data()
        )
    }

    /// The lines of the server plugin's configuration that name the TLS files.
    #[must_use]
    pub fn tls_data(&self) -> String {
        let (cert, key) = &self.client_files;
        format!(
            "keylime_tls_ca_cert_file = {:?}\nkeylime_tls_cert_file = {cert:?}\nkeylime_tls_key_file = {key:?}\n",
            self.ca_file
        )
    }

    /// The folder that holds the TLS files.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
