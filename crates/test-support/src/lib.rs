// SPDX-License-Identifier: Apache-2.0
//! The lab: real programs on loopback for tests, the demo and the benchmarks.
//!
//! | Module | Starts |
//! | --- | --- |
//! | [`swtpm`] | a software TPM with an EK certificate from a CA of its own |
//! | [`keylime`] | the real Keylime verifier, registrar and tenant; a Keylime agent, ours or the stock one; servers that stand in |
//! | [`spire`] | the real SPIRE server and agent with a `keylime` node attestor pair |
//! | [`http`] | servers that answer as told, well or badly |
//! | [`ca`] | nothing: certificates for tests, made in memory |
//! | [`site`] | nothing: a CA's files, and TLS settings that use them |
//! | [`ima`] | nothing: an IMA list that PCR 10 follows |
//! | [`boot_log`] | nothing: a boot log and its PCR values |
//! | [`payload`] | Python and OpenSSL: archives as payloads, and keys encrypted for an agent |
//! | [`device_identity`] | OpenSSL and tpm2-tools: IDevID and IAK with certificates of a maker's CA |
//! | [`require`] | nothing: says whether a program is there, and records what had to be skipped |
//! | [`bin`] | nothing: finds the binaries of this workspace |
//!
//! Each part has its own folder and its own ports, so tests run side by side. Each part is killed with everything it
//! started when its value is dropped; a watchdog does the same when the process that holds it is killed
//! ([`process`]). Nothing here is linked into a shipped program.
//!
//! All calls block. From async code use `spawn_blocking`.

pub mod bin;
pub mod boot_log;
pub mod ca;
pub mod device_identity;
pub mod http;
pub mod ima;
pub mod keylime;
pub mod payload;
pub mod ports;
pub mod process;
pub mod require;
pub mod scratch;
pub mod site;
pub mod spire;
pub mod swtpm;
pub mod wait;

pub use ca::TestCa;
pub use keylime::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers};
pub use spire::{PluginSpec, SpireAgent, SpireAgentOptions, SpireServer, SpireServerOptions};
pub use swtpm::{Swtpm, SwtpmOptions};
