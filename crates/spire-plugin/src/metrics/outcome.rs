// SPDX-License-Identifier: Apache-2.0
//! How an attestation ended, counted once whichever way it ends.

use tonic::Code;

use super::{Metrics, result};

/// Adds one attestation to the counter `attestation`, by its result, when it is dropped. So it is counted too where
/// SPIRE cancels the call, and nothing of the attestation runs any more, and where it panics: as `Internal`, a fault of
/// the plugin.
#[derive(Debug)]
pub struct Outcome {
    metrics: Metrics,
    code: Code,
}

impl Outcome {
    /// An attestation of which nothing is known but its start; if nothing more is heard of it, it was cancelled.
    #[must_use]
    pub fn begin(metrics: Metrics) -> Self {
        Self { metrics, code: Code::Cancelled }
    }

    /// It has come to this: `Ok` if it did what it is for.
    pub fn is(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let code = if std::thread::panicking() { Code::Internal } else { self.code };
        if code == Code::Cancelled {
            tracing::debug!("The attestation ended without an outcome: SPIRE or its peer gave it up");
        }
        self.metrics.count("attestation", &[("result", result(code))]);
    }
}
