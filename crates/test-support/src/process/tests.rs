// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::scratch::Scratch;

const LIMIT: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script])
}

#[test]
fn run_answers_output_and_status() {
    let output = shell("echo out; echo err >&2; exit 3").run(LIMIT).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(success("it", output).unwrap_err().to_string(), "it: exit status: 3\nout\nerr");
}

#[test]
fn run_kills_what_takes_too_long() {
    let error = shell("echo busy >&2; sleep 60").run(Duration::from_millis(300)).unwrap_err();
    assert_eq!(format!("{error:#}"), "busy\n: end of /bin/sh: not within 0.3 s");
}

#[test]
fn only_harmless_variables_are_inherited() {
    let output = shell("env | cut -d= -f1 | sort").env("ADDED", "1").run(LIMIT).unwrap();
    let text = success("env", output).unwrap();
    assert!(text.lines().any(|name| name == "ADDED"));
    assert!(!text.lines().any(|name| name.starts_with("CARGO")), "{text}");
}

#[test]
fn dropping_a_part_kills_what_it_started() {
    let scratch = Scratch::new("part").unwrap();
    let mut part = shell("sleep 60 & sleep 60 & echo started; wait").start("sh", &scratch.join("log")).unwrap();
    assert_eq!(part.wait_log("started", LIMIT).unwrap(), "started");
    let session = part.pid();
    assert_eq!(members(session).len(), 3);
    drop(part);
    assert_eq!(members(session), []);
}

#[test]
fn a_part_that_ends_early_is_reported_with_its_log() {
    let scratch = Scratch::new("part").unwrap();
    let mut part = shell("echo why; exit 4").start("sh", &scratch.join("log")).unwrap();
    let error = part.wait_log("never", LIMIT).unwrap_err();
    assert_eq!(error.to_string(), "sh: log line with \"never\": ended with exit status: 4; end of its log:\nwhy");
}

#[test]
fn a_part_outlives_the_thread_that_started_it() {
    let scratch = Scratch::new("part").unwrap();
    let log = scratch.join("log");
    let mut part = thread::spawn(move || shell("echo up; sleep 60").start("sh", &log).unwrap()).join().unwrap();
    part.wait_log("up", LIMIT).unwrap();
    assert!(part.exited().is_none());
}

/// Runs this test again in a process of its own, kills that, and looks for what is left.
#[test]
fn killing_the_parent_leaves_nothing_running() {
    const MARK: &str = "TEST_SUPPORT_TO_BE_KILLED";
    if let Some(log) = std::env::var_os(MARK) {
        let part = shell("sleep 60 & echo pid $$; wait").start("sh", Path::new(&log)).unwrap();
        part.exited_never();
    }
    let scratch = Scratch::new("killed").unwrap();
    let log = scratch.join("log");
    let me = std::env::current_exe().unwrap();
    let mut parent = Command::new(me)
        .args(["--exact", "process::tests::killing_the_parent_leaves_nothing_running", "--nocapture"])
        .env(MARK, &log)
        .spawn()
        .unwrap();
    let session = wait::until("the child's pid", LIMIT, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        Ok(text.strip_prefix("pid ").and_then(|pid| pid.trim().parse::<u32>().ok()))
    })
    .unwrap();
    wait::until("the shell and its child", LIMIT, || Ok((members(session).len() == 2).then_some(()))).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait::until("the end of both", LIMIT, || Ok(members(session).is_empty().then_some(()))).unwrap();
}

impl Part {
    /// Waits for the kill that the test above sends.
    fn exited_never(mut self) -> ! {
        let ended = self.wait_end(Duration::from_secs(50));
        panic!("not killed: {ended:?}");
    }
}

#[test]
fn a_checksum_is_that_of_sha256sum() {
    let scratch = Scratch::new("sum").unwrap();
    let path = scratch.write("file", "abc").unwrap();
    assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
