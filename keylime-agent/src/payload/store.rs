// SPDX-License-Identifier: Apache-2.0
//! The folder of the payload, `<keylime_dir>/secure`: a tmpfs, so that keys and payload never reach a disk. It outlives the
//! agent: after a restart it is found again, with what the payload has put there.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};

use crate::config::RunAs;
use crate::privileges::{self, Account};

/// All mounts that this thread sees.
const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// What keeps the agent from starting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(
        "Secure mount error: Secure storage location {} already mounted on wrong file system type: {kind}. Unmount to \
         continue.",
        path.display()
    )]
    WrongType { path: PathBuf, kind: String },
    #[error("cannot read {MOUNTS}: {0}")]
    Mounts(#[source] io::Error),
}

/// The folder, or why no payload can be put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Store {
    /// The path of a tmpfs. Somebody may unmount it while the agent runs: see [`Store::folder`].
    InMemory(PathBuf),
    /// A folder that is used wherever it lies.
    Ready(PathBuf),
    /// The reason, for the log.
    Missing(String),
}

impl Store {
    /// The folder for something new.
    ///
    /// # Errors
    /// Why there is none, for the log.
    pub(crate) fn folder(&self) -> Result<&Path, String> {
        match self {
            Self::InMemory(path) => match statfs(path) {
                Ok(found) if found.filesystem_type() == TMPFS_MAGIC => Ok(path),
                Ok(_) => Err(format!(
                    "the tmpfs at {} is no longer mounted: payloads must not reach the disk, so mount it again or restart \
                     the agent",
                    path.display()
                )),
                Err(error) => Err(format!("{} cannot be used for payloads: {error}", path.display())),
            },
            Self::Ready(path) => Ok(path),
            Self::Missing(reason) => Err(reason.clone()),
        }
    }

    /// Its path, if there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::InMemory(path) | Self::Ready(path) => Some(path),
            Self::Missing(_) => None,
        }
    }
}

/// Whether there is a tmpfs already.
///
/// # Errors
/// Something else is mounted there.
pub(crate) fn find(keylime_dir: &Path) -> Result<(PathBuf, bool), StoreError> {
    let path = keylime_dir.canonicalize().unwrap_or_else(|_| keylime_dir.to_owned()).join("secure");
    let mounts = std::fs::read(MOUNTS).map_err(StoreError::Mounts)?;
    match mounted(&mounts, &path).as_deref() {
        None => Ok((path, false)),
        Some("tmpfs") => Ok((path, true)),
        Some(kind) => Err(StoreError::WrongType { path, kind: kind.to_owned() }),
    }
}

/// Finds or mounts the tmpfs, for this process or for the account that it is going to change to. `size` is what tmpfs
/// takes for its option of that name. With `on_disk`, a folder on disk serves where nothing can be mounted.
///
/// # Errors
/// Something else is mounted there. That nothing can be mounted is not among them: a host without payloads is attested all
/// the same.
pub(crate) fn prepare(
    keylime_dir: &Path,
    size: &str,
    on_disk: bool,
    target: Option<&(Account, RunAs)>,
) -> Result<Store, StoreError> {
    let (path, is_mounted) = find(keylime_dir)?;
    let shown = path.display();
    let result = if is_mounted {
        tracing::debug!("Secure store location {shown} already mounted on tmpfs");
        take_over(&path, target)
    } else {
        mount_new(&path, size, target, privileges::is_root())
    };
    Ok(match result {
        Ok(()) => Store::InMemory(path),
        Err(error) if on_disk && !is_mounted && path.is_dir() => {
            tracing::warn!(
                "INSECURE: payloads and their keys are stored on disk, in {shown}, as no tmpfs can be mounted there \
                 ({error}) and 'enable_insecure_payload' is set"
            );
            Store::Ready(path)
        }
        Err(error) => Store::Missing(format!("{shown} cannot be used for payloads: {error}")),
    })
}

/// Makes the account the owner of a tmpfs that is there.
fn take_over(path: &Path, target: Option<&(Account, RunAs)>) -> io::Result<()> {
    match target {
        Some((account, _)) => {
            let folder = open_folder(path)?;
            fchown(&folder, Some(account.user_id()), Some(account.group_id()))
        }
        None => access(path, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from),
    }
}

fn mount_new(path: &Path, size: &str, target: Option<&(Account, RunAs)>, is_root: bool) -> io::Result<()> {
    let make = || DirBuilder::new().mode(0o700).create(path);
    // With the rights of the folder's owner, who could have put a link there.
    let made = match target {
        Some((account, run_as)) => privileges::with_rights_of(account, run_as, make).map_err(io::Error::other)?,
        None => make(),
    };
    match made {
        Ok(()) => tracing::info!("Directory \"{}\" created.", path.display()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if !is_root {
        return Err(io::Error::other(
            "no tmpfs is mounted there, and only root can mount one: mount it before the agent starts, or start the \
             agent as root with the option run_as",
        ));
    }
    let folder = open_folder(path)?;
    tracing::info!("Mounting secure storage location \"{}\" on tmpfs.", path.display());
    let owner = target
        .map_or_else(String::new, |(account, _)| format!(",uid={},gid={}", account.user_id(), account.group_id()));
    let options = format!("size={size},mode=0700{owner}");
    // What was opened, and no link in its place.
    let place = format!("/proc/thread-self/fd/{}", folder.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), place.as_str(), Some("tmpfs"), flags, Some(options.as_str())).map_err(io::Error::from)
}

fn open_folder(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new().read(true).custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits()).open(path)
}

/// The type of the file system that is mounted at `path`, by /proc/pid/mountinfo (proc(5)): the last line counts.
fn mounted(mounts: &[u8], path: &Path) -> Option<String> {
    let path = path.as_os_str().as_encoded_bytes();
    mounts.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        (unescape(fields.nth(4)?) == path).then_some(())?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(String::from_utf8_lossy(kind).into_owned())
    })
}

/// Undoes the octal escapes of white space and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| *byte == b'\\');
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(value) => {
                out.push(value);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use nix::mount::umount;
    use nix::sched::{CloneFlags, unshare};
    use test_support::require;

    use super::*;

    #[test]
    fn mounts_are_found_by_their_path() {
        let mounts = b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                       30 22 0:30 / /var/lib/key\\040lime/secure rw,nosuid shared:2 master:3 - tmpfs tmpfs rw\n\
                       31 22 0:31 / /a rw - tmpfs tmpfs rw\n32 22 0:31 / /a rw - ramfs ramfs rw\n";
        let at = |path: &str| mounted(mounts, Path::new(path));
        assert_eq!(at("/").as_deref(), Some("ext4"));
        assert_eq!(at("/var/lib/key lime/secure").as_deref(), Some("tmpfs"));
        assert_eq!(at("/a").as_deref(), Some("ramfs"));
        assert_eq!(at("/var/lib"), None);
        assert_eq!(mounted(b"garbage\n1 2 3 4\n", Path::new("/")), None);
        assert_eq!(unescape(b"a\\134b\\0x\\04"), b"a\\b\\0x\\04");
    }

    /// A thread with mounts of its own, which nobody else sees.
    pub(crate) fn with_own_mounts(test: impl FnOnce(&Path) + Send) {
        let Some(()) = require::root() else { return };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
                let dir = tempfile::tempdir().unwrap();
                test(&dir.path().canonicalize().unwrap());
                let _ = umount(&dir.path().join("secure"));
            });
        });
    }

    #[test]
    fn a_tmpfs_is_mounted_once() {
        with_own_mounts(|dir| {
            let path = dir.join("secure");
            let prepare = |size| prepare(dir, size, false, None).unwrap();
            assert_eq!(find(dir).unwrap(), (path.clone(), false));
            let store = prepare("64k");
            assert_eq!(store, Store::InMemory(path.clone()));
            assert_eq!(store.folder(), Ok(path.as_path()));
            assert_eq!(find(dir).unwrap(), (path.clone(), true));
            let found = std::fs::metadata(&path).unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, 0o700);
            assert_ne!(found.dev(), std::fs::metadata(dir).unwrap().dev());
            std::fs::write(path.join("kept"), "kept").unwrap();
            let full = std::fs::write(path.join("big"), vec![0; 65 << 10]).unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            // The next start.
            assert_eq!(prepare("1m"), Store::InMemory(path.clone()));
            assert_eq!(std::fs::read(path.join("kept")).unwrap(), b"kept");
            let mounts = String::from_utf8(std::fs::read(MOUNTS).unwrap()).unwrap();
            assert_eq!(mounts.matches(path.to_str().unwrap()).count(), 1);
            // Unmounted, and nothing but a folder on disk is left.
            umount(&path).unwrap();
            let is_memory = statfs(dir).unwrap().filesystem_type() == TMPFS_MAGIC;
            let text = format!(
                "the tmpfs at {} is no longer mounted: payloads must not reach the disk, so mount it again or restart the \
                 agent",
                path.display()
            );
            assert_eq!(store.folder(), if is_memory { Ok(path.as_path()) } else { Err(text) });
        });
    }

    #[test]
    fn the_account_owns_it() {
        with_own_mounts(|dir| {
            let run_as = RunAs { user: "65534".into(), group: Some("65534".into()) };
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(dir, Some(65534), Some(65534)).unwrap();
            let target = Some((Account::find(&run_as).unwrap(), run_as));
            let path = dir.join("secure");
            for _ in 0..2 {
                assert_eq!(prepare(dir, "1m", false, target.as_ref()).unwrap(), Store::InMemory(path.clone()));
                let found = std::fs::metadata(&path).unwrap();
                assert_eq!((found.uid(), found.gid()), (65534, 65534));
                std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
            }
        });
    }

    #[test]
    fn what_is_in_the_way() {
        with_own_mounts(|dir| {
            let path = dir.join("secure");
            // A link is not followed.
            std::os::unix::fs::symlink("/tmp", &path).unwrap();
            let Store::Missing(reason) = prepare(dir, "1m", false, None).unwrap() else {
                panic!("a link was followed")
            };
            assert!(reason.starts_with(&format!("{} cannot be used for payloads: ", path.display())), "{reason}");
            std::fs::remove_file(&path).unwrap();
            // Another file system.
            std::fs::create_dir(&path).unwrap();
            mount(Some("x"), &path, Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
            assert_eq!(
                prepare(dir, "1m", false, None).unwrap_err().to_string(),
                format!(
                    "Secure mount error: Secure storage location {} already mounted on wrong file system type: ramfs. \
                     Unmount to continue.",
                    path.display()
                )
            );
        });
    }

    #[test]
    fn only_root_can_mount() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secure");
        assert_eq!(
            mount_new(&path, "1m", None, false).unwrap_err().to_string(),
            "no tmpfs is mounted there, and only root can mount one: mount it before the agent starts, or start the \
             agent as root with the option run_as"
        );
        assert!(path.is_dir());
    }

    #[test]
    fn a_folder_on_disk_has_to_be_allowed() {
        // tmpfs does not take this size.
        with_own_mounts(|dir| {
            let path = dir.join("secure");
            let reason = "Invalid argument (os error 22)";
            let text = format!("{} cannot be used for payloads: {reason}", path.display());
            assert_eq!(prepare(dir, "x", false, None).unwrap(), Store::Missing(text));
            assert_eq!(prepare(dir, "x", true, None).unwrap(), Store::Ready(path));
        });
    }
}
