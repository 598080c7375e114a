// SPDX-License-Identifier: Apache-2.0
//! The SPIRE agent and the Workload API behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::binaries::SpireBinaries;
use super::config::{AgentFile, PluginSpec};
use super::log::{self, LogLine};
use super::server::SpireServer;
use crate::process::{self, Part, Program};
use crate::scratch::Scratch;
use crate::wait;

/// Limit for one command.
const LIMIT: Duration = Duration::from_secs(30);

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct SpireAgentOptions {
    /// The node attestor.
    pub plugin: PluginSpec,
    /// Further lines of the block `agent`.
    pub extra: String,
    /// Further blocks beside it, such as `health_checks { … }`.
    pub blocks: String,
}

impl SpireAgentOptions {
    /// An agent with this node attestor.
    #[must_use]
    pub fn new(plugin: PluginSpec) -> Self {
        Self { plugin, extra: String::new(), blocks: String::new() }
    }
}

/// An X.509-SVID as the Workload API handed it out.
#[derive(Debug, Clone)]
pub struct Svid {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// All that `spire-agent api fetch x509 -output json` prints about it.
    pub fields: Value,
}

/// A running SPIRE agent.
#[derive(Debug)]
pub struct SpireAgent {
    /// The configuration file.
    pub config: PathBuf,
    /// Socket of the Workload API.
    pub socket: PathBuf,
    started: Instant,
    binaries: SpireBinaries,
    part: Part,
    scratch: Scratch,
}

impl SpireAgent {
    /// Starts an agent of this server. Whether it attests is asked with [`SpireAgent::attested`] or
    /// [`SpireAgent::refused`].
    ///
    /// # Errors
    /// When the server does not give its bundle or the agent cannot be started.
    pub fn start(server: &SpireServer, options: &SpireAgentOptions) -> Result<Self> {
        let scratch = Scratch::new("spirea")?;
        let bundle = scratch.write("bundle.pem", server.bundle_show()?)?;
        let socket = scratch.join("workload.sock");
        let config = write_config(&scratch, server, &bundle, &socket, options)?;
        let binaries = server.binaries().clone();
        let started = Instant::now();
        let part = launch(&binaries, &config, &scratch)?;
        Ok(Self { config, socket, started, binaries, part, scratch })
    }

    /// Runs `spire-agent validate` on the configuration that these options make, without starting an agent.
    ///
    /// # Errors
    /// When the server does not give its bundle or the command hangs.
    pub fn validate(server: &SpireServer, options: &SpireAgentOptions) -> Result<Output> {
        let scratch = Scratch::new("spirev")?;
        let bundle = scratch.write("bundle.pem", server.bundle_show()?)?;
        let config = write_config(&scratch, server, &bundle, &scratch.join("workload.sock"), options)?;
        Program::new(&server.binaries().agent)
            .args(["validate".as_ref(), "-config".as_ref(), config.as_os_str()])
            .run(LIMIT)
    }

    /// Waits for the node attestation to succeed; answers the time from the agent's start, at most 20 ms too long.
    ///
    /// # Errors
    /// When the agent ends or `limit` passes; with the end of its log.
    pub fn attested(&mut self, limit: Duration) -> Result<Duration> {
        self.part.wait_log("Node attestation was successful", limit)?;
        Ok(self.started.elapsed())
    }

    /// Waits for a node attestation to be refused; answers SPIRE's text (`error` of the log line).
    ///
    /// # Errors
    /// When none is within `limit`, or the agent attests; with the end of its log.
    pub fn refused(&mut self, limit: Duration) -> Result<String> {
        let what = "refusal of the node attestation";
        let outcome = wait::until(what, limit, || {
            let ended = self.part.exited();
            let lines = self.log();
            anyhow::ensure!(
                lines.iter().all(|line| line.message != "Node attestation was successful"),
                "{what}: it was successful"
            );
            let refused = lines.into_iter().map(|line| line.error).find(|error| error.contains("attest"));
            anyhow::ensure!(refused.is_some() || ended.is_none(), "{what}: the agent ended for another reason");
            Ok(refused)
        });
        outcome.with_context(|| format!("end of its log:\n{}", self.part.log_tail(30)))
    }

    /// Fetches the X.509-SVIDs of the calling process; waits for the first one up to `limit`, since a new entry has
    /// to reach the agent first.
    ///
    /// # Errors
    /// With the last answer when there is none in time.
    pub fn fetch_x509(&self, limit: Duration) -> Result<Vec<Svid>> {
        let mut last = None;
        let found = wait::until("X.509-SVID", limit, || match self.fetch_x509_now() {
            Ok(svids) => Ok(Some(svids)),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        });
        found.map_err(|error| match last {
            Some(last) => last.context(error),
            None => error,
        })
    }

    /// As [`SpireAgent::fetch_x509`], asking once.
    ///
    /// # Errors
    /// When the agent refuses or its socket is not there.
    pub fn fetch_x509_now(&self) -> Result<Vec<Svid>> {
        let text = self.cli(&["api", "fetch", "x509", "-output", "json"])?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        let svids = answer.get("svids").and_then(Value::as_array).context("no svids in the answer")?;
        let id = |fields: &Value| fields.get("spiffe_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(svids.iter().map(|fields| Svid { spiffe_id: id(fields), fields: fields.clone() }).collect())
    }

    /// Runs `spire-agent` with the given command and arguments against this agent's socket.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let what = format!("spire-agent {}", args.join(" "));
        let words = args.iter().take_while(|arg| !arg.starts_with('-')).count();
        let (command, options) = args.split_at_checked(words).unwrap_or((args, &[]));
        let output = Program::new(&self.binaries.agent)
            .args(command)
            .args(["-socketPath".as_ref(), self.socket.as_os_str()])
            .args(options)
            .run(LIMIT)?;
        process::success(&what, output)
    }

    /// The lines of its log since the last start.
    #[must_use]
    pub fn log(&self) -> Vec<LogLine> {
        log::parse(&self.part.log())
    }

    /// Its process, which also holds the plugin.
    pub fn part(&mut self) -> &mut Part {
        &mut self.part
    }

    /// The folder of configuration, data (`data`) and log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Ends it as a service manager does.
    ///
    /// # Errors
    /// When it does not end within 15 s; it is killed then.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.part.terminate(Duration::from_secs(15))
    }

    /// Starts it again; kills it first if it runs. Its key was in memory, so it attests anew.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.part.kill();
        self.started = Instant::now();
        self.part = launch(&self.binaries, &self.config, &self.scratch)?;
        Ok(())
    }

    /// Kills it, empties its data folder and starts it.
    ///
    /// # Errors
    /// When the folder cannot be emptied or the program not be started.
    pub fn wipe_and_restart(&mut self) -> Result<()> {
        self.part.kill();
        fs::remove_dir_all(self.scratch.join("data"))?;
        self.scratch.folder("data")?;
        self.restart()
    }
}

fn write_config(
    scratch: &Scratch,
    server: &SpireServer,
    bundle: &Path,
    socket: &Path,
    options: &SpireAgentOptions,
) -> Result<PathBuf> {
    let data = scratch.folder("data")?;
    let file = AgentFile {
        server_port: server.port,
        trust_domain: &server.trust_domain,
        socket,
        data: &data,
        bundle,
        extra: &options.extra,
        blocks: &options.blocks,
        plugins: std::slice::from_ref(&options.plugin),
    };
    scratch.write("agent.conf", file.text()?)
}

fn launch(binaries: &SpireBinaries, config: &Path, scratch: &Scratch) -> Result<Part> {
    Program::new(&binaries.agent)
        .args(["run".as_ref(), "-config".as_ref(), config.as_os_str()])
        .folder(scratch.path())
        .start("spire-agent", &scratch.join("agent.log"))
}
