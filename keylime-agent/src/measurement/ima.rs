// SPDX-License-Identifier: Apache-2.0
//! The ASCII list of IMA measurements, of which the verifier asks for the part that it has not seen yet.
//!
//! The list may have tens of megabytes. It is never held whole: [`Reader`] hands it out in pieces of whole lines. Where
//! each 1024th line begins is remembered, so that the lines asked for are found without reading the list again.
//!
//! The kernel makes the text of its list anew for each reading, and to go on where a descriptor stands is cheap, while any
//! other place costs as much as all that is before it (seq_file). So the list is opened several times, and each
//! reading goes on with the descriptor that stands there.
//!
//! The kernel's list only grows. An ordinary file in its place, as stand-ins for IMA write it, may also be emptied, written
//! anew or replaced by another file; what is remembered is then forgotten.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::statfs::{SECURITYFS_MAGIC, fstatfs};

use crate::config::LogFile;

/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// Longest line accepted. The longest real ones hold a hex-encoded buffer of some kilobytes.
const MAX_LINE: usize = 4 << 20;
/// A position is remembered for each so many lines.
const STRIDE: u64 = 1024;
/// How much of the end of the lines seen so far is remembered, to notice that a file was written anew. It covers the last
/// line's hashes.
const TAIL: usize = 512;

/// How many may read different parts of the kernel's list at the same time without going back for each other.
const DESCRIPTORS: usize = 8;

/// The list as it was opened, which the user of `run_as` may have no right to.
pub(crate) struct Descriptors {
    /// The one that was used last stands last.
    free: Mutex<VecDeque<Descriptor>>,
    is_kernels: bool,
}

struct Descriptor {
    file: File,
    /// Where its last reading ended.
    at: u64,
}

impl Descriptors {
    /// Opens the list, or says in the log why there is none.
    pub(crate) fn open(log: &LogFile) -> Option<Self> {
        let file = super::open(log, "IMA measurement list", "runtime policies cannot be checked on this host")?;
        let is_kernels = fstatfs(&file).is_ok_and(|found| found.filesystem_type() == SECURITYFS_MAGIC);
        let more = if is_kernels { DESCRIPTORS - 1 } else { 0 };
        // What was opened once can be opened again; with fewer it only takes longer.
        let more = (0..more).filter_map(|_| File::open(&log.path).ok());
        Some(Self::new(std::iter::once(file).chain(more), is_kernels))
    }

    fn new(files: impl IntoIterator<Item = File>, is_kernels: bool) -> Self {
        let free = files.into_iter().map(|file| Descriptor { file, at: 0 }).collect();
        Self { free: Mutex::new(free), is_kernels }
    }

    fn read_at(&self, space: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let standing_there = free.iter().position(|descriptor| descriptor.at == offset);
        // Else the one that has not been used for the longest time, which is the first.
        let chosen = free.remove(standing_there.unwrap_or(0));
        let mut descriptor = chosen.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let result = loop {
            match descriptor.file.read_at(space, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        descriptor.at = offset + *result.as_ref().unwrap_or(&0) as u64;
        free.push_back(descriptor);
        result
    }

    /// Of an ordinary file, which is opened once.
    fn metadata(&self) -> io::Result<Metadata> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.front().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.file.metadata()
    }
}

/// The opened list.
pub(crate) struct ImaList {
    opened: Mutex<Arc<Opened>>,
    /// Where it was opened, if that is an ordinary file, which may be replaced.
    path: Option<PathBuf>,
}

/// One state of the file, and what is known about it.
struct Opened {
    file: Arc<Descriptors>,
    index: Mutex<Index>,
}

/// The place where a line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Place {
    /// Number of the line, from 0.
    line: u64,
    /// Its offset in the file.
    offset: u64,
}

#[derive(Default)]
struct Index {
    /// The beginnings of the lines `STRIDE`, `2 * STRIDE`, … as far as they are known.
    strides: Vec<Place>,
    /// The furthest beginning known: the end of the complete lines seen so far.
    end: Place,
    /// The last bytes before `end`.
    tail: Vec<u8>,
}

impl Index {
    /// The last known place at or before `line`.
    fn before(&self, line: u64) -> Place {
        if self.end.line <= line {
            return self.end;
        }
        let next = self.strides.partition_point(|place| place.line <= line);
        next.checked_sub(1).and_then(|last| self.strides.get(last)).copied().unwrap_or_default()
    }

    fn remember(&mut self, place: Place) {
        if place.line > self.end.line {
            self.end = place;
            if place.line.is_multiple_of(STRIDE) {
                self.strides.push(place);
            }
        }
    }
}

/// Hands out the lines from one entry on.
pub(crate) struct Reader {
    list: Arc<Opened>,
    at: Place,
    /// What was read beyond the last complete line.
    rest: Vec<u8>,
    /// The end of the list was reached.
    done: bool,
}

impl ImaList {
    /// The list in `file`, which was opened at `path`.
    pub(crate) fn new(file: Descriptors, path: &Path) -> Self {
        let path = (!file.is_kernels).then(|| path.to_owned());
        Self { opened: Mutex::new(Opened::new(Arc::new(file))), path }
    }

    /// A reader that begins at line `entry`, counted from 0, and the number of the first line that it will hand out:
    /// `entry` if the list has at least so many complete lines, else 0, for the list is then not the one that the asking
    /// side knows.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) async fn starting_at(&self, entry: u64) -> io::Result<(u64, Reader)> {
        let list = self.current()?;
        let begin = list.index().before(entry);
        let mut reader = Reader::new(&list, begin);
        while reader.at.line < entry {
            if !reader.skip_to(entry)? {
                return Ok((0, Reader::new(&list, Place::default())));
            }
            // The list may be long, and other requests are waiting for this thread.
            tokio::task::yield_now().await;
        }
        Ok((entry, reader))
    }

    /// The list as it is now: reopened if another file has taken its place, and with nothing remembered if it was written
    /// anew.
    fn current(&self) -> io::Result<Arc<Opened>> {
        // No code that holds the lock can panic half way through a change.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path {
            let metadata = opened.file.metadata()?;
            if let Some(file) = replacement(path, &metadata) {
                tracing::info!("The IMA measurement list was replaced: {}", path.display());
                *opened = Opened::new(Arc::new(Descriptors::new([file], false)));
            } else if opened.was_written_anew(&metadata)? {
                tracing::info!("The IMA measurement list was written anew: {}", path.display());
                *opened = Opened::new(Arc::clone(&opened.file));
            }
        }
        Ok(Arc::clone(&opened))
    }
}

/// The file that is at the path now, if it is another one and can be read. Else the one so far is used.
fn replacement(path: &Path, opened: &Metadata) -> Option<File> {
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let found = std::fs::metadata(path).ok()?;
    // To open a pipe may take for ever.
    if !found.is_file() || identity(&found) == identity(opened) {
        return None;
    }
    File::open(path).ok()
}

impl Opened {
    fn new(file: Arc<Descriptors>) -> Arc<Self> {
        Arc::new(Self { file, index: Mutex::default() })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what has been read is no longer there.
    fn was_written_anew(&self, metadata: &Metadata) -> io::Result<bool> {
        let index = self.index();
        if metadata.len() < index.end.offset {
            return Ok(true);
        }
        let mut now = vec![0; index.tail.len()];
        // One reading is enough for an ordinary file; less is there if it was emptied since.
        let read = self.file.read_at(&mut now, index.end.offset - index.tail.len() as u64)?;
        Ok(now.get(..read) != Some(index.tail.as_slice()))
    }
}

impl Reader {
    fn new(list: &Arc<Opened>, at: Place) -> Self {
        Self { list: Arc::clone(list), at, rest: Vec::new(), done: false }
    }

    /// The next lines, all complete and with their line feeds, or `None` at the end of the list. An incomplete last line
    /// is left out: the kernel is about to write its end.
    ///
    /// # Errors
    /// The list cannot be read, or holds a line of more than 4 MiB.
    pub(crate) fn next_lines(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if self.done {
                return Ok(None);
            }
            self.fill()?;
            if let Some(last) = self.rest.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(last + 1);
                let lines = std::mem::replace(&mut self.rest, rest);
                self.advance(&lines);
                return Ok(Some(lines));
            }
        }
    }

    /// Reads on towards line `entry`, at most one chunk. Returns false at the end of the list.
    fn skip_to(&mut self, entry: u64) -> io::Result<bool> {
        self.fill()?;
        if self.done {
            return Ok(false);
        }
        let wanted = usize::try_from(entry - self.at.line).unwrap_or(usize::MAX);
        let ends = self.rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        if let Some((last, _)) = ends.take(wanted).last() {
            let rest = self.rest.split_off(last + 1);
            let lines = std::mem::replace(&mut self.rest, rest);
            self.advance(&lines);
        }
        Ok(true)
    }

    /// Reads one chunk behind what is there; at the end of the list sets `done`.
    fn fill(&mut self) -> io::Result<()> {
        let have = self.rest.len();
        if have > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of the IMA list is longer than 4 MiB"));
        }
        self.rest.resize(have + CHUNK, 0);
        let offset = self.at.offset + have as u64;
        let space = self.rest.get_mut(have..).unwrap_or_default();
        let result = self.list.file.read_at(space, offset);
        let read = *result.as_ref().unwrap_or(&0);
        self.rest.truncate(have + read);
        result?;
        self.done = read == 0;
        Ok(())
    }

    /// Counts lines that were handed out, remembering where they begin.
    fn advance(&mut self, lines: &[u8]) {
        let mut index = self.list.index();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.at.line += 1;
            self.at.offset += line.len() as u64;
            index.remember(self.at);
        }
        if index.end == self.at {
            let tail = lines.len().saturating_sub(TAIL);
            index.tail = lines.get(tail..).unwrap_or_default().to_vec();
        }
    }
}

#[cfg(test)]
mod tests;
