// SPDX-License-Identifier: Apache-2.0
//! Where Keylime is installed.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::bin;

/// Names the Python environment that holds Keylime.
const VARIABLE: &str = "KEYLIME_VENV";

/// Where `scripts/install-needs` makes one, below the home folder.
const PLACE: &str = ".cache/spire-keylime/keylime-venv";

/// A Python environment with Keylime in it.
#[derive(Debug, Clone)]
pub struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// Looks at `KEYLIME_VENV`, then where `scripts/install-needs` makes it.
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self> {
        if let Some(folder) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            let folder = PathBuf::from(folder);
            ensure!(has_keylime(&folder), "no keylime_verifier in {VARIABLE} = {}", folder.display());
            return Ok(Self { folder });
        }
        let folder = std::env::home_dir().unwrap_or_default().join(PLACE);
        ensure!(has_keylime(&folder), "{VARIABLE} is not set and there is none in ~/{PLACE}");
        Ok(Self { folder })
    }

    /// The path of one of its programs, such as `keylime_tenant`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }
}

fn has_keylime(folder: &Path) -> bool {
    ["keylime_verifier", "keylime_registrar", "keylime_tenant"]
        .iter()
        .all(|name| bin::is_program(&folder.join("bin").join(name)))
}
