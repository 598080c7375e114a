// SPDX-License-Identifier: Apache-2.0
//! What a plugin changes about its own process: signals, standard output, panics.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fs::{File, OpenOptions},
    io,
    os::fd::AsFd,
    panic::{self, PanicHookInfo},
    thread,
};

use nix::{
    sys::signal::{SigHandler, Signal, signal},
    unistd::dup2_stdout,
};

/// Signals that people and service managers send to the host's whole group. The host ends its plugins itself.
const IGNORED: [Signal; 5] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// Ignores the signals that are meant for the host. (SIGPIPE is ignored by Rust's own start-up.)
pub(crate) fn ignore_signals() {
    for name in IGNORED {
        // SAFETY: no handler of ours runs in signal context, and none is replaced that anyone relies on: this runs
        // before the plugin's own code.
        let ignored = unsafe { signal(name, SigHandler::SigIgn) };
        ignored.expect("these signals exist and may be ignored");
    }
}

/// Takes standard output away from the process: what any code prints from here on is lost, and only the returned
/// file leads to the host.
pub(crate) fn take_stdout() -> io::Result<File> {
    let host = io::stdout().as_fd().try_clone_to_owned()?;
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    dup2_stdout(nowhere)?;
    Ok(host.into())
}

/// Logs each panic as one line at error, with the fields of the span it happened in. Rust's own message would reach
/// the host as foreign text at debug.
pub(crate) fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let location = info.location().map(tracing::field::display);
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let text = text(info);
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!(location, thread, %backtrace, "panicked: {text}");
        } else {
            tracing::error!(location, thread, "panicked: {text}");
        }
    }));
}

fn text<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload_as_str().unwrap_or("the panic carries no text")
}
