// SPDX-License-Identifier: Apache-2.0
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

/// A list that cannot be replaced: nothing is at its path.
fn list_in(file: &File) -> ImaList {
    ImaList::new(Descriptors::new([file.try_clone().unwrap()], false), Path::new("/nonexistent"))
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
    let list = list_in(&file);
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
    let list = list_in(&tempfile::tempfile().unwrap());
    assert_eq!(read(&list, 0), (0, String::new()));
    assert_eq!(read(&list, 1), (0, String::new()));
}

#[test]
fn long_lists_are_found_in_at_any_line() {
    const N: u64 = 10_000;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(lines(0..N).as_bytes()).unwrap();
    let whole = list_in(&file);
    for entry in [1, 1023, 1024, 1025, 5000, 9999, 10_000, 3, 2048, 0] {
        let expected = (entry, lines(entry..N));
        // With what earlier requests have left, and from nothing.
        assert_eq!(read(&whole, entry), expected);
        assert_eq!(read(&list_in(&file), entry), expected);
    }
    let opened = whole.current().unwrap();
    let index = opened.index();
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
    let list = list_in(&file);
    assert_eq!(read(&list, 2), (2, String::new()));
    assert_eq!(read(&list, 1), (1, long));
}

#[test]
fn an_endless_line_is_an_error() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(6 << 20).unwrap();
    let list = list_in(&file);
    let error = block_on(list.starting_at(0)).unwrap().1.next_lines().unwrap_err();
    assert_eq!(error.to_string(), "a line of the IMA list is longer than 4 MiB");
    assert!(block_on(list.starting_at(1)).is_err());
}

#[test]
fn a_truncated_file_is_read_anew() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(lines(0..2000).as_bytes()).unwrap();
    let list = list_in(&file);
    assert_eq!(read(&list, 2000).0, 2000);
    file.set_len(0).unwrap();
    file.write_all_at(lines(5..7).as_bytes(), 0).unwrap();
    assert_eq!(read(&list, 2000), (0, lines(5..7)));
    assert_eq!(read(&list, 2), (2, String::new()));
}

/// Bytes that this thread has read from files.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn only_new_lines_are_read_of_half_a_million() {
    const N: u64 = 500_000;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(lines(0..N).as_bytes()).unwrap();
    let size = file.metadata().unwrap().len();
    let list = list_in(&file);
    // Once, however far in the verifier is.
    let start = bytes_read();
    assert_eq!(read(&list, N), (N, String::new()));
    let first = bytes_read() - start;
    assert!((size..size + 100_000).contains(&first), "{first} of {size} bytes");
    for new in 0..20 {
        let n = N + 10 * new;
        file.write_all(lines(n..n + 10).as_bytes()).unwrap();
        let start = bytes_read();
        assert_eq!(read(&list, n), (n, lines(n..n + 10)));
        let new = bytes_read() - start;
        assert!(new < 5_000, "{new} bytes for ten lines");
    }
    // One whose answer was lost asks for the same again; one that knows another list is told at once.
    let end = N + 200;
    let start = bytes_read();
    assert_eq!(read(&list, end - 10), (end - 10, lines(end - 10..end)));
    assert_eq!(block_on(list.starting_at(end + 1)).unwrap().0, 0);
    let again = bytes_read() - start;
    assert!(again < 300_000, "{again} bytes");
    // What is remembered of 500,000 lines has some kilobytes.
    let opened = list.current().unwrap();
    let index = opened.index();
    assert_eq!(index.strides.len() as u64, end / STRIDE);
    assert_eq!(index.tail.len(), TAIL);
}

#[test]
fn an_emptied_file_is_read_anew() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(lines(0..10).as_bytes()).unwrap();
    let list = list_in(&file);
    assert_eq!(read(&list, 10), (10, String::new()));
    file.set_len(0).unwrap();
    assert_eq!(read(&list, 10), (0, String::new()));
    file.write_all_at(lines(3..5).as_bytes(), 0).unwrap();
    assert_eq!(read(&list, 10), (0, lines(3..5)));
}

#[test]
fn a_file_written_anew_is_noticed_though_it_is_longer() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(lines(0..3000).as_bytes(), 0).unwrap();
    let list = list_in(&file);
    assert_eq!(read(&list, 3000), (3000, String::new()));
    let shorter_lines: String = (0..9000).map(|n| format!("10 {n} ima-ng /y\n")).collect();
    file.set_len(0).unwrap();
    file.write_all_at(shorter_lines.as_bytes(), 0).unwrap();
    file.write_all_at(lines(9000..12_000).as_bytes(), shorter_lines.len() as u64).unwrap();
    assert_eq!(read(&list, 9000), (9000, lines(9000..12_000)));
    assert_eq!(read(&list, 12_001).0, 0);
}

#[test]
fn a_replaced_file_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("ima"), dir.path().join("other"));
    std::fs::write(&path, lines(0..2000)).unwrap();
    let list = ImaList::new(Descriptors::new([File::open(&path).unwrap()], false), &path);
    assert_eq!(read(&list, 2000), (2000, String::new()));
    // Gone for a moment, as by the rotation of logs: the file so far counts.
    std::fs::rename(&path, &other).unwrap();
    assert_eq!(read(&list, 1999), (1999, lines(1999..2000)));
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(read(&list, 1999), (1999, lines(1999..2000)));
    // A reader that has begun goes on with what it began with.
    let (_, mut begun) = block_on(list.starting_at(0)).unwrap();
    std::fs::write(dir.path().join("new"), lines(7..9)).unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(read(&list, 2000), (0, lines(7..9)));
    assert_eq!(read(&list, 1), (1, lines(8..9)));
    assert!(begun.next_lines().unwrap().unwrap().starts_with(lines(0..100).as_bytes()));
}

/// The kernel's list of symbols is, as the one of IMA, made anew for each reading.
#[test]
fn readers_of_the_kernels_list_go_on_where_they_stand() {
    let files = (0..DESCRIPTORS).map(|_| File::open("/proc/kallsyms").unwrap());
    let list = ImaList::new(Descriptors::new(files, true), Path::new("/proc/kallsyms"));
    let whole = read(&list, 0).1;
    let positions = || {
        let opened = list.opened.lock().unwrap();
        let free = opened.file.free.lock().unwrap();
        free.iter().map(|descriptor| descriptor.at).collect::<Vec<_>>()
    };
    let mut readers: Vec<_> =
        (0..DESCRIPTORS).map(|_| (block_on(list.starting_at(0)).unwrap().1, Vec::new())).collect();
    // Each a part further than the one before, and then one part of each in turn.
    for (at, (reader, text)) in readers.iter_mut().enumerate() {
        for _ in 0..=2 * at {
            text.extend(reader.next_lines().unwrap().unwrap());
        }
    }
    let mut before: Vec<_> = positions();
    for _ in 0..20 {
        for (reader, text) in &mut readers {
            text.extend(reader.next_lines().unwrap().unwrap());
            let now = positions();
            // One descriptor has moved, from where the reader stood, and none was put back.
            let stayed = now.iter().filter(|at| before.contains(at)).count();
            assert_eq!(stayed, DESCRIPTORS - 1);
            assert!(now.iter().min() >= before.iter().min());
            before = now;
        }
    }
    for (_, text) in &readers {
        assert!(whole.as_bytes().starts_with(text));
    }
}
