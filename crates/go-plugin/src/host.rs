// SPDX-License-Identifier: Apache-2.0
//! The host side: starting a plugin, talking to it, hearing its log, and ending it.
//!
//! [`Launch`] describes what to start, [`Launch::start`] starts it and makes the connection, [`Plugin`] is the
//! running plugin. Dropping the [`Plugin`], or the future of `start`, kills the process; so does the kernel if the
//! host itself dies.
//!
//! The plugin's log lines become `tracing` events of target [`LOG_TARGET`].

mod checksum;
mod child;
mod connection;
mod error;
mod launch;
mod log;
mod plugin;

pub use checksum::{ChecksumFormatError, Sha256};
pub use error::LaunchError;
pub use launch::Launch;
pub use log::LOG_TARGET;
pub use plugin::{ExitReport, Plugin};
