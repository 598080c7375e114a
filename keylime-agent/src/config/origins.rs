// SPDX-License-Identifier: Apache-2.0
//! Where the options were set, for what is found out about them after they have been read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use service::layered::Source;

use super::Effective;

/// The files that were read, and where each option that is set was set.
#[derive(Clone, Default)]
pub struct Origins {
    files: Vec<PathBuf>,
    sources: BTreeMap<&'static str, Source>,
}

impl Origins {
    pub(super) fn new(files: &[PathBuf], options: &[Effective]) -> Self {
        let sources = options.iter().filter_map(|option| Some((option.name, option.source.clone()?))).collect();
        Self { files: files.to_vec(), sources }
    }

    /// The configuration files, the later ones overriding the earlier ones.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// An option as messages name it, with the file or variable that it is set in; without one it has its default.
    pub(crate) fn option(&self, name: &'static str) -> Box<str> {
        match self.sources.get(name) {
            Some(source) => format!("option '{name}' ({source})").into(),
            None => format!("option '{name}'").into(),
        }
    }
}

impl fmt::Debug for Origins {
    /// Nothing of it is a setting.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origins").finish_non_exhaustive()
    }
}
