// SPDX-License-Identifier: Apache-2.0
//! The kernel's measurement logs. They are opened once, before privileges are dropped, and read through the kept
//! descriptors.

pub(crate) mod boot;
pub(crate) mod boottime;
pub(crate) mod ima;

use std::fs::File;
use std::io;

use crate::config::LogFile;

/// Opens a log, or says in the log why there is none, and what that means; a host without it is attested without it.
pub(crate) fn open(log: &LogFile, name: &str, consequence: &str) -> Option<File> {
    let path = log.path.display();
    if log.is_override {
        tracing::warn!("{name} location override: {path}");
    }
    match File::open(&log.path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!("{name} not available: {path}: {consequence}");
            None
        }
        Err(error) => {
            tracing::warn!("{name} not accessible: {path}: {error}: {consequence}");
            None
        }
    }
}
