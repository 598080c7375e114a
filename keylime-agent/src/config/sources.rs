// SPDX-License-Identifier: Apache-2.0
//! Where the configuration is read from, and which source wins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use service::layered::{LayerError, Layered, Source};

use crate::identity;

/// The table of the configuration files that is ours.
const TABLE: &str = "agent";
/// The folder of further files beside `agent.conf`.
pub(super) const SNIPPETS: &str = "agent.conf.d";
const PREFIX: &str = "KEYLIME_AGENT_";
/// Names the one configuration file to read instead of the usual ones.
pub(super) const CONFIG_FILE: &str = "KEYLIME_AGENT_CONFIG";

/// The places to read from. The environment is a value, so that tests need not change the process's own.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Folders that may hold `agent.conf` and `agent.conf.d`, the later ones overriding the earlier ones.
    pub folders: Vec<PathBuf>,
    /// Environment variables.
    pub environment: Vec<(OsString, OsString)>,
}

/// What the sources hold.
pub(super) struct Read {
    pub(super) layered: Layered,
    /// The files say `uuid = "environment"`, and the variable, which overrides that, is set.
    pub(super) uuid_is_in_environment: bool,
    /// What could not be read.
    pub(super) problems: Vec<LayerError>,
}

impl Sources {
    /// `/usr/etc/keylime`, then `/etc/keylime`, then the environment of this process.
    #[must_use]
    pub fn system() -> Self {
        Self {
            folders: vec!["/usr/etc/keylime".into(), "/etc/keylime".into()],
            environment: std::env::vars_os().collect(),
        }
    }

    /// Reads everything; the problems of all sources are returned together.
    pub(super) fn read(&self) -> Read {
        let mut layered = Layered::new();
        let mut problems = Vec::new();
        match self.only_file() {
            Some(path) => problems.extend(layered.file(path, TABLE).err()),
            None => {
                for folder in &self.folders {
                    let file = folder.join("agent.conf");
                    problems.extend(layered.optional_file(&file, TABLE).err());
                    problems.extend(layered.snippets(&folder.join(SNIPPETS), TABLE));
                }
            }
        }
        let uuid = layered.setting("uuid").and_then(|setting| setting.value.as_str());
        let uuid_is_in_environment =
            uuid.is_some_and(|uuid| uuid.trim() == "environment") && self.variable(identity::VARIABLE).is_some();
        // The variable that every program on the TPM software stack reads.
        problems.extend(self.alias(&mut layered, "TCTI", "tcti").err());
        problems.extend(layered.environment(PREFIX, &[CONFIG_FILE], self.environment.iter().cloned()));
        // The stock agent lets this one win over everything.
        problems.extend(self.alias(&mut layered, "KEYLIME_DIR", "keylime_dir").err());
        Read { layered, uuid_is_in_environment, problems }
    }

    /// The file that is read instead of all others, if there is one.
    pub(super) fn only_file(&self) -> Option<&Path> {
        self.variable(CONFIG_FILE).map(Path::new)
    }

    fn alias(&self, layered: &mut Layered, variable: &str, option: &str) -> Result<(), LayerError> {
        if let Some(value) = self.variable(variable) {
            let value = value.to_str().ok_or_else(|| LayerError::Encoding { variable: variable.to_owned() })?;
            let source = Source::Environment(variable.to_owned());
            layered.set(option, value.into(), source);
        }
        Ok(())
    }

    /// A variable's value; an empty one counts as not set.
    fn variable(&self, name: &str) -> Option<&OsString> {
        self.environment.iter().find(|(variable, value)| variable == name && !value.is_empty()).map(|(_, value)| value)
    }
}
