// SPDX-License-Identifier: Apache-2.0
//! Copies of the file under names that tell the time: `agent_data.json.<kind>-YYYYMMDD-HHMMSS`, in UTC.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::files;

/// What is between the file's name and the time, for a damaged file.
pub(super) const DAMAGED: &str = "damaged";
/// The same for a file that another takes the place of.
pub(super) const BACKUP: &str = "backup";

/// Writes a copy, readable by its owner only, and returns its path. A copy that is there stays as it is.
fn write(path: &Path, kind: &str, content: &[u8]) -> io::Result<PathBuf> {
    let mut at = SystemTime::now();
    let copy = loop {
        let mut name = prefix(path.as_os_str().to_owned(), kind);
        name.push(timestamp(at));
        let name = PathBuf::from(name);
        match name.try_exists() {
            Ok(true) => at += Duration::from_secs(1),
            _ => break name,
        }
    };
    files::replace(&copy, content, 0o600)?;
    Ok(copy)
}

/// Writes a copy, unless there is one of this kind with this content: an agent that is started over and over fills no
/// disk. Returns the path of the copy.
pub(super) fn set_aside(path: &Path, kind: &str, content: &[u8]) -> io::Result<PathBuf> {
    for copy in list(path, kind)? {
        let has_length = |found: std::fs::Metadata| found.is_file() && found.len() == content.len() as u64;
        if copy.metadata().is_ok_and(has_length) && std::fs::read(&copy)? == content {
            return Ok(copy);
        }
    }
    write(path, kind, content)
}

/// The copies of this kind, the newest first.
pub(super) fn list(path: &Path, kind: &str) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    };
    let prefix = prefix(name.to_owned(), kind);
    let mut copies = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            copies.push(entry.path());
        }
    }
    copies.sort_by(|a, b| b.cmp(a));
    Ok(copies)
}

fn prefix(mut name: OsString, kind: &str) -> OsString {
    name.push(format!(".{kind}-"));
    name
}

/// `YYYYMMDD-HHMMSS` in UTC.
fn timestamp(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of the year 0, so that a leap day is the last day of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_named(copy: &Path, kind: &str) -> bool {
        let name = copy.file_name().unwrap().to_str().unwrap();
        let time = name.strip_prefix(&format!("agent_data.json.{kind}-")).unwrap();
        (time.len(), time.find('-')) == (15, Some(8))
    }

    #[test]
    fn each_copy_has_a_name_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_data.json");
        // Two within one second, too.
        let copies = [b"a", b"b"].map(|content| write(&path, "backup", content).unwrap());
        let newest_first = [copies[1].clone(), copies[0].clone()];
        assert_eq!(list(&path, "backup").unwrap(), newest_first);
        assert!(list(&path, "damaged").unwrap().is_empty());
        for (copy, content) in copies.iter().zip([b"a", b"b"]) {
            assert_eq!(std::fs::read(copy).unwrap(), content);
            assert!(is_named(copy, "backup"), "{}", copy.display());
        }
        let error = write(&dir.path().join("no/folder"), "backup", b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn one_copy_of_each_content() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent_data.json");
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        let first = set_aside(&path, DAMAGED, b"one").unwrap();
        assert!(is_named(&first, "damaged"), "{}", first.display());
        assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((set_aside(&path, DAMAGED, b"one").unwrap(), count()), (first.clone(), 1));
        let second = set_aside(&path, DAMAGED, b"two").unwrap();
        assert_eq!((set_aside(&path, DAMAGED, b"two").unwrap(), count()), (second, 2));
        assert_eq!((set_aside(&path, DAMAGED, b"one").unwrap(), count()), (first, 2));
    }

    #[test]
    fn times_are_calendar_dates() {
        for (seconds, text) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (951_868_800, "20000301-000000"),
            (1_735_689_599, "20241231-235959"),
            (1_753_600_245, "20250727-071045"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
