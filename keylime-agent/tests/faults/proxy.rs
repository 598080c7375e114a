// SPDX-License-Identifier: Apache-2.0
//! A TCP proxy in front of the registrar, the agent or the TPM, which a test can make fail in several ways.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What is done with connections.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// They are closed at once.
    Close,
    /// They are held, and nothing is said.
    Hold,
    /// They lead to this port.
    To(u16),
    /// They lead to this port, each piece in each direction that much later.
    Late(u16, Duration),
    /// They lead to this port, which never sees the first request that begins like this, nor what follows.
    Until(u16, &'static str, Then),
}

/// What is done instead of passing a request on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Then {
    /// This process gets this signal, and the connection is ended.
    Signal(i32, Signal),
    /// Nothing.
    Hold,
}

/// The proxy. Its thread lasts as long as the test.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: Arc<Mutex<Mode>>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens on this port; 0 for any.
    pub(crate) fn start(port: u16, mode: Mode) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(Mutex::new(mode));
        let connections = Arc::<AtomicUsize>::default();
        let (modes, count) = (Arc::clone(&mode), Arc::clone(&connections));
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                match *modes.lock().unwrap() {
                    Mode::Close => {}
                    Mode::Hold => held.push(stream),
                    Mode::To(port) => lead(stream, port, Duration::ZERO, None),
                    Mode::Late(port, delay) => lead(stream, port, delay, None),
                    Mode::Until(port, begin, then) => lead(stream, port, Duration::ZERO, Some((begin, then))),
                }
            }
        });
        Self { port, mode, connections }
    }

    /// How many it has taken so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// From the next connection on.
    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }
}

fn lead(caller: TcpStream, port: u16, delay: Duration, until: Option<(&'static str, Then)>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let (from, to) = (server.try_clone().unwrap(), caller.try_clone().unwrap());
    std::thread::spawn(move || pump(caller, server, delay, until));
    std::thread::spawn(move || pump(from, to, delay, None));
}

fn pump(mut from: TcpStream, mut to: TcpStream, delay: Duration, until: Option<(&'static str, Then)>) {
    let mut piece = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        std::thread::sleep(delay);
        match until.filter(|(begin, _)| piece.starts_with(begin.as_bytes())) {
            None => {}
            Some((_, Then::Signal(pid, signal))) => {
                kill(Pid::from_raw(pid), signal).unwrap();
                break;
            }
            Some((_, Then::Hold)) => loop {
                std::thread::park();
            },
        }
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
