// SPDX-License-Identifier: Apache-2.0
//! An mTLS client for a Keylime agent, the same for ours and the stock one.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use test_support::{KeylimeAgent, KeylimeServers};
use tls::{ClientTls, Identity, Trust};

/// Makes connections to one agent.
#[derive(Debug)]
pub(crate) struct AgentEndpoint {
    tls: ClientTls,
    url: String,
}

impl AgentEndpoint {
    pub(crate) fn new(agent: &KeylimeAgent, servers: &KeylimeServers) -> Self {
        let tls = ClientTls {
            ca: Trust::Files(vec![agent.folder.join("server-cert.crt")]),
            identity: Some(Identity { cert: servers.client_cert(), key: servers.client_key(), password: None }),
            server_name: None,
        };
        Self { tls, url: format!("https://127.0.0.1:{}/v2.5/quotes/identity", agent.port) }
    }

    /// A client that has no connection and no TLS session yet.
    pub(crate) fn fresh(&self) -> Result<reqwest::Client> {
        let tls = Arc::unwrap_or_clone(self.tls.build()?);
        Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).tcp_nodelay(true).no_proxy().build()?)
    }

    /// One identity quote.
    pub(crate) async fn quote(&self, client: &reqwest::Client, nonce: &[u8; 32]) -> Result<()> {
        let nonce = std::str::from_utf8(nonce)?;
        let answer = client.get(format!("{}?nonce={nonce}", self.url)).send().await.context("no quote")?;
        ensure!(answer.status().is_success(), "the agent answered {}", answer.status());
        answer.bytes().await?;
        Ok(())
    }
}
