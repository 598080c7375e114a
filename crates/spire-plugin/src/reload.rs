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

/// The state of some files at one moment. Of a folder that is which files it holds: its own times also move with files
/// that nobody reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    files: Vec<(PathBuf, Option<Stamp>)>,
    /// The last change of a folder's list of files, hidden ones too.
    folders_changed: Option<(i64, i64)>,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

impl Snapshot {
    /// Looks at `files`, and of folders among them at what is in them, one level deep. Blocks for as long as the file
    /// systems do.
    pub(crate) fn take(paths: &[PathBuf]) -> Self {
        let (mut files, mut folders_changed) = (Vec::with_capacity(paths.len()), None);
        for path in paths {
            let stamp = fs::metadata(path).ok().map(|data| (data.is_dir(), Stamp::new(&data)));
            match stamp {
                Some((true, stamp)) => {
                    folders_changed = folders_changed.max(Some(stamp.changed));
                    files.push((path.clone(), Some(Stamp { size: 0, modified: (0, 0), changed: (0, 0), ..stamp })));
                    files.extend(entries(path));
                }
                stamp => files.push((path.clone(), stamp.map(|(_, stamp)| stamp))),
            }
        }
        Self { files, folders_changed }
    }

    /// Whether a file has changed at `time` or later.
    fn changed_since(&self, time: SystemTime) -> bool {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(CLOCK_STEP);
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        let time = (seconds, i64::from(since_epoch.subsec_nanos()));
        let files = self.files.iter().filter_map(|(_, stamp)| stamp.as_ref()).map(|stamp| stamp.changed);
        files.chain(self.folders_changed).any(|changed| changed >= time)
    }
}

/// The files in a folder, without hidden ones: those are not read, and editors and mounted secrets leave some.
fn entries(folder: &Path) -> Vec<(PathBuf, Option<Stamp>)> {
    // A folder that cannot be read shows in the configuration that is built from it.
    let mut entries: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .take(MAX_ENTRIES)
        .map(|entry| entry.path())
        .map(|path| {
            let stamp = fs::metadata(&path).ok().as_ref().map(Stamp::new);
            (path, stamp)
        })
        .collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries
}

/// Compares files look by look, and tells when they have changed and come to rest.
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
    /// Files that have been read since `since`, and are as `now` says.
    pub(crate) fn new(files: Vec<PathBuf>, now: Snapshot, since: SystemTime) -> Self {
        let known = (!now.changed_since(since)).then_some(now);
        Self { files, known, moving: None }
    }

    /// The files to look at.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Takes one look. True if the files differ from what was read and were the same at the look before: of a
    /// certificate and its key, that are written one after the other, both are there then. The caller reads them
    /// now; the same state is not told again.
    pub(crate) fn settled(&mut self, now: Snapshot) -> bool {
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
    pub(crate) fn follow(&mut self, files: Vec<PathBuf>, now: Snapshot, since: SystemTime) {
        if files != self.files {
            *self = Self::new(files, now, since);
        }
    }
}

#[cfg(test)]
mod tests;
