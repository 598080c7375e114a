// SPDX-License-Identifier: Apache-2.0
//! Faults around the agent, with a verifier beside them that keeps asking. `./scripts/soak` sets `SOAK_FACTOR`, and runs
//! what is random many times more often.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod crowd;
mod disk;
mod honest;
mod killed;
mod network;
mod proxy;
mod servers;
mod trouble;
