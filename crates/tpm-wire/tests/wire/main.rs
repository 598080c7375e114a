// SPDX-License-Identifier: Apache-2.0
//! Structures made by hand, with one fault at a time, and quotes recorded from a software TPM.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, and the helpers here are test code too"
)]

mod build;
mod fixtures;
mod kinds;
mod public;
mod recorded;
mod structures;
mod verify;
