// SPDX-License-Identifier: Apache-2.0
//! The plugin's process: started and waited for by a thread of its own.
//!
//! The kernel kills the child when the *thread* that forked it ends. A thread of the runtime may end long before the
//! plugin does; this one lives exactly as long as its child.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, OpenOptionsExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::{Pid, getppid},
};
use tokio::sync::{oneshot, watch};

use super::{LaunchError, Sha256};

/// Sockets of one plugin that are removed at its end. Plugins have one or a few.
const MAX_SOCKETS: usize = 1024;

/// What to execute.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Absolute path.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Variables to set (`Some`) or remove, over the host's own environment.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) checksum: Option<Sha256>,
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    shared: Arc<Mutex<Shared>>,
    exit: watch::Receiver<Exit>,
}

/// What the thread and the owner of the child share.
#[derive(Debug, Default)]
struct Shared {
    /// The process ID may belong to another process by now.
    reaped: bool,
    /// The plugin's sockets, which a killed plugin leaves behind: first that of the handshake, then those it announced
    /// through the broker.
    sockets: Vec<PathBuf>,
}

impl Shared {
    /// Removes what the ended process left behind.
    fn clean_up(&mut self) {
        for path in self.sockets.drain(..) {
            if fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
                // Whoever else removes it has done what was wanted.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// What the plugin leaves behind, for those who learn of it.
#[derive(Clone, Debug)]
pub(crate) struct Leavings(Arc<Mutex<Shared>>);

impl Leavings {
    /// Has a socket that the plugin announced removed when the child has ended.
    ///
    /// Only one in the folder of the handshake's socket: a plugin makes its sockets in one folder, and what it announces
    /// elsewhere may be somebody else's.
    pub(crate) fn announced(&self, path: &Path) {
        let mut shared = lock(&self.0);
        let own = shared.sockets.first().is_some_and(|first| first.parent() == path.parent());
        if own && shared.sockets.len() < MAX_SOCKETS && !shared.sockets.iter().any(|known| known == path) {
            shared.sockets.push(path.to_owned());
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far the child is.
#[derive(Clone, Copy, Debug)]
enum Exit {
    Running,
    /// The status is unknown if the host has the system reap its children.
    Ended(Option<ExitStatus>),
}

/// A child and its pipes.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Child {
    /// Checks the file and executes it.
    pub(crate) async fn spawn(spec: Spec) -> Result<Started, LaunchError> {
        let program = spec.program.clone();
        let failed = |source| LaunchError::Execute { program, source };
        let (sender, receiver) = oneshot::channel();
        let spawned = thread::Builder::new().name("plugin-process".into()).spawn(move || supervise(&spec, sender));
        if let Err(error) = spawned {
            return Err(failed(error));
        }
        match receiver.await {
            Ok(started) => started,
            Err(_) => Err(failed(io::Error::other("the launching thread ended"))),
        }
    }

    /// Process ID; stays that of the child until it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Resolves when the child has ended, with its status if the system told.
    pub(crate) async fn exited(&self) -> Option<ExitStatus> {
        let mut exit = self.exit.clone();
        match exit.wait_for(|exit| matches!(exit, Exit::Ended(_))).await.as_deref() {
            Ok(Exit::Ended(status)) => *status,
            Ok(Exit::Running) | Err(_) => None,
        }
    }

    /// Has the plugin's socket removed when the child has ended, in case it does not do so itself.
    pub(crate) fn owns_socket(&self, path: PathBuf) {
        let mut shared = lock(&self.shared);
        shared.sockets.insert(0, path);
        if shared.reaped {
            shared.clean_up();
        }
    }

    /// For those who learn of further sockets.
    pub(crate) fn leavings(&self) -> Leavings {
        Leavings(Arc::clone(&self.shared))
    }

    /// Sends SIGKILL; does nothing if the child has ended.
    pub(crate) fn kill(&self) {
        // Held until the signal is sent, so that the process ID stays the child's.
        let shared = lock(&self.shared);
        if !shared.reaped {
            // Fails only if the process is gone, which is what was wanted.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The thread: starts the child, hands it over, waits for its end.
fn supervise(spec: &Spec, sender: oneshot::Sender<Result<Started, LaunchError>>) {
    let mut process = match execute(spec) {
        Ok(process) => process,
        Err(error) => {
            // Nobody waits any more; nothing was started.
            let _ = sender.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_raw(process.id().cast_signed());
    let shared = Arc::new(Mutex::new(Shared::default()));
    let (exit, receiver) = watch::channel(Exit::Running);
    let child = Child { pid, shared: Arc::clone(&shared), exit: receiver };
    if let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) {
        // If nobody waits any more, the child comes back and is dropped, hence killed.
        let _ = sender.send(Ok(Started { child, stdout: stdout.into(), stderr: stderr.into() }));
    }
    // Waits without reaping first, so that the process ID stays the child's until the lock is held.
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let status = {
        let mut shared = lock(&shared);
        shared.reaped = true;
        let status = process.wait().ok();
        shared.clean_up();
        status
    };
    exit.send_replace(Exit::Ended(status));
}

fn execute(spec: &Spec) -> Result<process::Child, LaunchError> {
    let pinned = match spec.checksum {
        Some(expected) => Some(open_checked(spec, expected)?),
        None => None,
    };
    let mut command = match &pinned {
        // The very file whose content was hashed, whatever its path leads to by now.
        Some(pinned) => Command::new(format!("/proc/self/fd/{}", pinned.file.as_raw_fd())),
        None => Command::new(&spec.program),
    };
    command.arg0(&spec.program).args(&spec.args).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in &spec.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let host = Pid::this();
    let script = pinned.as_ref().filter(|pinned| pinned.script).map(|pinned| pinned.file.as_raw_fd());
    // SAFETY: between fork and exec only system calls are made: no allocation, no locks.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != host {
                // The host died before the line above took effect.
                return Err(Errno::ESRCH.into());
            }
            if let Some(fd) = script {
                // The interpreter opens the script by this descriptor after the exec.
                let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
    command.spawn().map_err(|source| LaunchError::Execute { program: spec.program.clone(), source })
}

/// An executable whose content is the pinned one.
struct Pinned {
    file: File,
    /// Starts with `#!`.
    script: bool,
}

fn open_checked(spec: &Spec, expected: Sha256) -> Result<Pinned, LaunchError> {
    let unreadable = |source| LaunchError::Unreadable { program: spec.program.clone(), source };
    let (file, script, actual) = read(spec).map_err(unreadable)?;
    if actual != expected {
        return Err(LaunchError::Checksum { program: spec.program.clone(), expected, actual });
    }
    Ok(Pinned { file, script })
}

fn read(spec: &Spec) -> io::Result<(File, bool, Sha256)> {
    // Not to wait for the other end of something that is no file.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&spec.program)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start)?;
    file.rewind()?;
    let actual = Sha256::of(&file)?;
    Ok((file, start == b"#!", actual))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_the_plugins_own_sockets_are_removed() {
        let [own, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let socket = |dir: &Path, name: &str| {
            let path = dir.join(name);
            UnixListener::bind(&path).unwrap();
            path
        };
        let shared = Arc::new(Mutex::new(Shared::default()));
        let leavings = Leavings(Arc::clone(&shared));
        // Before the handshake, or with one over TCP, nothing is known of the plugin's folder.
        let early = socket(own.path(), "early");
        leavings.announced(&early);
        let first = socket(own.path(), "first");
        lock(&shared).sockets.push(first.clone());

        let announced = socket(own.path(), "announced");
        let elsewhere = socket(other.path(), "elsewhere");
        let file = own.path().join("file");
        fs::write(&file, "").unwrap();
        let dots = own.path().join("../").join(other.path().file_name().unwrap()).join("elsewhere");
        for path in [&announced, &announced, &elsewhere, &file, &dots, &own.path().join("missing")] {
            leavings.announced(path);
        }
        for path in ["@abstract", "relative", ""] {
            leavings.announced(Path::new(path));
        }
        assert_eq!(lock(&shared).sockets.len(), 4);
        lock(&shared).clean_up();
        for (path, kept) in [(early, true), (first, false), (announced, false), (elsewhere, true), (file, true)] {
            assert_eq!(path.exists(), kept, "{}", path.display());
        }
    }

    #[test]
    fn a_plugin_that_announces_without_end_fills_no_memory() {
        let shared = Arc::new(Mutex::new(Shared::default()));
        lock(&shared).sockets.push("/s/plugin".into());
        for n in 0..2 * MAX_SOCKETS {
            Leavings(Arc::clone(&shared)).announced(&Path::new("/s").join(n.to_string()));
        }
        assert_eq!(lock(&shared).sockets.len(), MAX_SOCKETS);
    }
}
