// SPDX-License-Identifier: Apache-2.0
//! A way to a port of this machine on which nothing gets through until it is opened.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// Accepts connections at once, and holds back what they bring.
pub(crate) struct SlowWay {
    port: u16,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl SlowWay {
    pub(crate) fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (own, gate) = (listener.local_addr()?.port(), Arc::<Gate>::default());
        let held = Arc::clone(&gate);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let gate = Arc::clone(&held);
                thread::spawn(move || {
                    let open = gate.open.lock().unwrap_or_else(PoisonError::into_inner);
                    drop(gate.opened.wait_while(open, |open| !*open));
                    // Either end may go away at any time.
                    let _ended = join(stream, port);
                });
            }
        });
        Ok(Self { port: own, gate })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn open(&self) {
        *self.gate.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.gate.opened.notify_all();
    }
}

/// Passes everything on, both ways, until both have ended.
fn join(near: TcpStream, port: u16) -> io::Result<()> {
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let (from_near, to_far) = (near.try_clone()?, far.try_clone()?);
    let forth = thread::spawn(move || pass(from_near, to_far));
    pass(far, near)?;
    forth.join().unwrap_or(Ok(()))
}

fn pass(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.flush()?;
    to.shutdown(Shutdown::Write)
}
