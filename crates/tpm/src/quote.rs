// SPDX-License-Identifier: Apache-2.0
//! Making a quote with as few TPM commands as possible.
//!
//! A TPM2_Quote signs the digest of the selected PCRs, not their values, so the values have to come from somewhere.
//! They are remembered from the last TPM2_PCR_Read; the digest in the quote proves whether they still hold. If they
//! do, which for an identity quote is nearly always so, one command made the quote. If not, the PCRs are read
//! again, and if the new values explain the quote at hand it is used; otherwise it is repeated.

use crate::ak::Ak;
use crate::command::{Authorization, Command, QUOTE};
use crate::connection::Connection;
use crate::error::TpmError;
use crate::pcr::{self, KnownPcrs};
use crate::policy::TPM_ALG_NULL;
use std::fmt;
use std::time::Instant;
use tpm_wire::attest::Attest;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::pcr::{NODE_KEY_PCR, PcrMask, PcrValues};

/// How often a quote is made before giving up because PCRs keep changing (as Keylime's own agent does).
const ATTEMPTS: u32 = 5;

/// What to quote.
#[derive(Clone)]
pub struct QuoteRequest {
    /// The qualifying data, as ASCII bytes.
    pub nonce: Nonce,
    /// PCRs to quote; PCR 16 is always added. Empty for an identity quote.
    pub mask: PcrMask,
    /// Digest, with the bank's hash, of the node key's public PEM text; PCR 16 is made to hold its extension from
    /// zero.
    pub node_key_digest: Vec<u8>,
    /// When the answer is of no use any more.
    pub deadline: Instant,
}

impl fmt::Debug for QuoteRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuoteRequest").field("mask", &self.mask).finish_non_exhaustive()
    }
}

/// A quote whose PCR values have been checked against its digest.
#[derive(Clone)]
pub struct Quote {
    /// TPMS_ATTEST as the TPM returned it.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE as the TPM returned it.
    pub signature: Vec<u8>,
    /// The quoted PCRs.
    pub pcrs: PcrValues,
}

impl fmt::Debug for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quote").field("mask", &self.pcrs.mask()).finish_non_exhaustive()
    }
}

/// Makes a quote.
pub(crate) fn quote(
    connection: &Connection,
    ak: &Ak,
    known: &mut KnownPcrs,
    bank: HashAlgorithm,
    request: &QuoteRequest,
) -> Result<Quote, TpmError> {
    let mask = request.mask.with(NODE_KEY_PCR);
    let node_key = node_key_value(bank, &request.node_key_digest)?;
    if known.select(bank, mask).is_none() {
        known.learn(pcr::read(connection, bank, mask)?);
    }
    for attempt in 1..=ATTEMPTS {
        if Instant::now() >= request.deadline {
            return Err(TpmError::Deadline);
        }
        if !known.is(NODE_KEY_PCR, &node_key) {
            // Whatever happens in between, the PCR's value is not known until it has been extended.
            known.set(NODE_KEY_PCR, Vec::new());
            pcr::reset_and_extend(connection, NODE_KEY_PCR, bank, &request.node_key_digest)?;
            known.set(NODE_KEY_PCR, node_key.clone());
        }
        let signed = sign(connection, ak, bank, mask, &request.nonce)?;
        if let Some(pcrs) = explained(&signed, known, bank, mask) {
            return Ok(signed.with(pcrs));
        }
        known.learn(pcr::read(connection, bank, mask)?);
        if !known.is(NODE_KEY_PCR, &node_key) {
            tracing::warn!("another program changed PCR {NODE_KEY_PCR}, setting it again");
        } else if let Some(pcrs) = explained(&signed, known, bank, mask) {
            return Ok(signed.with(pcrs));
        }
        tracing::debug!(attempt, "PCR data and attestation data mismatched on attempt {attempt}");
    }
    Err(TpmError::PcrsUnstable { attempts: ATTEMPTS })
}

/// What PCR 16 holds after a reset and one extension: H(0…0 ‖ digest).
fn node_key_value(bank: HashAlgorithm, digest: &[u8]) -> Result<Vec<u8>, TpmError> {
    let expected = bank.digest_len();
    if digest.len() != expected {
        return Err(TpmError::DigestLength { length: digest.len(), expected });
    }
    let mut extended = vec![0; expected];
    extended.extend_from_slice(digest);
    bank.digest(&extended).map_err(|_| TpmError::HashAlgorithm(bank))
}

/// The known values, if they have the digest that was signed.
fn explained(signed: &Signed, known: &KnownPcrs, bank: HashAlgorithm, mask: PcrMask) -> Option<PcrValues> {
    let pcrs = known.select(bank, mask)?;
    pcrs.digest().is_ok_and(|digest| digest == signed.pcr_digest).then_some(pcrs)
}

/// The outcome of one TPM2_Quote.
struct Signed {
    attest: Vec<u8>,
    signature: Vec<u8>,
    pcr_digest: Vec<u8>,
}

impl Signed {
    fn with(self, pcrs: PcrValues) -> Quote {
        Quote { attest: self.attest, signature: self.signature, pcrs }
    }
}

/// TPM2_Quote, with the answer checked against the request.
fn sign(
    connection: &Connection,
    ak: &Ak,
    bank: HashAlgorithm,
    mask: PcrMask,
    nonce: &Nonce,
) -> Result<Signed, TpmError> {
    let mut command = Command::new(QUOTE).authorized(ak.handle(), Authorization::Password(&[]));
    // inScheme NULL: the AK's own scheme.
    command.parameters.sized(nonce.as_bytes()).u16(TPM_ALG_NULL);
    pcr::write_selection(&mut command.parameters, bank, mask);
    let (attest, signature) =
        command.send(connection)?.parameters(|reader| Ok((reader.sized()?.to_vec(), reader.rest().to_vec())))?;
    let decoded = Attest::decode(&attest).map_err(|source| TpmError::Decode { command: QUOTE.0, source })?;
    if decoded.qualified_signer != ak.qualified_name {
        return Err(TpmError::ForeignKey);
    }
    if decoded.extra_data != nonce.as_bytes() {
        return Err(TpmError::WrongQuote("nonce"));
    }
    let quoted = decoded.attested;
    if !matches!(&quoted.selections[..], [only] if only.is_bank(bank) && only.mask == mask) {
        return Err(TpmError::WrongQuote("PCR selection"));
    }
    Ok(Signed { attest, signature, pcr_digest: quoted.pcr_digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_key_value_is_one_extension_from_zero() {
        let digest = [0x11; 20];
        let expected = HashAlgorithm::Sha1.digest(&[&[0; 20][..], &digest].concat()).unwrap();
        assert_eq!(node_key_value(HashAlgorithm::Sha1, &digest).unwrap(), expected);
        let error = node_key_value(HashAlgorithm::Sha256, &digest).unwrap_err();
        assert_eq!(error.to_string(), "the node key digest has 20 bytes, 32 are needed in this PCR bank");
    }

    #[test]
    fn debug_output_has_no_nonce() {
        let request = QuoteRequest {
            nonce: "abcdefgh".parse().unwrap(),
            mask: PcrMask::EMPTY,
            node_key_digest: vec![1; 32],
            deadline: Instant::now(),
        };
        assert_eq!(format!("{request:?}"), "QuoteRequest { mask: PcrMask(0), .. }");
    }
}
