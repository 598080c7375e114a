// SPDX-License-Identifier: Apache-2.0
//! Programs under test: started with a log file, waited for, and never left behind.
//!
//! Each program gets a session of its own, which holds whatever it starts in turn (SPIRE's plugins, Keylime's
//! workers). Three things end a session: dropping the [`Part`], the kernel's parent-death signal for the program
//! itself, and a watchdog shell that learns from a closed pipe that this process is gone, even by `SIGKILL`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::wait;

mod session;
mod watchdog;

pub use session::{cpu_time, members, peak_rss_kib, rss_kib};

/// The variables that a program under test inherits; all others would make a test depend on who runs it.
const INHERITED: [&str; 8] =
    ["HOME", "LANG", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE", "PATH", "RUST_BACKTRACE", "TMPDIR", "USER"];

/// A program to start: what a shell command line would say.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    folder: Option<PathBuf>,
    private_mounts: bool,
}

impl Program {
    /// A program by path, or by name to be looked for in `PATH`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), env: Vec::new(), folder: None, private_mounts: false }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable. Besides these only a few harmless ones (`PATH`, `HOME`, …) are inherited.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Gives the program a mount namespace of its own where that is allowed, so that what it mounts goes away with it.
    #[must_use]
    pub fn private_mounts(mut self) -> Self {
        self.private_mounts = nix::unistd::geteuid().is_root();
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().stdin(Stdio::null());
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let (parent, private_mounts) = (Pid::this(), self.private_mounts);
        watchdog::start();
        // SAFETY: only async-signal-safe system calls between fork and exec, and no allocation.
        unsafe { command.pre_exec(move || before_exec(parent, private_mounts)) };
        command
    }

    /// Runs the program to its end and answers its output.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended within `limit` (it is killed then). A non-zero exit status is no
    /// error here; see [`success`].
    pub fn run(&self, limit: Duration) -> Result<Output> {
        let name = self.path.display();
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let done = wait::until(&format!("end of {name}"), limit, || Ok(child.try_wait()?));
        if done.is_err() {
            session::kill(child.id());
            child.wait()?;
        }
        watchdog::remove(child.id());
        let stdout = stdout.join().map_err(|_| anyhow!("reader of {name} failed"))?;
        let stderr = stderr.join().map_err(|_| anyhow!("reader of {name} failed"))?;
        match done {
            Ok(status) => Ok(Output { status, stdout, stderr }),
            Err(error) => Err(error.context(String::from_utf8_lossy(&stderr).into_owned())),
        }
    }

    /// Starts the program; both output streams are appended to the file `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(&self, name: &str, log: &Path) -> Result<Part> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let log_start = file.metadata()?.len();
        let mut command = self.command();
        command.stdout(file.try_clone()?).stderr(file);
        let child = spawn(command).with_context(|| format!("cannot start {}", self.path.display()))?;
        Ok(Part { name: name.to_owned(), child, log: log.to_owned(), log_start, status: None })
    }
}

/// Runs in the new process, before the program.
fn before_exec(parent: Pid, private_mounts: bool) -> io::Result<()> {
    nix::unistd::setsid()?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() != parent {
        // The parent died before the signal was asked for.
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    if private_mounts && nix::sched::unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        // Refused below a chroot, as the line above is in many containers: mounts are seen outside then.
        let _ = nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>);
    }
    // By the new process, so that nothing is missed when the old one is killed right after the fork.
    watchdog::add(Pid::this());
    Ok(())
}

fn drain(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before a read error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

type SpawnOrder = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The kernel sends the parent-death signal when the *thread* that started the program ends, which for the thread of
/// a test or of a runtime's pool is too early. This thread lives as long as the process.
static SPAWNER: LazyLock<mpsc::Sender<SpawnOrder>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<SpawnOrder>();
    thread::spawn(move || {
        for (mut command, answer) in inbox {
            // Nobody waits for the answer any more only when the asking thread died.
            let _ = answer.send(command.spawn());
        }
    });
    orders
});

fn spawn(command: Command) -> Result<Child> {
    let (answer, inbox) = mpsc::sync_channel(1);
    SPAWNER.send((command, answer)).map_err(|_| anyhow!("the spawning thread is gone"))?;
    Ok(inbox.recv()??)
}

/// Turns a non-zero exit status into an error that holds what the program printed.
///
/// # Errors
/// When the status is not 0.
pub fn success(what: &str, output: Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    bail!("{what}: {}\n{}\n{}", output.status, stdout.trim_end(), stderr.trim_end())
}

/// A running program. Dropping it kills it together with all it started; in a failing test the end of its log is
/// printed.
#[derive(Debug)]
pub struct Part {
    name: String,
    child: Child,
    log: PathBuf,
    log_start: u64,
    status: Option<ExitStatus>,
}

impl Part {
    /// The process id; also the id of the session that holds everything the program starts.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The name given at the start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The log file. A program started again with the same file appends to it.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What the program has printed since this start, both streams.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(self.log_start).unwrap_or(usize::MAX);
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }

    /// The last lines of [`Part::log`].
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// The exit status, when the program has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits for `look` to answer `Some`; gives up at once when the program ends.
    ///
    /// # Errors
    /// With the end of the log: when the program has ended, `limit` has passed, or `look` failed.
    pub fn ready<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let label = format!("{}: {what}", self.name);
        let outcome = wait::until(&label, limit, || {
            let ended = self.exited();
            match (look(self)?, ended) {
                (Some(found), _) => Ok(Some(found)),
                (None, Some(status)) => bail!("{label}: ended with {status}"),
                (None, None) => Ok(None),
            }
        });
        outcome.map_err(|error| anyhow!("{error:#}; end of its log:\n{}", self.log_tail(30)))
    }

    /// Waits until a line with `words` is in the log of this start, and answers the line.
    ///
    /// # Errors
    /// As [`Part::ready`].
    pub fn wait_log(&mut self, words: &str, limit: Duration) -> Result<String> {
        self.ready(&format!("log line with \"{words}\""), limit, |part| {
            Ok(part.log().lines().find(|line| line.contains(words)).map(str::to_owned))
        })
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            session::signal(self.pid(), signal);
        }
    }

    /// Sends a signal to the program and everything it started, as a service manager does.
    pub fn signal_all(&self, signal: Signal) {
        for (pid, _) in members(self.pid()) {
            session::signal(pid, signal);
        }
    }

    /// Stops the whole part in its tracks: it keeps its sockets and answers nothing until [`Part::resume`].
    pub fn pause(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Lets a paused part go on.
    pub fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// Sends `SIGTERM` to the program alone and waits for its end; then kills what it left behind.
    ///
    /// # Errors
    /// When it has not ended within `limit`; it is killed then.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let ended = self.wait_end(limit);
        self.kill();
        ended
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let label = format!("end of {}", self.name);
        wait::until(&label, limit, || Ok(self.exited()))
            .map_err(|error| anyhow!("{error:#}; end of its log:\n{}", self.log_tail(30)))
    }

    /// Kills the program and everything it started.
    pub fn kill(&mut self) {
        session::kill(self.pid());
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
        watchdog::remove(self.pid());
    }

    /// The processes of this part, itself included: id and name of the program file.
    #[must_use]
    pub fn members(&self) -> Vec<(u32, String)> {
        members(self.pid())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- end of the log of {} ---\n{}", self.name, self.log_tail(40));
        }
        self.kill();
    }
}

/// The SHA-256 digest of a file, in hex: what `plugin_checksum` holds.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut block = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut block)?;
        if length == 0 {
            return Ok(hex::encode(context.finish()));
        }
        context.update(block.get(..length).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
