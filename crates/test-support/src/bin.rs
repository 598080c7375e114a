// SPDX-License-Identifier: Apache-2.0
//! Finds programs: those of this workspace and those in `PATH`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// Names the folder that holds binaries built beforehand.
pub const FOLDER_VARIABLE: &str = "SPIRE_KEYLIME_BIN_DIR";

/// The path of a binary of this workspace, such as `keylime_agent`.
///
/// It is taken from the folder named by `SPIRE_KEYLIME_BIN_DIR`; without that variable all binaries are built once
/// per test process with the test's own profile folder as target.
///
/// # Errors
/// When the build fails or there is no such binary.
pub fn built(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os(FOLDER_VARIABLE) {
        // Cargo runs a test in its package's folder, so a relative name is meant from the workspace's.
        Some(folder) => workspace().join(folder),
        None => build()?,
    };
    let path = folder.join(name);
    ensure!(is_program(&path), "there is no program {name} in {}", folder.display());
    Ok(path)
}

/// The folder of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Builds the binaries, and answers their folder.
fn build() -> Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let outcome = FOLDER.get_or_init(|| run_cargo().map_err(|error| format!("{error:#}")));
    match outcome {
        Ok(folder) => Ok(folder.clone()),
        Err(text) => bail!("cannot build the binaries: {text}"),
    }
}

fn run_cargo() -> Result<PathBuf> {
    // TARGET/debug/deps/test-0123 or TARGET/release/program.
    let me = std::env::current_exe().context("cannot find this program's own path")?;
    let folder = me
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"))
        .context("this program is in no folder")?;
    let target = folder.parent().context("the profile's folder has no parent")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).args(["build", "--locked", "--workspace", "--bins", "--quiet"]);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let output = command.arg("--target-dir").arg(target).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(folder.to_owned())
}

/// Looks for a program in `PATH`.
#[must_use]
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| is_program(path))
}

/// Whether there is a file that may be executed.
pub(crate) fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_in_path() {
        assert!(in_path("sh").is_some());
        assert_eq!(in_path("no-such-program"), None);
    }

    #[test]
    fn the_workspace_has_this_crate() {
        assert!(workspace().join("crates/test-support/Cargo.toml").is_file());
    }
}
