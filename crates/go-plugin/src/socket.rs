// SPDX-License-Identifier: Apache-2.0
//! Unix sockets that either side makes: where they lie, who may use them, and that none stays behind.

use std::{
    env,
    hash::{BuildHasher, RandomState},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use nix::{
    sys::stat::{Mode, fchmod},
    unistd::{Gid, Group, chown},
};
use tokio::net::{UnixListener, UnixSocket};

/// Longest path of a Unix socket on Linux, in bytes: `sun_path` has 108, one of them is the terminating zero.
const MAX_PATH: usize = 107;
/// Attempts to find a name that is not taken.
const ATTEMPTS: u32 = 16;

/// A Unix socket could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The folder is too deep for a socket.
    #[error(
        "the socket path {} has {} bytes, the system allows {MAX_PATH}: set TMPDIR or PLUGIN_UNIX_SOCKET_DIR to a shorter folder",
        path.display(), path.as_os_str().len()
    )]
    PathTooLong {
        /// The path that was to be used.
        path: PathBuf,
    },
    /// The system refused to bind.
    #[error("cannot make a socket in {}", dir.display())]
    Bind {
        /// The folder of the socket.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// `PLUGIN_UNIX_SOCKET_GROUP` names a group that does not exist.
    #[error("PLUGIN_UNIX_SOCKET_GROUP: there is no group {group:?} on this system")]
    UnknownGroup {
        /// The group as given.
        group: String,
    },
    /// The socket could not be given to the group.
    #[error("cannot give the socket {} to group {group}", path.display())]
    Group {
        /// The socket.
        path: PathBuf,
        /// The group as given.
        group: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// Makes sockets in one folder and removes their files, at the latest when dropped.
#[derive(Debug)]
pub(crate) struct Sockets {
    dir: PathBuf,
    group: Option<String>,
    made: Mutex<Vec<PathBuf>>,
}

impl Sockets {
    /// `dir`: folder of the sockets, the system's temporary folder if absent. `group`: who may use them besides the
    /// owner.
    pub(crate) fn new(dir: Option<PathBuf>, group: Option<String>) -> Self {
        Self { dir: dir.unwrap_or_else(env::temp_dir), group, made: Mutex::default() }
    }

    /// A listening socket under a fresh name, `plugin` and digits. To be called within a runtime.
    pub(crate) fn bind(&self) -> Result<(UnixListener, PathBuf), SocketError> {
        // The other side must find the socket whatever its own working directory is.
        let dir =
            std::path::absolute(&self.dir).map_err(|source| SocketError::Bind { dir: self.dir.clone(), source })?;
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for attempt in 0..ATTEMPTS {
            let path = dir.join(format!("plugin{}", RandomState::new().hash_one(attempt)));
            if path.as_os_str().as_bytes().len() > MAX_PATH {
                return Err(SocketError::PathTooLong { path });
            }
            match bind_for_owner(&path) {
                Ok(listener) => {
                    self.made().push(path.clone());
                    if let Some(group) = &self.group {
                        share_with(&path, group)?;
                    }
                    return Ok((listener, path));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(source) => return Err(SocketError::Bind { dir, source }),
            }
        }
        Err(SocketError::Bind { dir, source: last })
    }

    /// Removes the files of all sockets made so far; connections live on.
    pub(crate) fn unlink(&self) {
        for path in self.made().drain(..) {
            // Already gone is as good; for any other reason there is nobody left to tell.
            let _ = std::fs::remove_file(path);
        }
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Binds with mode 0600 from the first moment, whatever the process's umask.
///
/// On Linux the file gets the mode of the unbound socket less the umask. Changing the umask instead would, for a
/// moment, do so for every thread of a host.
fn bind_for_owner(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(path)?;
    socket.listen(128)
}

/// Lets members of `group` (a name or a number) connect.
fn share_with(path: &Path, group: &str) -> Result<(), SocketError> {
    let gid = match group.parse::<u32>() {
        Ok(number) => Gid::from_raw(number),
        Err(_) => Group::from_name(group)
            .ok()
            .flatten()
            .map(|group| group.gid)
            .ok_or_else(|| SocketError::UnknownGroup { group: group.to_owned() })?,
    };
    let failed = |source: io::Error| SocketError::Group { path: path.to_owned(), group: group.to_owned(), source };
    chown(path, None, Some(gid)).map_err(|error| failed(error.into()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
    std::fs::set_permissions(path, mode).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_and_goes_with_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = Sockets::new(Some(dir.path().into()), None);
        let (_listener, path) = sockets.bind().unwrap();
        assert_eq!(mode(&path), 0o600);
        let name = path.file_name().unwrap().to_str().unwrap();
        let digits = name.strip_prefix("plugin").unwrap();
        assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
        drop(sockets);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_group_may_be_given_by_number_or_name() {
        let dir = tempfile::tempdir().unwrap();
        let own = nix::unistd::getegid();
        let name = Group::from_gid(own).unwrap().map(|group| group.name);
        for group in [Some(own.to_string()), name].into_iter().flatten() {
            let sockets = Sockets::new(Some(dir.path().into()), Some(group));
            let (_listener, path) = sockets.bind().unwrap();
            assert_eq!(mode(&path), 0o660);
            assert_eq!(std::fs::metadata(&path).unwrap().gid(), own.as_raw());
        }
    }

    #[tokio::test]
    async fn failures_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = Sockets::new(Some(dir.path().into()), Some("no such group".into()));
        assert_eq!(
            sockets.bind().unwrap_err().to_string(),
            "PLUGIN_UNIX_SOCKET_GROUP: there is no group \"no such group\" on this system"
        );
        sockets.unlink();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        let missing = dir.path().join("missing");
        let sockets = Sockets::new(Some(missing.clone()), None);
        assert_eq!(sockets.bind().unwrap_err().to_string(), format!("cannot make a socket in {}", missing.display()));

        let deep = Path::new("/").join("d".repeat(120));
        let text = Sockets::new(Some(deep), None).bind().unwrap_err().to_string();
        assert!(text.contains("the system allows 107: set TMPDIR or PLUGIN_UNIX_SOCKET_DIR"), "{text}");
    }
}
