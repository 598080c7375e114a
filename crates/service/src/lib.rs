// SPDX-License-Identifier: Apache-2.0
//! What every daemon needs and none should write twice: configuration from layered sources, secrets that do not leak
//! into logs, log lines, texts of errors, termination signals and a drain with a grace period.
//!
//! This crate knows nothing of TPMs, Keylime or SPIRE.

mod did_you_mean;
pub mod drain;
pub mod layered;
pub mod logging;
pub mod options;
mod report;
mod secret;
pub mod signals;

use did_you_mean::did_you_mean;
pub use report::Report;
pub use secret::Secret;
