// SPDX-License-Identifier: Apache-2.0
//! What SPIRE's server and agent have in common as running programs.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::Duration;

use anyhow::Result;

use super::log::{self, LogLine};
use crate::process::{self, Part, Program};
use crate::scratch::Scratch;

/// Limit for the start and for one command.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// One of SPIRE's two programs, running. [`SpireServer`](super::SpireServer) and [`SpireAgent`](super::SpireAgent)
/// are read as one.
#[derive(Debug)]
pub struct SpireProgram {
    /// The configuration file.
    pub config: PathBuf,
    /// Socket of the administrator's API (server) or of the Workload API (agent).
    pub socket: PathBuf,
    binary: PathBuf,
    part: Part,
    scratch: Scratch,
}

impl SpireProgram {
    /// Starts it on a configuration file in `scratch`.
    pub(super) fn start(binary: &Path, config: PathBuf, socket: PathBuf, scratch: Scratch) -> Result<Self> {
        let part = launch(binary, &config, &scratch)?;
        Ok(Self { config, socket, binary: binary.to_owned(), part, scratch })
    }

    /// Starts it on the same file again; kills it first if it runs.
    pub(super) fn start_again(&mut self) -> Result<()> {
        self.part.kill();
        self.part = launch(&self.binary, &self.config, &self.scratch)?;
        Ok(())
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Runs the same binary with the given command and arguments against this program's socket.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let what = format!("{} {}", self.binary.display(), args.join(" "));
        // The options come after the words of the command.
        let words = args.iter().take_while(|arg| !arg.starts_with('-')).count();
        let (command, options) = args.split_at_checked(words).unwrap_or((args, &[]));
        let output = Program::new(&self.binary)
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

    /// Its process, which also holds the plugins.
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
}

fn launch(binary: &Path, config: &Path, scratch: &Scratch) -> Result<Part> {
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    Program::new(binary)
        .args(["run".as_ref(), "-config".as_ref(), config.as_os_str()])
        .folder(scratch.path())
        .start(&name, &scratch.join(format!("{name}.log")))
}

/// Has a binary check a configuration file, without starting anything.
pub(super) fn validate(binary: &Path, config: &Path) -> Result<Output> {
    Program::new(binary).args(["validate".as_ref(), "-config".as_ref(), config.as_os_str()]).run(LIMIT)
}
