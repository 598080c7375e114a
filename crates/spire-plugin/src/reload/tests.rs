// SPDX-License-Identifier: Apache-2.0
use std::os::unix::fs::symlink;

use super::*;

fn new(files: Vec<PathBuf>, since: SystemTime) -> Watch {
    let now = Snapshot::take(&files);
    Watch::new(files, now, since)
}

fn settled(watch: &mut Watch) -> bool {
    let now = Snapshot::take(watch.files());
    watch.settled(now)
}

fn follow(watch: &mut Watch, files: Vec<PathBuf>, since: SystemTime) {
    let now = Snapshot::take(&files);
    watch.follow(files, now, since);
}

/// A watch over files that have not changed lately.
fn watch(files: Vec<PathBuf>) -> Watch {
    let watch = new(files, SystemTime::now() + Duration::from_secs(60));
    assert!(watch.known.is_some());
    watch
}

/// The change is told by the second look that sees it, and not again.
fn assert_told_once(watch: &mut Watch, what: &str) {
    for (look, told) in [(1, false), (2, true), (3, false), (4, false)] {
        assert_eq!(settled(watch), told, "{what}: look {look}");
    }
}

#[test]
fn each_kind_of_change_is_told_once_it_has_settled() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("cert"), "1").unwrap();
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("folder/a"), "1").unwrap();
    fs::write(path("target1"), "same").unwrap();
    fs::write(path("target2"), "same").unwrap();
    symlink("target1", path("link")).unwrap();

    let mut watch = watch(["cert", "folder", "link", "missing"].map(path).to_vec());
    assert!(!settled(&mut watch) && !settled(&mut watch));
    let change = |what: &str| match what {
        "written" => fs::write(path("cert"), "22").unwrap(),
        "replaced" => {
            fs::write(path("new"), "22").unwrap();
            fs::rename(path("new"), path("cert")).unwrap();
        }
        "mode" => fs::set_permissions(path("cert"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap(),
        "gone" => fs::remove_file(path("cert")).unwrap(),
        "back" => fs::write(path("cert"), "3").unwrap(),
        "appeared" => fs::write(path("missing"), "").unwrap(),
        "in folder" => fs::write(path("folder/a"), "22").unwrap(),
        "new in folder" => fs::write(path("folder/b"), "1").unwrap(),
        "gone from folder" => fs::remove_file(path("folder/b")).unwrap(),
        "other target" => {
            fs::remove_file(path("link")).unwrap();
            symlink("target2", path("link")).unwrap();
        }
        _ => fs::write(path("target2"), "other").unwrap(),
    };
    for what in [
        "written",
        "replaced",
        "mode",
        "gone",
        "back",
        "appeared",
        "in folder",
        "new in folder",
        "gone from folder",
        "other target",
        "target written",
    ] {
        change(what);
        assert_told_once(&mut watch, what);
    }
    fs::write(path("unwatched"), "").unwrap();
    assert!(!settled(&mut watch) && !settled(&mut watch));
}

#[test]
fn a_state_that_still_moves_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cert");
    fs::write(&file, "").unwrap();
    let mut watch = watch(vec![file.clone()]);
    for length in 1..5 {
        fs::write(&file, "x".repeat(length)).unwrap();
        assert!(!settled(&mut watch));
    }
    assert!(settled(&mut watch));

    // There and back between two looks, or from one to the next, is no change. A hard link keeps the file itself.
    let kept = dir.path().join("kept");
    fs::hard_link(&file, &kept).unwrap();
    assert_told_once(&mut watch, "one more link");
    fs::remove_file(&file).unwrap();
    assert!(!settled(&mut watch));
}

#[test]
fn a_change_while_the_files_were_read_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cert");
    let start = SystemTime::now();
    fs::write(&file, "1").unwrap();
    let mut watch = new(vec![file], start);
    assert_told_once(&mut watch, "written after the start");
}

#[test]
fn other_files_are_followed_and_the_same_are_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    fs::write(&one, "1").unwrap();
    let later = SystemTime::now() + Duration::from_secs(60);
    let mut watch = watch(vec![one.clone()]);
    fs::write(&one, "22").unwrap();
    follow(&mut watch, vec![one.clone()], later);
    assert_told_once(&mut watch, "changed before `follow`");

    follow(&mut watch, vec![two.clone()], later);
    fs::write(&one, "333").unwrap();
    assert!(!settled(&mut watch) && !settled(&mut watch));
    fs::write(&two, "1").unwrap();
    assert_told_once(&mut watch, "the new file");
}

#[test]
fn a_folder_of_very_many_files_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..MAX_ENTRIES + 10 {
        fs::write(dir.path().join(n.to_string()), "").unwrap();
    }
    assert_eq!(Snapshot::take(&[dir.path().to_owned()]).files.len(), 1 + MAX_ENTRIES);
}

#[test]
fn hidden_files_of_a_folder_count_only_while_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let start = SystemTime::now();
    fs::write(dir.path().join("ca.pem"), "1").unwrap();
    let mut watch = watch(vec![dir.path().to_owned()]);
    for text in ["1", "22"] {
        fs::write(dir.path().join(".ca.pem.swp"), text).unwrap();
        assert!(!settled(&mut watch) && !settled(&mut watch));
    }
    for number in 0..MAX_ENTRIES {
        fs::write(dir.path().join(format!(".{number}")), "").unwrap();
    }
    fs::write(dir.path().join("ca.pem"), "22").unwrap();
    assert_told_once(&mut watch, "beside many hidden files");

    // A file that was read may be gone: the times of the folder tell, whoever moved them.
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    assert!(new(vec![dir.path().to_owned()], start).known.is_none());
}
