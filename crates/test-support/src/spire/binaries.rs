// SPDX-License-Identifier: Apache-2.0
//! Where SPIRE is.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::bin;
use crate::process::Program;

/// The version that the tests are made for.
pub const VERSION: &str = "1.14.1";

/// Names the folder that holds `spire-server` and `spire-agent`.
const VARIABLE: &str = "SPIRE_BIN_DIR";

/// SPIRE's two programs.
#[derive(Debug, Clone)]
pub struct SpireBinaries {
    /// `spire-server`.
    pub server: PathBuf,
    /// `spire-agent`.
    pub agent: PathBuf,
}

impl SpireBinaries {
    /// Looks at `SPIRE_BIN_DIR`, else in `PATH`, else where `scripts/install-needs` unpacks a release; only
    /// [`VERSION`] counts.
    ///
    /// # Errors
    /// When there is none, with the reason.
    pub fn find() -> Result<Self> {
        static FOUND: OnceLock<Result<SpireBinaries, String>> = OnceLock::new();
        FOUND.get_or_init(|| look().map_err(|error| format!("{error:#}"))).clone().map_err(|text| anyhow!(text))
    }
}

fn look() -> Result<SpireBinaries> {
    if let Some(folder) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return in_folder(Path::new(&folder)).map_err(|error| error.context(format!("{VARIABLE} is set")));
    }
    let Some(server) = bin::in_path("spire-server") else {
        let home = std::env::home_dir().unwrap_or_default();
        return in_folder(&home.join(format!(".cache/spire-keylime/spire-{VERSION}/bin")))
            .map_err(|_| anyhow!("{VARIABLE} is not set and spire-server is not in PATH"));
    };
    in_folder(server.parent().unwrap_or(Path::new(".")))
}

fn in_folder(folder: &Path) -> Result<SpireBinaries> {
    let [server, agent] = ["spire-server", "spire-agent"].map(|name| folder.join(name));
    for path in [&server, &agent] {
        if !bin::is_program(path) {
            bail!("there is no program {}", path.display());
        }
        let output = Program::new(path).args(["--version"]).run(Duration::from_secs(10))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if text.trim() != VERSION {
            bail!("{} is version {}, wanted is {VERSION}", path.display(), text.trim());
        }
    }
    Ok(SpireBinaries { server, agent })
}
