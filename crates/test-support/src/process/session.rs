// SPDX-License-Identifier: Apache-2.0
//! Who belongs to a session, according to `/proc`.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// The living processes of a session: id and name of the program file (at most 15 bytes of it).
#[must_use]
pub fn members(session: u32) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (name, state, of) = parse_stat(&stat)?;
            (of == session && state != "Z").then(|| (pid, name.to_owned()))
        })
        .collect()
}

/// Name, state and session from a line of `/proc/PID/stat`. The name may hold anything, so the fields start after its
/// last parenthesis: state, parent, group, session.
fn parse_stat(stat: &str) -> Option<(&str, &str, u32)> {
    let (head, fields) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    let session = fields.nth(2)?.parse().ok()?;
    Some((name, state, session))
}

/// Resident memory of a process (`VmRSS`) in KiB.
#[must_use]
pub fn rss_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmRSS:")
}

/// The most resident memory that a process has had so far (`VmHWM`) in KiB.
#[must_use]
pub fn peak_rss_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time that a process has taken, in its own code and in the kernel's (`utime` and `stime`).
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    // Fields 14 and 15 of the line, of which two stand before the blank; in hundredths of a second (USER_HZ).
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().ok());
    Some(Duration::from_millis(ticks.sum::<Option<u64>>()? * 10))
}

/// Sends a signal to one process; that it is gone already is fine.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}

/// Kills a session. A process may start another one between the look and the signal, hence the repetition.
pub(super) fn kill(session: u32) {
    for _ in 0..20 {
        let left = members(session);
        if left.is_empty() {
            return;
        }
        for (pid, _) in left {
            signal(pid, Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses_and_blanks() {
        assert_eq!(parse_stat("12 (a) (b) S 1 12 7 0 -1"), Some(("a) (b", "S", 7)));
        assert_eq!(parse_stat("12 (a"), None);
        assert_eq!(parse_stat("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_takes_time() {
        let me = std::process::id();
        assert!(rss_kib(me).unwrap() > 100 && peak_rss_kib(me) >= rss_kib(me));
        let before = cpu_time(me).unwrap();
        let look = || Ok((cpu_time(me).unwrap() > before).then_some(()));
        // Looking takes time itself.
        crate::wait::until("processor time", Duration::from_secs(30), look).unwrap();
    }
}
