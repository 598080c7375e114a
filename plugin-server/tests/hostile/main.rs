// SPDX-License-Identifier: Apache-2.0
//! Bad input from every side: nodes that lie, a verifier and a registrar that misbehave, a SPIRE server that dies.
//!
//! The built plugin runs as SPIRE runs it, between stand-ins for Keylime's servers and nodes whose "TPM" is a key in
//! memory. Each case is a row with the gRPC code and the text that the node is told; after each row a good node is
//! attested, by the same process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod bench;
mod ends;
mod logs;
mod messages;
mod neighbours;
mod quotes;
mod soft_tpm;
mod time_limits;
mod tls_files;
mod verdicts;
