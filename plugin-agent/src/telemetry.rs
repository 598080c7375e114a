// SPDX-License-Identifier: Apache-2.0
//! What the plugin tells SPIRE's telemetry: how attestations ended, and how long the Keylime agent took.

use std::time::Instant;

use spire_plugin::metrics::{self, Metrics};
use tonic::Code;

/// A part of an attestation whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// The Keylime agent says who it is.
    Info,
    /// The Keylime agent has the TPM quote.
    Quote,
}

/// Counts one attestation when it is dropped. What ends an attestation from outside, as SPIRE does with
/// each, drops it too.
#[derive(Debug)]
pub struct Attestation {
    metrics: Metrics,
    result: &'static str,
}

impl Attestation {
    /// An attestation of which nothing is known but its start.
    #[must_use]
    pub fn begin(metrics: Metrics) -> Self {
        Self { metrics, result: metrics::result(Code::Cancelled) }
    }

    /// Runs `work` and tells how long it took, whatever came of it.
    pub async fn measured<T>(&self, hop: Hop, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let done = work.await;
        let hop = match hop {
            Hop::Info => "keylime_agent_info",
            Hop::Quote => "keylime_agent_quote",
        };
        self.metrics.measure("latency", start.elapsed(), &[("hop", hop)]);
        done
    }

    /// A quote went to the SPIRE server: all that can be done here. Whether it is good is decided there.
    pub fn answered(&mut self) {
        self.result = metrics::result(Code::Ok);
    }

    /// It failed with this code.
    pub fn failed(&mut self, code: Code) {
        self.result = metrics::result(code);
    }
}

impl Drop for Attestation {
    fn drop(&mut self) {
        self.metrics.count("attestation", &[("result", self.result)]);
    }
}
