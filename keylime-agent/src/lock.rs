// SPDX-License-Identifier: Apache-2.0
//! Lock files, so that no two agents work with the same folder or socket.
//!
//! The kernel's lock (flock) on the open file counts, not that the file exists: it goes with the process, however that
//! ends. The file holds the number of the process, for people and for the message of the one that comes second. Other users
//! cannot open it: whoever can, even for reading only, can lock it and keep the agent down.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

/// Of a lock file.
const MODE: u32 = 0o600;
/// How often the holder's number is looked for, which it writes just after it has taken the lock, and the pause between.
const LOOKS: (u32, Duration) = (10, Duration::from_millis(10));

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error(
        "another keylime_agent{} works with {what}: stop it, or give this one another {option} (lock file {})",
        pid.map_or_else(String::new, |pid| format!(" (process {pid})")),
        path.display()
    )]
    Held { what: String, option: &'static str, path: PathBuf, pid: Option<u32> },
    #[error("cannot open the lock file {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
}

/// A lock that is held until this is dropped, which removes the file.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`. `None` where no file can be made because the disk is full or read-only, or the folder is
    /// somebody else's: that is no reason not to start. What is locked, and the option that says where it is, are for the message.
    pub(crate) fn take(path: &Path, what: &str, option: &'static str) -> Result<Option<Self>, LockError> {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let open_error = |source| LockError::Open { path: path.to_owned(), source };
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(MODE);
            let mut file = match options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path) {
                Ok(file) => file,
                Err(error)
                    if matches!(error.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull) =>
                {
                    tracing::warn!("no lock on {what}, so another agent would not notice this one: {error}");
                    return Ok(None);
                }
                Err(source) => return Err(open_error(source)),
            };
            // One that is left over from an agent that let others read it, or that somebody has opened to them.
            if file.metadata().map_err(open_error)?.permissions().mode() & 0o777 & !MODE != 0 {
                // That of somebody else stays as it is.
                let _ = file.set_permissions(Permissions::from_mode(MODE));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let (path, what) = (path.to_owned(), what.to_owned());
                    return Err(LockError::Held { what, option, pid: holder(&path), path });
                }
                Err(TryLockError::Error(source)) => return Err(open_error(source)),
            }
            // The holder before may have removed the file between the two steps: then this lock locks nothing.
            if !is_same(&file, path).map_err(open_error)? {
                continue;
            }
            // On a full disk the lock holds without the number.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            return Ok(Some(Self { path: path.to_owned(), _file: file }));
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked, so it is ours.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The process that the file names.
fn holder(path: &Path) -> Option<u32> {
    let (looks, pause) = LOOKS;
    for _ in 0..looks {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(16).read_to_string(&mut text));
        if read.is_ok()
            && let Some(pid) = text.strip_suffix('\n').and_then(|number| number.parse().ok())
        {
            return Some(pid);
        }
        std::thread::sleep(pause);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(path: &Path) -> Result<Option<Lock>, String> {
        Lock::take(path, "the folder F", "keylime_dir").map_err(|error| error.to_string())
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_second_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let lock = take(&path).unwrap().unwrap();
        let held = |pid: &str| {
            let shown = path.display();
            format!(
                "another keylime_agent{pid} works with the folder F: stop it, or give this one another keylime_dir \
                 (lock file {shown})"
            )
        };
        let pid = std::process::id();
        assert_eq!(take(&path).unwrap_err(), held(&format!(" (process {pid})")));
        std::fs::write(&path, "").unwrap();
        assert_eq!(take(&path).unwrap_err(), held(""));
        drop(lock);
        assert!(!path.exists());
        // What a killed process has left does not lock.
        std::fs::write(&path, "123456789\n").unwrap();
        let _lock = take(&path).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{pid}\n"));
    }

    /// The stock agent works in a folder that it cannot write to, if all files are there.
    #[test]
    fn in_a_folder_of_somebody_else() {
        use crate::{config::RunAs, privileges};
        let Some(()) = test_support::require::root() else { return };
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o755);
        let path = dir.path().join("x.lock");
        let run_as = RunAs { user: "65534".to_owned(), group: Some("65534".to_owned()) };
        let account = privileges::Account::find(&run_as).unwrap();
        let take_as_user = || privileges::with_rights_of(&account, &run_as, || take(&path)).unwrap();
        assert!(take_as_user().unwrap().is_none() && !path.exists());
        // Nor can it lock the file of root's agent, not even by opening it for reading.
        let _lock = take(&path).unwrap().unwrap();
        assert!(take_as_user().unwrap().is_none());
        let denied = privileges::with_rights_of(&account, &run_as, || File::open(&path)).unwrap().unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn others_cannot_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let lock = take(&path).unwrap().unwrap();
        assert_eq!(mode(), 0o600);
        drop(lock);
        // Left over, too.
        std::fs::write(&path, "123456789\n").unwrap();
        set_mode(&path, 0o644);
        let _lock = take(&path).unwrap().unwrap();
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("x.lock"), dir.path().join("precious"));
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        let error = take(&path).unwrap_err();
        assert!(error.starts_with(&format!("cannot open the lock file {}: ", path.display())), "{error}");
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn one_of_many_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut taken = 0;
                    while taken < 50 {
                        if let Ok(Some(lock)) = take(&path) {
                            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                            drop(lock);
                            taken += 1;
                        }
                    }
                });
            }
        });
    }
}
