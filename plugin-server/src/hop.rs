// SPDX-License-Identifier: Apache-2.0
//! The parts of an attestation whose time SPIRE's telemetry is told.

/// A question about the host to the verifier.
pub const VERIFIER: &str = "verifier";

/// The verifier's own check of the quote.
pub const VERIFY_IDENTITY: &str = "verify_identity";

/// A question to the registrar.
pub const REGISTRAR: &str = "registrar";

/// From our challenge to the node's answer.
pub const NODE: &str = "node";

/// The whole attestation.
pub const ATTESTATION: &str = "attestation";
