// SPDX-License-Identifier: Apache-2.0
//! Archives as Python's zipfile writes them, and ones that nobody should write.

use std::os::unix::fs::PermissionsExt as _;

use miniz_oxide::deflate::compress_to_vec;

use super::*;

/// An entry to be written.
#[derive(Clone)]
struct Given {
    name: &'static str,
    content: Vec<u8>,
    mode: u32,
    deflate: bool,
    flags: u16,
    method: Option<u16>,
    checksum: Option<u32>,
    size: Option<u32>,
}

fn file(name: &'static str, content: &str) -> Given {
    let content = content.as_bytes().to_vec();
    Given { name, content, mode: 0o100_644, deflate: true, flags: 0, method: None, checksum: None, size: None }
}

fn zip(entries: &[Given], comment: &str) -> Vec<u8> {
    let (mut archive, mut central) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = archive.len() as u32;
        let data = if entry.deflate { compress_to_vec(&entry.content, 6) } else { entry.content.clone() };
        let method = entry.method.unwrap_or(if entry.deflate { 8 } else { 0 });
        let mut common = vec![20, 0];
        common.extend(entry.flags.to_le_bytes());
        common.extend(method.to_le_bytes());
        common.extend([0; 4]);
        common.extend(entry.checksum.unwrap_or_else(|| crc32(&entry.content)).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend(entry.size.unwrap_or(entry.content.len() as u32).to_le_bytes());
        common.extend((entry.name.len() as u16).to_le_bytes());
        archive.extend(LOCAL);
        archive.extend(&common);
        archive.extend(3_u16.to_le_bytes());
        archive.extend(entry.name.as_bytes());
        archive.extend(b"ext");
        archive.extend(data);
        central.extend(CENTRAL);
        central.extend([20, 3]);
        central.extend(&common);
        central.extend(2_u16.to_le_bytes());
        central.extend([0; 6]);
        central.extend((entry.mode << 16).to_le_bytes());
        central.extend(offset.to_le_bytes());
        central.extend(entry.name.as_bytes());
        central.extend(b"ex");
    }
    let offset = archive.len() as u32;
    archive.extend(&central);
    archive.extend(END);
    archive.extend([0; 4]);
    archive.extend((entries.len() as u16).to_le_bytes());
    archive.extend((entries.len() as u16).to_le_bytes());
    archive.extend((central.len() as u32).to_le_bytes());
    archive.extend(offset.to_le_bytes());
    archive.extend((comment.len() as u16).to_le_bytes());
    archive.extend(comment.as_bytes());
    archive
}

fn extract_one(archive: &[u8]) -> (tempfile::TempDir, Result<(), String>) {
    let dir = tempfile::tempdir().unwrap();
    let result = Archive::parse(archive, &[]).and_then(|archive| archive.extract(dir.path()));
    let result = result.map_err(|error| error.to_string());
    (dir, result)
}

#[test]
fn files_and_folders() {
    let text = "text ".repeat(10_000);
    let entries = [
        Given { mode: 0o100_755, ..file("autorun.sh", "#!/bin/sh\n") },
        Given { deflate: false, mode: 0, ..file("a/b/c.txt", &text) },
        Given { deflate: false, mode: 0o040_755, ..file("empty/", "") },
        file("a/d", &text),
        file("PK\u{e4}", ""),
    ];
    for comment in ["", "a comment with PK\u{5}\u{6} in it and more than twenty bytes"] {
        let archive = zip(&entries, comment);
        assert!(is_archive(&archive));
        let (dir, result) = extract_one(&archive);
        assert_eq!(result, Ok(()));
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((read("autorun.sh"), read("PKä")), ("#!/bin/sh\n".to_owned(), String::new()));
        assert!(read("a/b/c.txt") == text && read("a/d") == text);
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode("autorun.sh"), mode("a/d"), mode("a/b"), mode("empty")], [0o700, 0o600, 0o700, 0o700]);
        assert_eq!(std::fs::read_dir(dir.path().join("empty")).unwrap().count(), 0);
    }
    assert_eq!(extract_one(&zip(&[], "")).1, Ok(()));
    assert!(is_archive(&zip(&[], "")) && !is_archive(b"plain text"));
}

#[test]
fn what_python_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.zip");
    let script = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as z:\n \
                  z.writestr('a.txt', 'a' * 5000)\n z.writestr('b/c', 'stored', zipfile.ZIP_STORED)\n";
    let made = std::process::Command::new("python3").args(["-c", script]).arg(&path).status();
    assert!(made.expect("python3 is installed").success());
    let (dir, result) = extract_one(&std::fs::read(&path).unwrap());
    assert_eq!(result, Ok(()));
    assert_eq!(std::fs::read_to_string(dir.path().join("a.txt")).unwrap(), "a".repeat(5000));
    assert_eq!(std::fs::read_to_string(dir.path().join("b/c")).unwrap(), "stored");
}

#[test]
fn each_refusal_has_its_text() {
    let outside = |name: &str| format!("entry {name:?} of the zip archive does not stay inside the folder");
    let entry = |reason: &str| format!("entry \"x\" of the zip archive is damaged: {reason}");
    let unsupported = |what: &str| format!("the zip archive has {what}, which is not supported");
    let x = || file("x", "content");
    let mut rows: Vec<_> = ["/x", "../x", "a/../../x", "a/../x", "./x", "a//x", "", "..", "/", "a\nb", "a/.."]
        .map(|name| (Given { name, ..x() }, outside(name)))
        .into();
    rows.extend([
        (Given { mode: 0o120_777, ..x() }, "entry \"x\" of the zip archive is a link or a device".to_owned()),
        (Given { mode: 0o020_666, ..x() }, "entry \"x\" of the zip archive is a link or a device".to_owned()),
        (Given { flags: 1, ..x() }, unsupported("encrypted entries")),
        (Given { method: Some(12), ..x() }, unsupported("a compression other than deflate")),
        (Given { size: Some(u32::MAX), ..x() }, unsupported("Zip64 sizes")),
        (Given { checksum: Some(1), ..x() }, entry("its checksum is wrong")),
        (Given { size: Some(6), ..x() }, entry("it cannot be decompressed")),
        (Given { size: Some(8), ..x() }, entry("it has another size than the archive says")),
        (Given { deflate: false, method: Some(8), ..x() }, entry("it cannot be decompressed")),
        (Given { size: Some(33 << 20), ..x() }, "the files of the zip archive have more than 32 MiB".to_owned()),
    ]);
    for (given, text) in rows {
        let good = file("good", "good");
        let (dir, result) = extract_one(&zip(&[good, given], ""));
        assert_eq!(result.unwrap_err(), text);
        assert!(!dir.path().join("good").exists(), "{text}");
    }
    for (first, second) in [("x", "x"), ("x", "x/y"), ("x/y/z", "x"), ("taken", "x"), ("taken/x", "x"), ("x", "x/")] {
        let archive = zip(&[file(first, ""), file(second, "")], "");
        let error = Archive::parse(&archive, &["taken"]).err().unwrap().to_string();
        let rest = "of the zip archive comes twice, or stands in the way of another file of the payload";
        assert!(error.starts_with("entry \"") && error.ends_with(rest), "{first} {second}: {error}");
    }
    let many = vec![Given { deflate: false, ..file("d/", "") }; MAX_ENTRIES + 1];
    assert_eq!(extract_one(&zip(&many, "")).1.unwrap_err(), "the zip archive has more than 1000 entries");
}

#[test]
fn a_bomb_is_not_unpacked() {
    // A megabyte of these says that it has 7 bytes and would have a gigabyte.
    let bomb = Given { content: vec![0; 4 << 20], size: Some(7), ..file("x", "") };
    let archive = zip(&[bomb], "");
    assert!(archive.len() < 8 << 10);
    assert!(extract_one(&archive).1.unwrap_err().ends_with("it cannot be decompressed"));
}

#[test]
fn no_piece_and_no_change_does_harm() {
    let archive = zip(&[file("a", "content"), file("b/c", "more")], "comment");
    for length in 0..archive.len() {
        assert!(extract_one(&archive[..length]).1.is_err(), "{length}");
    }
    for at in 0..archive.len() {
        let mut changed = archive.clone();
        changed[at] ^= 1 << (at % 8);
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        // Whatever comes of it: nothing outside.
        let _ = Archive::parse(&changed, &[]).and_then(|archive| archive.extract(&inside));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn checksums() {
    assert_eq!(crc32(b""), 0);
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}
