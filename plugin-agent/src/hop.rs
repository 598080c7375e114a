// SPDX-License-Identifier: Apache-2.0
//! The parts of an attestation whose time SPIRE's telemetry is told.

/// The Keylime agent says who it is.
pub const INFO: &str = "keylime_agent_info";

/// The Keylime agent has the TPM quote.
pub const QUOTE: &str = "keylime_agent_quote";
