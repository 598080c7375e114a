// SPDX-License-Identifier: Apache-2.0
//! Standard error as a place for log lines that must neither hold up nor end the plugin.
//!
//! A host that stops reading lets the pipe fill up; a plain write would then block for good, and with it every call
//! the plugin serves. So a line waits a moment for room, later ones none at all until there is room again.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

use super::{line, time::Timestamp};

/// How long the first line waits for a host that does not read.
const PATIENCE: Duration = Duration::from_millis(100);
/// A pipe that reports room takes this much without blocking (POSIX: `PIPE_BUF`).
const CHUNK: usize = 4096;

/// Where log lines go.
#[derive(Debug)]
pub(crate) struct Sink {
    fd: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines lost since the last one that got through.
    lost: u64,
    /// The last line broke off in its middle.
    broken_off: bool,
    /// Nobody will read any more.
    closed: bool,
}

impl Sink {
    /// Writes to a file descriptor of its own.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, state: Mutex::default() }
    }

    /// Standard error, also if something closes or redirects descriptor 2 later.
    pub(crate) fn stderr() -> io::Result<Self> {
        io::stderr().as_fd().try_clone_to_owned().map(Self::new)
    }

    /// Writes one line, or gives it up.
    pub(crate) fn write(&self, line: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return;
        }
        let patience = if state.lost == 0 { PATIENCE } else { Duration::ZERO };
        if state.lost > 0 {
            let note = note(state.lost);
            let note = if state.broken_off { format!("\n{note}") } else { note };
            match self.push(note.as_bytes(), patience) {
                Ok(()) => {
                    state.lost = 0;
                    state.broken_off = false;
                }
                Err(lost) => return state.lose(lost),
            }
        }
        if let Err(lost) = self.push(line.as_bytes(), patience) {
            state.lose(lost);
        }
    }

    fn push(&self, bytes: &[u8], patience: Duration) -> Result<(), Lost> {
        let deadline = Instant::now() + patience;
        let mut rest = bytes;
        while !rest.is_empty() {
            let lost = |closed| Lost { closed, begun: rest.len() < bytes.len() };
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
            // Rounded up, lest the last millisecond be spent in a busy loop.
            let wait = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, wait) {
                Ok(0) => return Err(lost(false)),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(_) => return Err(lost(true)),
            }
            let (chunk, _) = rest.split_at(rest.len().min(CHUNK));
            match write(&self.fd, chunk) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !left.is_zero() => {}
                Err(Errno::EAGAIN) => return Err(lost(false)),
                Err(_) => return Err(lost(true)),
            }
        }
        Ok(())
    }
}

/// A line did not get through.
struct Lost {
    /// Nor will any other.
    closed: bool,
    /// A part of it did.
    begun: bool,
}

impl State {
    fn lose(&mut self, lost: Lost) {
        self.lost += 1;
        self.closed |= lost.closed;
        self.broken_off |= lost.begun;
    }
}

/// The line that tells of lost ones.
fn note(lost: u64) -> String {
    let text = line::string(format_args!("{lost} log lines were lost because the host did not read them"), 256);
    format!(
        "{{\"@level\":\"warn\",\"@timestamp\":\"{}\",\"@module\":\"{}\",\"@message\":{text}}}\n",
        Timestamp(SystemTime::now()),
        module_path!(),
    )
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    #[test]
    fn a_host_that_does_not_read_costs_lines_but_no_time() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let sink = Sink::new(write);
        let line = format!("{}\n", "x".repeat(9_999));
        let start = Instant::now();
        for _ in 0..1_000 {
            sink.write(&line);
        }
        assert!(start.elapsed() < 20 * PATIENCE, "{:?}", start.elapsed());

        // Reading makes room; the next line tells of the loss and follows whole.
        let mut read = File::from(read);
        let mut seen = vec![0; 40_000];
        read.read_exact(&mut seen).unwrap();
        sink.write("after\n");
        drop(sink);
        let mut rest = String::new();
        read.read_to_string(&mut rest).unwrap();
        let mut last = rest.lines().rev();
        assert_eq!(last.next(), Some("after"));
        let note = last.next().unwrap();
        assert!(note.contains("log lines were lost because the host did not read them"), "{note}");
        assert!(serde_json::from_str::<serde_json::Value>(note).is_ok(), "{note}");
    }

    #[test]
    fn a_dead_host_is_no_error() {
        let (read, write) = nix::unistd::pipe().unwrap();
        drop(read);
        let sink = Sink::new(write);
        sink.write("one\n");
        sink.write("two\n");
        assert!(sink.state.lock().unwrap().closed);
    }
}
