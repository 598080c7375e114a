// SPDX-License-Identifier: Apache-2.0
//! Mounts that a test and the agents that it starts have in common, and nobody else sees.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

/// Gives this thread mounts of its own, for as long as it lives.
pub(crate) fn have_own() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// Makes a script that starts a program among this thread's mounts; where it is.
pub(crate) fn script(folder: &Path, program: &Path) -> PathBuf {
    let (process, thread) = (std::process::id(), gettid());
    let program = program.display();
    let text = format!("#!/bin/sh\nexec nsenter --mount=/proc/{process}/task/{thread}/ns/mnt '{program}'\n");
    let path = folder.join(Path::new(&program.to_string()).file_name().unwrap());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}
