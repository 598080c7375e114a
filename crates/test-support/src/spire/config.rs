// SPDX-License-Identifier: Apache-2.0
//! SPIRE's configuration files, as small as they can be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;

/// A node attestor plugin, as it stands in SPIRE's configuration.
#[derive(Debug, Clone)]
pub struct PluginSpec {
    /// The configured name; agent ids lie under `/spire/agent/<name>/`.
    pub name: String,
    /// The plugin's program.
    pub command: PathBuf,
    /// The contents of the block `plugin_data`, HCL.
    pub data: String,
    /// Writes `data` to this file and names it as `plugin_data_file`, which SPIRE reads anew on `SIGUSR1`.
    pub data_file: Option<PathBuf>,
    /// `plugin_checksum`; computed from the program when there is none.
    pub checksum: Option<String>,
}

impl PluginSpec {
    /// The plugin `keylime` with the given block of options.
    pub fn keylime(command: impl Into<PathBuf>, data: impl Into<String>) -> Self {
        Self { name: "keylime".to_owned(), command: command.into(), data: data.into(), data_file: None, checksum: None }
    }

    fn block(&self) -> Result<String> {
        let checksum = match &self.checksum {
            Some(checksum) => checksum.clone(),
            None => process::sha256(&self.command)?,
        };
        let Self { name, data, command, .. } = self;
        let data = match &self.data_file {
            Some(file) => {
                fs::write(file, data).with_context(|| format!("cannot write {}", file.display()))?;
                format!("plugin_data_file = {file:?}")
            }
            None => format!("plugin_data {{\n{data}\n    }}"),
        };
        Ok(format!(
            "  NodeAttestor {name:?} {{\n    plugin_cmd = {command:?}\n    plugin_checksum = {checksum:?}\n    \
             {data}\n  }}\n"
        ))
    }
}

/// What a server's file needs.
pub(super) struct ServerFile<'a> {
    pub(super) port: u16,
    pub(super) trust_domain: &'a str,
    pub(super) socket: &'a Path,
    pub(super) data: &'a Path,
    pub(super) extra: &'a str,
    pub(super) blocks: &'a str,
    pub(super) plugins: &'a [PluginSpec],
}

impl ServerFile<'_> {
    pub(super) fn text(&self) -> Result<String> {
        let Self { port, trust_domain, socket, data, extra, blocks, .. } = self;
        let plugins = plugin_blocks(self.plugins)?;
        let database = data.join("datastore.sqlite3");
        // Attestations are not slowed down, and new entries reach agents within a second at most.
        Ok(format!(
            "server {{\n  bind_address = \"127.0.0.1\"\n  bind_port = \"{port}\"\n  socket_path = {socket:?}\n  \
             trust_domain = {trust_domain:?}\n  data_dir = {data:?}\n  log_level = \"DEBUG\"\n  \
             log_format = \"json\"\n  ratelimit {{\n    attestation = false\n  }}\n  \
             experimental {{\n    cache_reload_interval = \"100ms\"\n  }}\n{extra}\n}}\n\
             plugins {{\n  DataStore \"sql\" {{\n    plugin_data {{\n      database_type = \"sqlite3\"\n      \
             connection_string = {database:?}\n    }}\n  }}\n  KeyManager \"memory\" {{\n    plugin_data {{}}\n  \
             }}\n{plugins}}}\n{blocks}\n"
        ))
    }
}

/// What an agent's file needs.
pub(super) struct AgentFile<'a> {
    pub(super) server_port: u16,
    pub(super) trust_domain: &'a str,
    pub(super) socket: &'a Path,
    pub(super) data: &'a Path,
    pub(super) bundle: &'a Path,
    pub(super) extra: &'a str,
    pub(super) blocks: &'a str,
    pub(super) plugins: &'a [PluginSpec],
}

impl AgentFile<'_> {
    pub(super) fn text(&self) -> Result<String> {
        let Self { server_port, trust_domain, socket, data, bundle, extra, blocks, .. } = self;
        let plugins = plugin_blocks(self.plugins)?;
        Ok(format!(
            "agent {{\n  data_dir = {data:?}\n  server_address = \"127.0.0.1\"\n  server_port = \"{server_port}\"\n  \
             socket_path = {socket:?}\n  trust_domain = {trust_domain:?}\n  trust_bundle_path = {bundle:?}\n  \
             log_level = \"DEBUG\"\n  log_format = \"json\"\n  experimental {{\n    sync_interval = \"500ms\"\n  \
             }}\n{extra}\n}}\nplugins {{\n  KeyManager \"memory\" {{\n    plugin_data {{}}\n  }}\n  \
             WorkloadAttestor \"unix\" {{\n    plugin_data {{}}\n  }}\n{plugins}}}\n{blocks}\n"
        ))
    }
}

fn plugin_blocks(plugins: &[PluginSpec]) -> Result<String> {
    plugins.iter().map(PluginSpec::block).collect()
}
