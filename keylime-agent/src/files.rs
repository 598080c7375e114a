// SPDX-License-Identifier: Apache-2.0
//! Writing files so that a crash or a full disk leaves the old content or the new one, never half of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Replaces the content of `path`. The file has `mode` from the start, so that a secret is at no time readable by
/// others; content and folder entry have reached the disk when this returns. A symbolic link is followed.
///
/// # Errors
/// The folder cannot be written, or the disk is full.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    };
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    let temporary = Temporary(folder.join(temporary));
    // What a killed predecessor has left. Always the same name, so that no copies of keys gather.
    let _ = std::fs::remove_file(&temporary.0);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary.0)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary.0, &path)?;
    File::open(folder)?.sync_all()
}

/// Whether there is a file, where a new one would be made otherwise.
///
/// # Errors
/// It cannot be looked for; or there is a symbolic link that leads nowhere, as to a file system that has not been mounted.
pub(crate) fn exists(path: &Path) -> io::Result<bool> {
    let exists = path.try_exists()?;
    match path.read_link() {
        Ok(target) if !exists => Err(io::Error::other(format!(
            "it is a link to {}, and nothing is there: see to what should be there, or remove the link",
            target.display()
        ))),
        _ => Ok(exists),
    }
}

/// Removed when dropped; after the rename there is nothing left to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, "old").unwrap();
        // From a crash before the last step.
        std::fs::write(dir.path().join("key.pem.tmp"), "half").unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(&link, b"new", 0o600).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_not_an_absent_file() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| exists(&dir.path().join(name)).map_err(|error| error.to_string());
        std::os::unix::fs::symlink("target", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("link", dir.path().join("chain")).unwrap();
        for (name, target) in [("link", "target"), ("chain", "link")] {
            let text = format!(
                "it is a link to {target}, and nothing is there: see to what should be there, or remove the link"
            );
            assert_eq!(of(name), Err(text));
        }
        assert_eq!(of("target"), Ok(false));
        std::fs::write(dir.path().join("target"), "").unwrap();
        assert_eq!((of("target"), of("link"), of("chain")), (Ok(true), Ok(true), Ok(true)));
    }

    #[test]
    fn a_failure_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        // A folder in the file's place makes the last step fail.
        let path = dir.path().join("x");
        std::fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new", 0o600).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&path.join("no/folder"), b"new", 0o600).is_err());
    }
}
