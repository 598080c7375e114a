// SPDX-License-Identifier: Apache-2.0
//! The ASCII list of IMA measurements, of which the verifier asks for the part that it has not seen yet.
//!
//! The list may have tens of megabytes. It is never held whole: [`Reader`] hands it out in pieces of whole lines. Where
//! each 1024th line begins is remembered, so that the lines asked for are found without reading the list again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// Longest line accepted. The longest real ones hold a hex-encoded buffer of some kilobytes.
const MAX_LINE: usize = 4 << 20;
/// A position is remembered for each so many lines.
const STRIDE: u64 = 1024;

/// The opened list.
#[derive(Clone)]
pub(crate) struct ImaList {
    file: Arc<File>,
    index: Arc<Mutex<Index>>,
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
    list: ImaList,
    at: Place,
    /// What was read beyond the last complete line.
    rest: Vec<u8>,
    /// The end of the list was reached.
    done: bool,
}

impl ImaList {
    /// A list in this file.
    pub(crate) fn new(file: File) -> Self {
        Self { file: Arc::new(file), index: Arc::default() }
    }

    /// A reader that begins at line `entry`, counted from 0, and the number of the first line that it will hand out:
    /// `entry` if the list has at least so many complete lines, else 0, for the list is then not the one that the asking
    /// side knows.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) async fn starting_at(&self, entry: u64) -> io::Result<(u64, Reader)> {
        self.forget_if_truncated();
        let mut reader = self.reader(self.index().before(entry));
        while reader.at.line < entry {
            if !reader.skip_to(entry)? {
                return Ok((0, self.reader(Place::default())));
            }
            // The list may be long, and other requests are waiting for this thread.
            tokio::task::yield_now().await;
        }
        Ok((entry, reader))
    }

    fn reader(&self, at: Place) -> Reader {
        Reader { list: self.clone(), at, rest: Vec::new(), done: false }
    }

    /// The kernel's list only grows, but an ordinary file in its place may have been emptied.
    fn forget_if_truncated(&self) {
        let is_shorter = |end: u64| {
            let metadata = self.file.metadata();
            metadata.is_ok_and(|metadata| metadata.len() > 0 && metadata.len() < end)
        };
        let mut index = self.index();
        if is_shorter(index.end.offset) {
            *index = Index::default();
        }
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        // No code that holds the lock can panic half way through a change.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
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
        let result = loop {
            match self.list.file.read_at(space, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
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
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn read(list: &ImaList, entry: u64) -> (u64, String) {
        block_on(async {
            let (first, mut reader) = list.starting_at(entry).await.unwrap();
            let mut text = Vec::new();
            while let Some(lines) = reader.next_lines().unwrap() {
                assert_eq!(lines.last(), Some(&b'\n'));
                text.extend(lines);
            }
            (first, String::from_utf8(text).unwrap())
        })
    }

    fn line(number: u64) -> String {
        // Lines of different lengths, so that chunks end in the middle of lines.
        format!("10 {number:0width$} ima-ng /bin/x\n", width = 40 + (number % 7) as usize)
    }

    fn lines(range: std::ops::Range<u64>) -> String {
        range.map(line).collect()
    }

    #[test]
    fn the_incremental_rule() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(lines(0..3).as_bytes()).unwrap();
        let list = ImaList::new(file.try_clone().unwrap());
        for _ in 0..2 {
            assert_eq!(read(&list, 0), (0, lines(0..3)));
            assert_eq!(read(&list, 1), (1, lines(1..3)));
            assert_eq!(read(&list, 2), (2, lines(2..3)));
            assert_eq!(read(&list, 3), (3, String::new()));
            assert_eq!(read(&list, 4), (0, lines(0..3)));
            assert_eq!(read(&list, u64::MAX), (0, lines(0..3)));
        }
        // An incomplete line is no entry until its end is there.
        file.write_all(b"10 unfinished").unwrap();
        assert_eq!(read(&list, 3), (3, String::new()));
        assert_eq!(read(&list, 4), (0, lines(0..3)));
        file.write_all(b"\n").unwrap();
        assert_eq!(read(&list, 3), (3, "10 unfinished\n".to_owned()));
        assert_eq!(read(&list, 4), (4, String::new()));
    }

    #[test]
    fn an_empty_list() {
        let list = ImaList::new(tempfile::tempfile().unwrap());
        assert_eq!(read(&list, 0), (0, String::new()));
        assert_eq!(read(&list, 1), (0, String::new()));
    }

    #[test]
    fn long_lists_are_found_in_at_any_line() {
        const N: u64 = 10_000;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(lines(0..N).as_bytes()).unwrap();
        let whole = ImaList::new(file.try_clone().unwrap());
        for entry in [1, 1023, 1024, 1025, 5000, 9999, 10_000, 3, 2048, 0] {
            let expected = (entry, lines(entry..N));
            // With what earlier requests have left, and from nothing.
            assert_eq!(read(&whole, entry), expected);
            assert_eq!(read(&ImaList::new(file.try_clone().unwrap()), entry), expected);
        }
        let index = whole.index();
        assert_eq!(index.end.line, N);
        assert_eq!(index.strides.len(), 9);
        assert_eq!(index.before(5000).line, 4096);
        assert_eq!(index.before(4096).line, 4096);
        assert_eq!(index.before(10).line, 0);
    }

    #[test]
    fn a_line_longer_than_a_chunk_is_not_cut() {
        let mut file = tempfile::tempfile().unwrap();
        let long = format!("10 {}\n", "a".repeat(3 * CHUNK));
        file.write_all(line(0).as_bytes()).unwrap();
        file.write_all(long.as_bytes()).unwrap();
        let list = ImaList::new(file.try_clone().unwrap());
        assert_eq!(read(&list, 2), (2, String::new()));
        assert_eq!(read(&list, 1), (1, long));
    }

    #[test]
    fn an_endless_line_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(6 << 20).unwrap();
        let list = ImaList::new(file);
        let error = block_on(list.starting_at(0)).unwrap().1.next_lines().unwrap_err();
        assert_eq!(error.to_string(), "a line of the IMA list is longer than 4 MiB");
        assert!(block_on(list.starting_at(1)).is_err());
    }

    #[test]
    fn a_truncated_file_is_read_anew() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(lines(0..2000).as_bytes()).unwrap();
        let list = ImaList::new(file.try_clone().unwrap());
        assert_eq!(read(&list, 2000).0, 2000);
        file.set_len(0).unwrap();
        file.write_all_at(lines(5..7).as_bytes(), 0).unwrap();
        assert_eq!(read(&list, 2000), (0, lines(5..7)));
        assert_eq!(read(&list, 2), (2, String::new()));
    }
}
