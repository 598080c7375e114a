// SPDX-License-Identifier: Apache-2.0
//! Another program that changes a PCR while one makes a quote of it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Swtpm;
use crate::ports::{self, Port};

/// The command code of TPM2_Quote.
pub const QUOTE: u32 = 0x158;
/// The command code of TPM2_PCR_Read.
pub const PCR_READ: u32 = 0x17e;

/// Longest command or answer passed on, in bytes.
const MAX_MESSAGE: usize = 4096;

impl Swtpm {
    /// Extends a PCR of the SHA-256 bank in a thread, with this pause between two times, until the result is dropped. Without a
    /// pause it comes between nearly any two commands of another program.
    ///
    /// # Errors
    /// When the TPM is not running.
    pub fn keep_extending(&self, pcr: u8, pause: Duration) -> Result<Extending> {
        ensure!(self.part.is_some(), "the TPM is off");
        let port = self.ports[0].number();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                extend(port, pcr).expect("the TPM runs");
                thread::sleep(pause);
            }
        });
        Ok(Extending { over, thread: Some(thread) })
    }

    /// A second address of this TPM, where a PCR of the SHA-256 bank is extended before chosen commands.
    ///
    /// # Errors
    /// When no port is free.
    pub fn rival(&self, pcr: u8) -> Result<Rival> {
        let [data, control] = self.ports.each_ref().map(Port::number);
        let (own, data_listener, control_listener) = ports::retry(|| {
            let own = ports::reserve_run::<2>()?;
            let listen = |port: &Port| TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()));
            let (data, control) = (listen(&own[0])?, listen(&own[1])?);
            Ok((own, data, control))
        })?;
        let before = Arc::<Mutex<Vec<u32>>>::default();
        let commands = Arc::clone(&before);
        serve(data_listener, move |caller| relay(caller, data, pcr, &commands));
        serve(control_listener, move |caller| lead(caller, control));
        Ok(Rival { tcti: format!("swtpm:host=127.0.0.1,port={}", own[0].number()), before, _ports: own })
    }
}

/// A PCR is being extended; see [`Swtpm::keep_extending`].
#[derive(Debug)]
pub struct Extending {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Extending {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the PCR could not be extended");
    }
}

/// What comes in between; see [`Swtpm::rival`]. Its threads last as long as the test program.
#[derive(Debug)]
pub struct Rival {
    /// What the `TCTI` variable of the program that shall be disturbed holds.
    pub tcti: String,
    before: Arc<Mutex<Vec<u32>>>,
    _ports: [Port; 2],
}

impl Rival {
    /// From now on the PCR is extended before each command with one of these codes, and before no other. At first it is
    /// before none.
    pub fn extend_before(&self, commands: &[u32]) {
        *self.before.lock().expect("no holder panics") = commands.to_vec();
    }
}

/// Gives each connection a thread.
fn serve(listener: TcpListener, answer: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static) {
    thread::spawn(move || {
        for caller in listener.incoming().map_while(std::io::Result::ok) {
            let answer = answer.clone();
            // It fails when either side has gone, which the caller sees for itself.
            thread::spawn(move || drop(answer(caller)));
        }
    });
}

/// Passes on one command after the other, each on a connection of its own, as the TPM serves one at a time.
fn relay(mut caller: TcpStream, port: u16, pcr: u8, before: &Mutex<Vec<u32>>) -> Result<()> {
    loop {
        let (code, command) = message(&mut caller)?;
        if before.lock().expect("no holder panics").contains(&code) {
            extend(port, pcr)?;
        }
        let mut tpm = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        tpm.write_all(&command)?;
        caller.write_all(&message(&mut tpm)?.1)?;
    }
}

/// A command or an answer, with its code (TPM 2.0 Library Part 1, "Command/Response Structure").
fn message(stream: &mut TcpStream) -> Result<(u32, Vec<u8>)> {
    let mut header = [0; 10];
    stream.read_exact(&mut header)?;
    let [_, _, size @ .., c0, c1, c2, c3] = header;
    let length = u32::from_be_bytes(size) as usize;
    let rest = length.checked_sub(header.len()).filter(|_| length <= MAX_MESSAGE);
    let mut bytes = vec![0; rest.context("not a TPM's message")?];
    stream.read_exact(&mut bytes)?;
    Ok((u32::from_be_bytes([c0, c1, c2, c3]), [&header[..], &bytes].concat()))
}

/// Passes on all there is, in both directions.
fn lead(mut caller: TcpStream, port: u16) -> Result<()> {
    let mut tpm = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let (mut back, mut to) = (tpm.try_clone()?, caller.try_clone()?);
    thread::spawn(move || std::io::copy(&mut back, &mut to));
    std::io::copy(&mut caller, &mut tpm)?;
    tpm.shutdown(std::net::Shutdown::Both)?;
    Ok(())
}

/// One TPM2_PCR_Extend. The TPM serves one connection after the other.
fn extend(port: u16, pcr: u8) -> Result<()> {
    // Header; handle and an empty password; one SHA-256 digest.
    let (header, password) = ("80020000004100000182", "00000009400000090000010000");
    let digests = format!("00000001000b{}", "5a".repeat(32));
    let mut tpm = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    tpm.write_all(&hex::decode(format!("{header}{pcr:08x}{password}{digests}"))?)?;
    let (code, _) = message(&mut tpm)?;
    ensure!(code == 0, "TPM2_PCR_Extend: {code:#x}");
    Ok(())
}
