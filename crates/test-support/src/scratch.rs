// SPDX-License-Identifier: Apache-2.0
//! A folder that goes away with its owner.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A folder under the system's folder for temporary files, removed on drop.
///
/// The path is kept short because Unix socket paths end at 107 bytes. Other users may pass through it (mode 0711), so
/// that a program under test can drop its privileges.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes a folder whose name starts with `label`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix(&format!("{label}-")).tempdir().context("cannot make a scratch folder")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))
            .context("cannot set the scratch folder's mode")?;
        Ok(Self { dir })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path inside the folder; nothing is created.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A folder inside the folder, created with mode 0700 if it is not there.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file inside the folder and answers its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
