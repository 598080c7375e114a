// SPDX-License-Identifier: Apache-2.0
//! Where SPIRE is, in each version that the tests are made for.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bin;
use crate::process::Program;

/// The versions that the tests are made for. Most tests take the first that is there.
pub const VERSIONS: [&str; 2] = ["1.14.1", "1.15.3"];

/// Names the folders, separated by colons, that each hold `spire-server` and `spire-agent` of one version.
const VARIABLE: &str = "SPIRE_BIN_DIRS";

/// SPIRE's two programs.
#[derive(Debug, Clone)]
pub struct SpireBinaries {
    /// One of [`VERSIONS`].
    pub version: &'static str,
    /// `spire-server`.
    pub server: PathBuf,
    /// `spire-agent`.
    pub agent: PathBuf,
}

impl SpireBinaries {
    /// The first of [`VERSIONS`] in the folders that `SPIRE_BIN_DIRS` names, in their order; without it in `PATH`, and
    /// where `scripts/install-needs` unpacks releases.
    ///
    /// # Errors
    /// When none is there.
    pub fn find() -> Result<Self> {
        Self::first(|_| true).with_context(|| not_found(&VERSIONS.join(" or ")))
    }

    /// This one of [`VERSIONS`], in the same places.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find_version(version: &str) -> Result<Self> {
        Self::first(|found| found.version == version).with_context(|| not_found(version))
    }

    fn first(wanted: impl Fn(&Self) -> bool) -> Option<Self> {
        static FOUND: OnceLock<Vec<SpireBinaries>> = OnceLock::new();
        FOUND.get_or_init(look).iter().find(|found| wanted(found)).cloned()
    }
}

fn not_found(version: &str) -> String {
    format!("{version} is in no folder of {VARIABLE}, nor, without that variable, in PATH or ~/{CACHE}")
}

/// Where `scripts/install-needs` unpacks releases, below the home folder.
const CACHE: &str = ".cache/spire-keylime";

fn look() -> Vec<SpireBinaries> {
    let folders: Vec<PathBuf> = match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        Some(folders) => std::env::split_paths(&folders).collect(),
        None => {
            let in_path = bin::in_path("spire-server").and_then(|server| Some(server.parent()?.to_owned()));
            let cache = std::env::home_dir().unwrap_or_default().join(CACHE);
            let cached = VERSIONS.map(|version| cache.join(format!("spire-{version}/bin")));
            in_path.into_iter().chain(cached).collect()
        }
    };
    folders.iter().filter_map(|folder| in_folder(folder)).collect()
}

fn in_folder(folder: &Path) -> Option<SpireBinaries> {
    let [server, agent] = ["spire-server", "spire-agent"].map(|name| folder.join(name));
    let version = version_of(&server)?;
    (version_of(&agent)? == version).then_some(SpireBinaries { version, server, agent })
}

fn version_of(program: &Path) -> Option<&'static str> {
    let output = Program::new(program).args(["--version"]).run(Duration::from_secs(10)).ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    VERSIONS.into_iter().find(|version| *version == text.trim())
}
