// SPDX-License-Identifier: Apache-2.0
//! The binary log of the measured boot, sent whole with each quote that has PCR 0.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Largest log read. Logs of real machines have some tens of kilobytes; firmware reserves a few megabytes at most.
const MAX_LOG: usize = 16 << 20;

/// Reads the log from its beginning.
///
/// # Errors
/// The file cannot be read or is larger than 16 MiB.
pub(crate) fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut log = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        // The files of securityfs have no size, so the end is where nothing more comes.
        let offset = u64::try_from(log.len()).unwrap_or(u64::MAX);
        match file.read_at(&mut chunk, offset) {
            Ok(0) => return Ok(log),
            Ok(n) => log.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if log.len() > MAX_LOG {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn each_reading_starts_at_the_beginning() {
        let mut file = tempfile::tempfile().unwrap();
        let mut expected: Vec<u8> = (0..=255).cycle().take(40_000).collect();
        file.write_all(&expected).unwrap();
        assert_eq!(read(&file).unwrap(), expected);
        file.write_all(b"more").unwrap();
        expected.extend(b"more");
        assert_eq!(read(&file).unwrap(), expected);
    }

    #[test]
    fn a_huge_log_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MAX_LOG as u64 + 1).unwrap();
        assert_eq!(read(&file).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
