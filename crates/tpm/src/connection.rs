// SPDX-License-Identifier: Apache-2.0
//! One connection to a TPM: command bytes out, response bytes in.
//!
//! Of libtss2 only the transport (TCTI loader) is used. The handful of commands that this crate needs is
//! marshalled in `command.rs`: that keeps libtss2-esys and with it OpenSSL out of the process (about 2 MB of
//! resident memory), sends nothing to the TPM but the command itself, and prints nothing on standard error when
//! a command is refused.
//!
//! All `unsafe` code of the crate that talks to C is in this file.

use crate::error::{OpenCause, TpmError};
use crate::response_code::ResponseCode;
use crate::tcti;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tss_esapi_sys::{
    TSS2_TCTI_CONTEXT, TSS2_TCTI_CONTEXT_COMMON_V1, Tss2_TctiLdr_Finalize, Tss2_TctiLdr_FreeInfo, Tss2_TctiLdr_GetInfo,
    Tss2_TctiLdr_Initialize,
};
use zeroize::{Zeroize, Zeroizing};

/// Largest command and response of the PC Client profile: TPM2_MAX_COMMAND_SIZE, TPM2_MAX_RESPONSE_SIZE.
pub(crate) const MAX_MESSAGE: usize = 4096;

/// Tag, size and code in front of each command and response.
pub(crate) const HEADER: usize = 10;

const TSS2_RC_SUCCESS: u32 = 0;
/// Milliseconds to wait for a response: longer than a TPM may take for any command. Device files keep to it; libtss2's
/// socket transports wait without limit, so callers wait with a deadline of their own apart from this thread.
const WAIT: i32 = 300_000;

/// Waits between repetitions when the TPM answers TPM_RC_RETRY and the like; after the last one the code is
/// returned as it is.
const RETRY_WAITS: [Duration; 7] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Marks the files of a device that were opened since `before` to be closed when another program is started.
///
/// libtss2 opens the TPM's device without O_CLOEXEC, so every child process would inherit access to the TPM, and keep
/// the bare device busy after our end.
fn close_on_exec(device: &Path, before: &BTreeSet<RawFd>) {
    for fd in open_files(device).difference(before) {
        // SAFETY: the number was an open file of this process a moment ago and belongs to the TCTI context, which the
        // caller holds open.
        let file = unsafe { BorrowedFd::borrow_raw(*fd) };
        if let Err(error) = fcntl(file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
            tracing::warn!(%error, "child processes will inherit the TPM device");
        }
    }
}

/// This process's open files that are `device`.
fn open_files(device: &Path) -> BTreeSet<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return BTreeSet::new() };
    entries
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == device))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether libtss2 has the library that a TCTI text names. Nothing is opened.
pub(crate) fn find_library(text: &str) -> Result<(), OpenCause> {
    let name = text.split_once(':').map_or(text, |(name, _)| name);
    let name = CString::new(name).map_err(|_| OpenCause::NulByte)?;
    let mut info = ptr::null_mut();
    // SAFETY: `name` is a NUL-terminated string that outlives the call; `info` is a valid place for the result.
    let code = unsafe { Tss2_TctiLdr_GetInfo(name.as_ptr(), &mut info) };
    // SAFETY: it came from the loader, or is null, which is left alone.
    unsafe { Tss2_TctiLdr_FreeInfo(&mut info) };
    checked(code).map_err(OpenCause::Library)
}

/// A TCTI context of libtss2; closed when dropped.
struct Tcti(ptr::NonNull<TSS2_TCTI_CONTEXT>);

impl Tcti {
    fn open(text: &str) -> Result<Self, OpenCause> {
        let device = tcti::device_path(text).and_then(|path| path.canonicalize().ok());
        let before = device.as_deref().map(open_files).unwrap_or_default();
        let text = CString::new(text).map_err(|_| OpenCause::NulByte)?;
        let mut context = ptr::null_mut();
        // SAFETY: `text` is a NUL-terminated string that outlives the call; `context` is a valid place for the result.
        let code = unsafe { Tss2_TctiLdr_Initialize(text.as_ptr(), &mut context) };
        let tcti = match ptr::NonNull::new(context) {
            Some(context) if code == TSS2_RC_SUCCESS => Tcti(context),
            _ => return Err(OpenCause::Library(ResponseCode(code))),
        };
        if let Some(device) = device {
            close_on_exec(&device, &before);
        }
        Ok(tcti)
    }

    fn functions(&self) -> &TSS2_TCTI_CONTEXT_COMMON_V1 {
        // SAFETY: "TCTI context data structure" (TCG TSS 2.0 TCTI API): every context starts with these members, and
        // the loader has returned a context that lives until Tss2_TctiLdr_Finalize in `drop`.
        unsafe { self.0.cast::<TSS2_TCTI_CONTEXT_COMMON_V1>().as_ref() }
    }

    fn transmit(&mut self, command: &[u8]) -> Result<(), ResponseCode> {
        let transmit = self.functions().transmit.ok_or(NOT_IMPLEMENTED)?;
        // SAFETY: the context is open; pointer and length describe `command`, which the function only reads.
        checked(unsafe { transmit(self.0.as_ptr(), to_size(command.len()), command.as_ptr()) })
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, ResponseCode> {
        let receive = self.functions().receive.ok_or(NOT_IMPLEMENTED)?;
        let mut size = to_size(buffer.len());
        // SAFETY: the context is open; pointer and length describe `buffer`, which the function fills at most up to
        // the given size.
        checked(unsafe { receive(self.0.as_ptr(), &mut size, buffer.as_mut_ptr(), WAIT) })?;
        Ok(usize::try_from(size).unwrap_or(usize::MAX).min(buffer.len()))
    }
}

impl Drop for Tcti {
    fn drop(&mut self) {
        let mut context = self.0.as_ptr();
        // SAFETY: the context came from the loader and is not used after this.
        unsafe { Tss2_TctiLdr_Finalize(&mut context) };
    }
}

const NOT_IMPLEMENTED: ResponseCode = ResponseCode(0x000A_0002);

fn checked(code: u32) -> Result<(), ResponseCode> {
    if code == TSS2_RC_SUCCESS { Ok(()) } else { Err(ResponseCode(code)) }
}

/// `usize` as the `size_t` of the bindings, which is `u64` or `u32` by platform.
fn to_size(length: usize) -> tss_esapi_sys::size_t {
    length as tss_esapi_sys::size_t
}

/// An open TPM, owned by one thread. Guards of loaded objects share it to flush what they hold.
pub(crate) struct Connection {
    tcti: RefCell<Tcti>,
    /// False once the transport or the TPM behind it was lost: handles from before mean nothing any more, or worse,
    /// something of another program, so nothing is flushed then.
    alive: Cell<bool>,
    sent: Arc<AtomicU64>,
}

impl Connection {
    pub(crate) fn open(text: &str, sent: Arc<AtomicU64>) -> Result<Rc<Self>, OpenCause> {
        let tcti = RefCell::new(Tcti::open(text)?);
        Ok(Rc::new(Connection { tcti, alive: Cell::new(true), sent }))
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.get()
    }

    /// Makes all guards of this connection forget what they hold.
    pub(crate) fn abandon(&self) {
        self.alive.set(false);
    }

    /// Sends one command and returns the response with its header, whose length field has been checked.
    ///
    /// `Err` is a failed transport or a malformed header; a refusal by the TPM is an `Ok` with its response code.
    pub(crate) fn exchange(&self, name: &'static str, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut tcti = self.tcti.borrow_mut();
        let mut buffer = [0; MAX_MESSAGE];
        let mut waits = RETRY_WAITS.iter();
        loop {
            self.sent.fetch_add(1, Ordering::Relaxed);
            tracing::trace!(command = name, "TPM command");
            let answer = tcti.transmit(command).and_then(|()| tcti.receive(&mut buffer));
            let length = answer.map_err(|code| TpmError::Transport { command: name, code })?;
            let response = buffer.get(..length).unwrap_or_default();
            let code = response_code(response).ok_or(TpmError::Malformed { command: name, what: "its header" })?;
            if code.wants_retry()
                && let Some(wait) = waits.next()
            {
                std::thread::sleep(*wait);
                continue;
            }
            // Some responses carry secrets: the copy is wiped by its owner, the buffer here.
            let response = Zeroizing::new(response.to_vec());
            buffer.iter_mut().take(length).for_each(|byte| byte.zeroize());
            return Ok(response);
        }
    }
}

/// The response code, if the header's length field agrees with the length received.
fn response_code(response: &[u8]) -> Option<ResponseCode> {
    let mut reader = crate::codec::Reader::new(response);
    let _tag = reader.u16().ok()?;
    let size = reader.u32().ok()?;
    let code = reader.u32().ok()?;
    (usize::try_from(size) == Ok(response.len())).then_some(ResponseCode(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_length_must_agree() {
        let good = [0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x10];
        assert_eq!(response_code(&good), Some(ResponseCode(0x910)));
        for end in 0..good.len() {
            assert_eq!(response_code(&good[..end]), None, "{end}");
        }
        assert_eq!(response_code(&[0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x10, 0]), None);
    }

    #[test]
    fn children_do_not_inherit_the_device() {
        // Takes the probe that libtss2 sends when it opens a device, and answers it.
        let device = Path::new("/dev/zero");
        let before = open_files(device);
        let tcti = Tcti::open("device:/dev/zero");
        let opened: Vec<RawFd> = open_files(device).difference(&before).copied().collect();
        assert!(tcti.is_ok());
        assert_eq!(opened.len(), 1, "{opened:?}");
        for fd in opened {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let close_on_exec = 0o2_000_000;
            assert_ne!(u32::from_str_radix(flags, 8).unwrap() & close_on_exec, 0, "{info}");
        }
    }

    #[test]
    fn a_text_with_nul_is_refused() {
        let cause = Tcti::open("device:\0").err();
        assert!(matches!(cause, Some(OpenCause::NulByte)));
    }
}
