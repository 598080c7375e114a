// SPDX-License-Identifier: Apache-2.0
//! What the tests against a software TPM share.
#![allow(dead_code, reason = "each test program uses its part")]

use anyhow::{Context, Result, ensure};
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};
use test_support::{Swtpm, SwtpmOptions, require};
use tokio::sync::{Mutex, MutexGuard};
use tpm::{AkInfo, EkInfo, Quote, QuoteRequest, SavedAk, Tpm, TpmError, TpmSettings};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::pcr::PcrMask;
use tpm_wire::public::{AkPublic, Public};
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::verify_quote;

/// Limit for whatever is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const NODE_KEY_PEM: &[u8] = b"-----BEGIN PUBLIC KEY-----\n(any text will do)\n-----END PUBLIC KEY-----\n";

/// A software TPM for one test; the other tests of the same program wait until it is dropped.
///
/// libtss2 opens its sockets without SOCK_CLOEXEC. A TPM tool started by one test while another test's TPM thread has
/// a command under way would inherit that connection and keep it open, and swtpm serves one connection at a time.
pub(crate) struct OwnSwtpm {
    swtpm: Swtpm,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::const_new(());

impl Deref for OwnSwtpm {
    type Target = Swtpm;

    fn deref(&self) -> &Swtpm {
        &self.swtpm
    }
}

impl DerefMut for OwnSwtpm {
    fn deref_mut(&mut self) -> &mut Swtpm {
        &mut self.swtpm
    }
}

/// A TPM, or `None` (said loudly) where there is no swtpm.
pub(crate) async fn swtpm(options: SwtpmOptions) -> Result<Option<OwnSwtpm>> {
    let Some(()) = require::swtpm() else { return Ok(None) };
    let turn = TURN.lock().await;
    Ok(Some(OwnSwtpm { swtpm: Swtpm::start(options)?, _turn: turn }))
}

/// Options of a TPM without EK certificates, which is made faster.
pub(crate) fn plain() -> SwtpmOptions {
    SwtpmOptions { ek_certificate: false, ..SwtpmOptions::default() }
}

/// A TPM without EK certificates.
pub(crate) async fn plain_swtpm() -> Result<Option<OwnSwtpm>> {
    swtpm(plain()).await
}

pub(crate) fn all_banks() -> Vec<String> {
    ["sha1", "sha256", "sha384", "sha512"].map(str::to_owned).to_vec()
}

/// Whether the TPM has RSA-4096, as swtpm has with libtpms 0.11. Says so loudly if not.
pub(crate) fn has_rsa4096(swtpm: &Swtpm) -> Result<bool> {
    let has = swtpm.tool_output("tpm2_testparms", &["rsa4096:null:aes128cfb"])?.status.success();
    if !has {
        require::skip::<()>("rsa4096", "the software TPM has no such key");
    }
    Ok(has)
}

pub(crate) fn settings(swtpm: &Swtpm) -> TpmSettings {
    TpmSettings { tcti: Some(swtpm.tcti.clone()), ..TpmSettings::default() }
}

/// Opens the TPM and goes through a Keylime agent's start without registration.
pub(crate) async fn start(settings: TpmSettings, saved: Option<SavedAk>) -> Result<(Tpm, EkInfo, AkInfo)> {
    let tpm = Tpm::open(settings).await?;
    let ek = tpm.create_ek().await?;
    let ak = tpm.load_or_create_ak(saved).await?;
    tpm.flush_ek().await?;
    Ok((tpm, ek, ak))
}

pub(crate) fn request(bank: HashAlgorithm, mask: PcrMask) -> Result<QuoteRequest> {
    Ok(QuoteRequest {
        nonce: "MZXW6YTBOI2TGNJSGAYTEMZU".parse()?,
        mask,
        node_key_digest: bank.digest(NODE_KEY_PEM)?,
        deadline: Instant::now() + PATIENCE,
    })
}

/// An identity quote in the SHA-256 bank.
pub(crate) async fn identity_quote(tpm: &Tpm) -> Result<Quote, TpmError> {
    let request = request(HashAlgorithm::Sha256, PcrMask::EMPTY).map_err(|_| TpmError::Closed)?;
    tpm.quote(request).await
}

/// Verifies as a relying party does, and that PCR 16 holds the node key's digest.
pub(crate) fn verify(quote: &Quote, ak_2b: &[u8], nonce: &Nonce, bank: HashAlgorithm) -> Result<()> {
    let ak = AkPublic::try_from(Public::decode_2b(ak_2b)?)?;
    let text = QuoteString::new(quote.attest.clone(), quote.signature.clone(), &quote.pcrs)?;
    let verified = verify_quote(&text, &ak, nonce.as_bytes(), bank)?;
    ensure!(verified.pcrs == quote.pcrs, "other PCRs than returned");
    let zero = vec![0; bank.digest_len()];
    let node_key = bank.digest(&[zero, bank.digest(NODE_KEY_PEM)?].concat())?;
    ensure!(quote.pcrs.get(16) == Some(&node_key), "PCR 16 does not hold the node key");
    Ok(())
}

/// Repeats quotes until the TPM is back; anything but "not available" is an error.
pub(crate) async fn quote_when_back(tpm: &Tpm) -> Result<Quote> {
    let end = Instant::now() + PATIENCE;
    loop {
        match identity_quote(tpm).await {
            Ok(quote) => return Ok(quote),
            Err(TpmError::Unavailable(_)) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error).context("while waiting for the TPM to come back"),
        }
    }
}

/// Nothing transient and no session is left in the TPM.
pub(crate) fn ensure_empty(swtpm: &Swtpm) -> Result<()> {
    let (objects, sessions) = (swtpm.transient_handles()?, swtpm.session_handles()?);
    ensure!(objects.is_empty() && sessions.is_empty(), "left in the TPM: {objects:x?} {sessions:x?}");
    Ok(())
}
