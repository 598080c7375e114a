// SPDX-License-Identifier: Apache-2.0
//! What the plugin tells SPIRE's telemetry. The labels are few and fixed: nothing a node sends gets into one.

use std::future::Future;
use std::time::Instant;

use spire_plugin::metrics::{self, Metrics};
use tonic::Code;

/// A part of an attestation whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// A question about the host to the verifier.
    Verifier,
    /// The verifier's own check of the quote.
    VerifyIdentity,
    /// A question to the registrar.
    Registrar,
    /// From our challenge to the node's answer.
    Node,
    /// The whole attestation.
    Attestation,
}

impl Hop {
    fn name(self) -> &'static str {
        match self {
            Self::Verifier => "verifier",
            Self::VerifyIdentity => "verify_identity",
            Self::Registrar => "registrar",
            Self::Node => "node",
            Self::Attestation => "attestation",
        }
    }
}

/// The way to SPIRE's telemetry; clones share it.
#[derive(Clone, Debug)]
pub struct Telemetry(Metrics);

impl Telemetry {
    /// Tells it to `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }

    /// Runs `work` and tells how long it took.
    pub async fn measured<T>(&self, hop: Hop, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let done = work.await;
        self.0.measure("latency", start.elapsed(), &[("hop", hop.name())]);
        done
    }

    /// Counts an attestation that ended, by its gRPC code: `Ok` for an identity.
    pub fn ended(&self, code: Code) {
        self.0.count("attestation", &[("result", metrics::result(code))]);
    }

    /// Tells how many attestations are under way.
    pub fn under_way(&self, count: usize) {
        self.0.gauge("attestations_under_way", count as f32, &[]);
    }
}
