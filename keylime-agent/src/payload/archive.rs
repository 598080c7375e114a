// SPDX-License-Identifier: Apache-2.0
//! Zip archives, as much of them as payloads have: files that are stored or deflated, and folders (PKWARE's APPNOTE,
//! sections 4.3 and 4.4, without encryption, Zip64 and several disks).
//!
//! Everything is checked, contents too, before anything is written. Nothing can come to lie outside the folder: names go
//! downwards only, and there are no links.

use std::collections::HashSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use miniz_oxide::inflate::decompress_to_vec_with_limit;
use tpm_wire::reader::{Place, Reader};
use zeroize::Zeroizing;

/// Most entries of an archive.
const MAX_ENTRIES: usize = 1000;
/// Most bytes of all its files together.
const MAX_TOTAL: usize = 32 << 20;
/// Longest name of an entry, in bytes.
const MAX_NAME: usize = 512;

const END: [u8; 4] = *b"PK\x05\x06";
const END_LEN: usize = 22;
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";

/// Why an archive is not extracted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("the zip archive is damaged: {0}")]
    Damaged(&'static str),
    #[error("the zip archive is damaged: it ends inside {0}")]
    Truncated(&'static str),
    #[error("the zip archive has {0}, which is not supported")]
    Unsupported(&'static str),
    #[error("the zip archive has more than {MAX_ENTRIES} entries")]
    TooMany,
    #[error("the files of the zip archive have more than {} MiB", MAX_TOTAL >> 20)]
    TooLarge,
    #[error("entry {0:?} of the zip archive does not stay inside the folder")]
    Outside(String),
    #[error("entry {0:?} of the zip archive is a link or a device")]
    Special(String),
    #[error("entry {name:?} of the zip archive is damaged: {reason}")]
    Entry { name: String, reason: &'static str },
    #[error("entry {0:?} of the zip archive comes twice, or stands in the way of another file of the payload")]
    Twice(String),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Whether this is meant to be a zip archive.
pub(crate) fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(&LOCAL) || bytes.starts_with(&END)
}

/// A checked archive.
pub(crate) struct Archive<'a>(Vec<Entry<'a>>);

impl<'a> Archive<'a> {
    /// Checks the whole archive. `taken` are paths of the folder that other files have.
    pub(crate) fn parse(bytes: &'a [u8], taken: &[&str]) -> Result<Self, ArchiveError> {
        let entries = entries(bytes)?;
        let mut files: HashSet<&Path> = taken.iter().map(Path::new).collect();
        for entry in entries.iter().filter(|entry| !entry.is_folder) {
            if !files.insert(&entry.path) {
                return Err(ArchiveError::Twice(entry.name.clone()));
            }
            // Once more when it is written: what is unpacked may be much larger than the memory of this process should be.
            entry.content()?;
        }
        let below_a_file = |entry: &&Entry<'_>| {
            let above = if entry.is_folder { Some(entry.path.as_path()) } else { entry.path.parent() };
            above.is_some_and(|path| path.ancestors().any(|path| files.contains(path)))
        };
        match entries.iter().find(below_a_file) {
            Some(entry) => Err(ArchiveError::Twice(entry.name.clone())),
            None => Ok(Self(entries)),
        }
    }

    /// How many bytes each of its files has.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> {
        // A folder may have contents, which are not written.
        self.0.iter().filter(|entry| !entry.is_folder).map(|entry| entry.size)
    }

    /// Extracts all into a folder that is there and ours alone. Files get mode 0600, and 0700 if their owner may execute
    /// them according to the archive; folders get 0700. What is there already is not replaced.
    pub(crate) fn extract(&self, folder: &Path) -> Result<(), ArchiveError> {
        for entry in &self.0 {
            let path = folder.join(&entry.path);
            let failed = |path: &Path| {
                let path = path.to_owned();
                |source| ArchiveError::Write { path, source }
            };
            let parent = if entry.is_folder { path.as_path() } else { path.parent().unwrap_or(folder) };
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed(parent))?;
            if entry.is_folder {
                continue;
            }
            let mode = if entry.mode & 0o100 == 0 { 0o600 } else { 0o700 };
            let content = entry.content()?;
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
            file.and_then(|mut file| file.write_all(&content)).map_err(failed(&path))?;
        }
        Ok(())
    }
}

/// A checked entry.
struct Entry<'a> {
    name: String,
    path: PathBuf,
    is_folder: bool,
    /// Unix permission bits; 0 if the archive has none.
    mode: u32,
    is_deflated: bool,
    checksum: u32,
    size: usize,
    data: &'a [u8],
}

impl Entry<'_> {
    fn content(&self) -> Result<Zeroizing<Vec<u8>>, ArchiveError> {
        let damaged = |reason| ArchiveError::Entry { name: self.name.clone(), reason };
        let content = if self.is_deflated {
            decompress_to_vec_with_limit(self.data, self.size).map_err(|_| damaged("it cannot be decompressed"))?
        } else {
            self.data.to_vec()
        };
        let content = Zeroizing::new(content);
        if content.len() != self.size {
            return Err(damaged("it has another size than the archive says"));
        }
        if crc32(&content) != self.checksum {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(content)
    }
}

/// What [`Fields`] reads.
struct Zip;

impl Place for Zip {
    type Error = ArchiveError;

    const LITTLE_ENDIAN: bool = true;

    fn truncated(&self, field: &'static str) -> ArchiveError {
        ArchiveError::Truncated(field)
    }
}

type Fields<'a> = Reader<'a, Zip>;

fn at<'a>(archive: &'a [u8], offset: usize, record: &'static str) -> Result<Fields<'a>, ArchiveError> {
    archive.get(offset..).map(|rest| Reader::at(Zip, rest)).ok_or(ArchiveError::Truncated(record))
}

fn signature(fields: &mut Fields<'_>, expected: [u8; 4], missing: &'static str) -> Result<(), ArchiveError> {
    if fields.bytes("a signature", 4)? == expected { Ok(()) } else { Err(ArchiveError::Damaged(missing)) }
}

fn length(fields: &mut Fields<'_>, field: &'static str) -> Result<usize, ArchiveError> {
    fields.u16(field).map(usize::from)
}

fn size(fields: &mut Fields<'_>, field: &'static str) -> Result<usize, ArchiveError> {
    match fields.u32(field)? {
        u32::MAX => Err(ArchiveError::Unsupported("Zip64 sizes")),
        size => usize::try_from(size).map_err(|_| ArchiveError::TooLarge),
    }
}

/// The end record: number of entries and where the central directory begins.
fn end_record(archive: &[u8]) -> Result<(usize, usize), ArchiveError> {
    // It is followed by a comment whose length it tells.
    let last = archive.len().checked_sub(END_LEN).ok_or(ArchiveError::Truncated("its end record"))?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let is_end = |at: &usize| {
        let record = archive.get(*at..).unwrap_or_default();
        let mut comment = Reader::at(Zip, record.get(20..).unwrap_or_default());
        record.starts_with(&END) && length(&mut comment, "its comment").is_ok_and(|length| length == comment.left())
    };
    let at = (first..=last).rev().find(is_end).ok_or(ArchiveError::Damaged("it has no end record"))?;
    let mut record = self::at(archive, at + END.len(), "its end record")?;
    let (disk, central_disk) = (record.u16("the number of the disk")?, record.u16("the disk of the directory")?);
    let (here, count) = (length(&mut record, "the entries of the disk")?, length(&mut record, "the entries")?);
    let (_, offset) = (size(&mut record, "the directory's size")?, size(&mut record, "the directory's place")?);
    if disk != 0 || central_disk != 0 || here != count {
        return Err(ArchiveError::Unsupported("several disks"));
    }
    Ok((count, offset))
}

fn entries(archive: &[u8]) -> Result<Vec<Entry<'_>>, ArchiveError> {
    let (count, offset) = end_record(archive)?;
    if count > MAX_ENTRIES {
        return Err(ArchiveError::TooMany);
    }
    let mut central = at(archive, offset, "its directory")?;
    let entries = (0..count).map(|_| entry(archive, &mut central)).collect::<Result<Vec<_>, _>>()?;
    if entries.iter().map(|entry| entry.size).sum::<usize>() > MAX_TOTAL {
        return Err(ArchiveError::TooLarge);
    }
    Ok(entries)
}

/// The next entry of the central directory.
fn entry<'a>(archive: &'a [u8], central: &mut Fields<'a>) -> Result<Entry<'a>, ArchiveError> {
    signature(central, CENTRAL, "its directory has fewer entries than it says")?;
    let made_by_unix = central.u16("the maker's version")? >> 8 == 3;
    central.bytes("the version needed", 2)?;
    let (flags, method) = (central.u16("flags")?, central.u16("a method")?);
    central.bytes("a time", 4)?;
    let checksum = central.u32("a checksum")?;
    let (packed, unpacked) = (size(central, "a packed size")?, size(central, "a size")?);
    let (name, extra) = (length(central, "a name's length")?, length(central, "the length of an extra field")?);
    let comment = length(central, "a comment's length")?;
    central.bytes("a disk", 4)?;
    let (attributes, local) = (central.u32("attributes")?, size(central, "an entry's place")?);
    let name = central.bytes("a name", name)?;
    central.bytes("an extra field", extra)?;
    central.bytes("a comment", comment)?;

    let name = std::str::from_utf8(name).map_err(|_| ArchiveError::Unsupported("names that are not UTF-8"))?;
    let name = name.to_owned();
    let (path, is_folder) = inside(&name).ok_or_else(|| ArchiveError::Outside(name.clone()))?;
    let mode = if made_by_unix { attributes >> 16 } else { 0 };
    // The kind of file, if there is one: regular or folder.
    if ![0, 0o100_000, 0o040_000].contains(&(mode & 0o170_000)) {
        return Err(ArchiveError::Special(name));
    }
    if flags & 1 != 0 {
        return Err(ArchiveError::Unsupported("encrypted entries"));
    }
    let is_deflated = match method {
        0 => false,
        8 => true,
        _ => return Err(ArchiveError::Unsupported("a compression other than deflate")),
    };
    let mut header = at(archive, local, "an entry")?;
    signature(&mut header, LOCAL, "an entry is not where its directory says")?;
    header.bytes("an entry", 22)?;
    let (local_name, local_extra) = (length(&mut header, "an entry")?, length(&mut header, "an entry")?);
    header.bytes("an entry's name", local_name)?;
    header.bytes("an entry's extra field", local_extra)?;
    let data = header.bytes("an entry's contents", packed)?;
    Ok(Entry { name, path, is_folder, mode, is_deflated, checksum, size: unpacked, data })
}

/// The path of an entry if it goes downwards only, and whether it is a folder.
fn inside(name: &str) -> Option<(PathBuf, bool)> {
    let is_folder = name.ends_with('/');
    let path = Path::new(name);
    let is_normal = |component: Component<'_>| matches!(component, Component::Normal(_));
    // Components would tidy up "a//b" and "a/./b"; tidy archives do not have them.
    let is_tidy = !name.split('/').any(|part| part == "." || part == "..") && !name.contains("//");
    let is_plain = !name.chars().any(char::is_control);
    let fits = (1..=MAX_NAME).contains(&name.len());
    (fits && is_tidy && is_plain && path.components().all(is_normal)).then(|| (path.components().collect(), is_folder))
}

/// CRC-32 as in IEEE 802.3, four bits at a time.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = [
        0x0000_0000,
        0x1db7_1064,
        0x3b6e_20c8,
        0x26d9_30ac,
        0x76dc_4190,
        0x6b6b_51f4,
        0x4db2_6158,
        0x5005_713c,
        0xedb8_8320,
        0xf00f_9344,
        0xd6d6_a3e8,
        0xcb61_b38c,
        0x9b64_c2b0,
        0x86d3_d2d4,
        0xa00a_e278,
        0xbdbd_f21c,
    ];
    let step = |crc: u32, bits: u32| {
        let index = usize::try_from((crc ^ bits) & 15).unwrap_or_default();
        TABLE.get(index).copied().unwrap_or_default() ^ (crc >> 4)
    };
    let sum = bytes.iter().fold(u32::MAX, |crc, byte| step(step(crc, u32::from(*byte)), u32::from(byte >> 4)));
    !sum
}

#[cfg(test)]
mod tests;
