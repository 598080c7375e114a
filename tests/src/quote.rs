// SPDX-License-Identifier: Apache-2.0
//! The parts of a quote that need no TPM, only knowledge of its form.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tpm_wire::pcr::PcrValues;

/// A TPM2B: the length as u16, then the bytes.
///
/// # Errors
/// When there are more than fit.
pub fn sized(bytes: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(bytes.len()).context("too long for a TPM2B")?;
    Ok([&length.to_be_bytes(), bytes].concat())
}

/// TPMS_ATTEST of a quote of PCR 16 in bank sha256, whose value `values` has.
///
/// # Errors
/// When a part is too long, or the digest cannot be computed.
pub fn attest(nonce: &str, values: &PcrValues) -> Result<Vec<u8>> {
    Ok([
        // TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE.
        vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x18],
        sized(&[[0, 0x0b].as_slice(), &[7; 32]].concat())?,
        sized(nonce.as_bytes())?,
        // Clock, reset and restart count, safe, firmware version.
        vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
        // One selection: SHA-256, PCR 16.
        vec![0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 1],
        sized(&values.digest()?)?,
    ]
    .concat())
}

/// Keylime's quote string of TPMS_ATTEST, TPMT_SIGNATURE and the PCR blob.
#[must_use]
pub fn join(parts: &[Vec<u8>]) -> String {
    let parts: Vec<String> = parts.iter().map(|part| STANDARD.encode(part)).collect();
    format!("r{}", parts.join(":"))
}
