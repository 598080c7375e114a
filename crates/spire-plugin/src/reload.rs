// SPDX-License-Identifier: Apache-2.0
//! Tells when files have changed, by what the system says of them and without reading them.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Most entries of one folder that are looked at.
const MAX_ENTRIES: usize = 1024;

/// How far the clock of file times may be behind the system's: it moves with the timer interrupt, at least 100 times
/// a second.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// What the system says of one file; of the target where the path is a symbolic link, as of a mounted secret.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn new(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

/// The state of some files at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot(Vec<(PathBuf, Option<Stamp>)>);

impl Snapshot {
    /// Looks at `files`, and of folders among them at what is in them, one level deep.
    pub(crate) fn take(files: &[PathBuf]) -> Self {
        let mut all = Vec::with_capacity(files.len());
        for path in files {
            let data = fs::metadata(path).ok();
            let folder = data.as_ref().is_some_and(Metadata::is_dir);
            all.push((path.clone(), data.as_ref().map(Stamp::new)));
            if folder {
                all.extend(entries(path));
            }
        }
        Self(all)
    }

    /// Whether a file has changed at `time` or later.
    pub(crate) fn changed_since(&self, time: SystemTime) -> bool {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(CLOCK_STEP);
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        let time = (seconds, i64::from(since_epoch.subsec_nanos()));
        self.0.iter().filter_map(|(_, stamp)| stamp.as_ref()).any(|stamp| stamp.changed >= time)
    }
}

fn entries(folder: &Path) -> Vec<(PathBuf, Option<Stamp>)> {
    // A folder that cannot be read shows in the configuration that is built from it.
    let mut entries: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .take(MAX_ENTRIES)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .map(|path| {
            let stamp = fs::metadata(&path).ok().as_ref().map(Stamp::new);
            (path, stamp)
        })
        .collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries
}

/// Looks at files again and again, and tells when they have changed and come to rest.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Vec<PathBuf>,
    /// What the configuration in force, or the last try to build another, was made of. `None`: it changed while it
    /// was read.
    known: Option<Snapshot>,
    /// A state other than `known`, seen by the last look.
    moving: Option<Snapshot>,
}

impl Watch {
    /// Files that have been read since `since`.
    pub(crate) fn new(files: Vec<PathBuf>, since: SystemTime) -> Self {
        let now = Snapshot::take(&files);
        let known = (!now.changed_since(since)).then_some(now);
        Self { files, known, moving: None }
    }

    /// Looks once. True if the files differ from what was read and were the same at the look before: of a
    /// certificate and its key, that are written one after the other, both are there then. The caller reads them
    /// now; the same state is not told again.
    pub(crate) fn settled(&mut self) -> bool {
        let now = Snapshot::take(&self.files);
        if self.known.as_ref() == Some(&now) {
            self.moving = None;
            return false;
        }
        if self.moving.as_ref() == Some(&now) {
            self.known = self.moving.take();
            return true;
        }
        self.moving = Some(now);
        false
    }

    /// Watches `files` from now on, which a configuration names that was read since `since`. If they are the same as
    /// before, a change while they were read is seen by the next look.
    pub(crate) fn follow(&mut self, files: Vec<PathBuf>, since: SystemTime) {
        if files != self.files {
            *self = Self::new(files, since);
        }
    }
}

#[cfg(test)]
mod tests;
