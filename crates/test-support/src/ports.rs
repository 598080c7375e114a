// SPDX-License-Identifier: Apache-2.0
//! TCP ports on loopback that no other lab, in this process or another, uses at the same time.
//!
//! A program that takes a port number cannot be given a bound socket, and a port found by binding to port 0 may be
//! taken by anybody once it is released. So a port is reserved by a lock on a file named after it, below the range the
//! kernel picks from by itself; that leaves programs that know nothing of the lab, against which [`retry`] helps.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A reserved port. Free again when dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Holds the lock.
    _lock: File,
}

impl Port {
    /// The port number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Reserves one port. Nothing listens there until its holder does.
///
/// # Errors
/// When no port of the range is free or the lock files cannot be made.
pub fn reserve() -> Result<Port> {
    let [port] = reserve_run::<1>()?;
    Ok(port)
}

/// Reserves `N` ports with consecutive numbers, lowest first.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_run<const N: usize>() -> Result<[Port; N]> {
    let range = range();
    let run = u16::try_from(N).context("too many ports")?;
    let count = range.end - range.start - run;
    let offset = u16::try_from(RandomState::new().hash_one(std::process::id()) % u64::from(count)).unwrap_or(0);
    for step in 0..count {
        let first = range.start + (offset + step) % count;
        let ports: Vec<Port> = (first..first + run).map_while(try_reserve).collect();
        if let Ok(ports) = ports.try_into() {
            return Ok(ports);
        }
    }
    bail!("no free port from {} to {}", range.start, range.end)
}

/// The numbers to choose from: unprivileged, and below those the kernel gives to outgoing connections.
fn range() -> Range<u16> {
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let low = ephemeral.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(32768);
    if low >= 12_000 { 10_240..low } else { 10_240..60_000 }
}

fn try_reserve(number: u16) -> Option<Port> {
    let folder = lock_folder();
    fs::create_dir_all(&folder).ok()?;
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(number.to_string())).ok()?;
    lock.try_lock().ok()?;
    // Asked by connecting and not by listening: a listening socket would live on for a moment in every program that
    // another thread starts just then, and the port's new owner would find it taken.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    let refused = TcpStream::connect_timeout(&address, Duration::from_secs(1))
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    refused.then_some(Port { number, _lock: lock })
}

fn lock_folder() -> PathBuf {
    std::env::temp_dir().join(format!("spire-keylime-ports-{}", nix::unistd::geteuid()))
}

/// Words in a program's log that mean that somebody else has taken its port.
const TAKEN: [&str; 4] = ["ddress already in use", "ddress in use", "Errno 98", "EADDRINUSE"];

/// Whether an error says that a port was taken.
fn is_taken(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    TAKEN.iter().any(|words| text.contains(words))
}

/// Calls `start` again, up to three times in all, while it fails because a port was taken in the meantime.
///
/// # Errors
/// The last error of `start`.
pub fn retry<T>(mut start: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..2 {
        match start() {
            Err(error) if is_taken(&error) => {}
            done => return done,
        }
    }
    start()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn reserved_ports_differ_and_can_be_bound() {
        let ports: Vec<Port> = (0..20).map(|_| reserve().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
        for port in &ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        }
    }

    #[test]
    fn a_run_is_consecutive() {
        let [first, second] = reserve_run::<2>().unwrap();
        assert_eq!(first.number() + 1, second.number());
    }

    #[test]
    fn only_a_taken_port_is_tried_again() {
        let mut calls = 0;
        let error = retry(|| -> Result<()> {
            calls += 1;
            bail!("bind: Address already in use (os error 98)")
        });
        assert!(error.is_err());
        assert_eq!(calls, 3);
        calls = 0;
        let error = retry(|| -> Result<()> {
            calls += 1;
            bail!("no such file")
        });
        assert!(error.is_err());
        assert_eq!(calls, 1);
    }
}
