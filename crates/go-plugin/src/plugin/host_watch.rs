// SPDX-License-Identifier: Apache-2.0
//! Noticing that the host process has died, however it died.
//!
//! Hosts ask the kernel to kill their plugins along with them. That leaves the plugin's socket behind, and it also
//! happens when merely the host's thread that started the plugin ends. A thread of our own does better, and works
//! even if the plugin's runtime is stuck.

use std::{
    io,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::prctl,
    unistd::{Pid, getppid},
};

/// How often the parent is looked at where the kernel cannot tell (before Linux 5.3, or under a strict filter of
/// system calls), and where there is no thread to be told.
const INTERVAL: Duration = Duration::from_millis(250);
/// What the plugin gets to end by itself after its host died.
const LAST_RESORT: Duration = Duration::from_secs(2);

/// Watches `parent`, the process that started this one; to be called by the main thread. When it is gone, `died` is called; if the process is still
/// there 2 s later, `clean_up` is called and the process ended.
pub(crate) fn start(
    parent: Pid,
    died: impl FnOnce() + Send + 'static,
    clean_up: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name("host-watch".into()).stack_size(64 * 1024).spawn(move || {
        wait(parent, open(parent));
        died();
        thread::sleep(LAST_RESORT);
        clean_up();
        // SAFETY: takes no pointers and does not return. A regular exit would wait for what is stuck.
        unsafe { libc::_exit(1) }
    })?;
    // From here on that thread takes care of it; had the host died before, it sees another parent. The setting is the
    // calling thread's: the one that the host started. Should the call fail, the kernel kills, as with other plugins.
    let _ = prctl::set_pdeathsig(None);
    Ok(())
}

/// Returns when `parent` is no longer this process's parent, which also covers that it was gone before.
fn wait(parent: Pid, pidfd: Option<OwnedFd>) {
    while getppid() == parent {
        let Some(pidfd) = &pidfd else {
            thread::sleep(INTERVAL);
            continue;
        };
        // Readable once the process has ended. It may be a moment until this one has its new parent.
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => return,
            Err(Errno::EINTR) => {}
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// Resolves when `parent` is no longer this process's parent: for where [`start`] could start no thread.
pub(crate) async fn poll_parent(parent: Pid) {
    while getppid() == parent {
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A descriptor of the process, if the kernel gives one.
fn open(process: Pid) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the call above returned the descriptor for us alone; the kernel sets close-on-exec.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
