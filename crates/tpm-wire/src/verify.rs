// SPDX-License-Identifier: Apache-2.0
//! The check of a quote against an attestation key, a nonce and a PCR bank.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};

use crate::attest::{Attest, ClockInfo};
use crate::error::DecodeError;
use crate::hash::{HashAlgorithm, SignatureScheme};
use crate::nonce::Nonce;
use crate::pcr::{NODE_KEY_PCR, PcrBlobError, PcrMask, PcrValues};
use crate::public::{AkKey, AkPublic};
use crate::quote::QuoteString;
use crate::signature::{Signature, SignatureValue};

/// What a quote says, after it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedQuote {
    /// The PCR values that the TPM quoted.
    pub pcrs: PcrValues,
    /// The TPM's clock. Nothing was checked about it.
    pub clock_info: ClockInfo,
    /// Vendor-specific firmware version.
    pub firmware_version: u64,
    /// Qualified name of the key that signed.
    pub qualified_signer: Vec<u8>,
}

/// Why a quote is not believed: one variant per check, in the order of the checks.
///
/// [`Self::NonceLength`], [`Self::WeakBank`], [`Self::UnsupportedBank`] and [`Self::BankNotSchemeHash`]
/// are about what the caller asked for (its settings, the key on record), the others about what the
/// node sent. The nonce is never repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The caller's nonce is empty or longer than a Keylime nonce.
    #[error("the expected nonce has {len} bytes, 1 to 64 are allowed")]
    NonceLength {
        /// Its length in bytes.
        len: usize,
    },
    /// SHA-1 is broken.
    #[error("SHA-1 quotes are refused: use a sha256, sha384 or sha512 bank")]
    WeakBank,
    /// The bank's hash cannot be computed.
    #[error("quotes of bank {bank} cannot be verified")]
    UnsupportedBank {
        /// The expected bank.
        bank: HashAlgorithm,
    },
    /// The AK is bound to another hash than the bank's.
    #[error("the attestation key signs with {scheme_hash} but the PCR bank is {bank}; they must be the same")]
    BankNotSchemeHash {
        /// The expected bank.
        bank: HashAlgorithm,
        /// The hash of the AK's scheme.
        scheme_hash: HashAlgorithm,
    },
    /// The signature is not a TPMT_SIGNATURE.
    #[error("the signature is malformed: {0}")]
    SignatureMalformed(#[source] DecodeError),
    /// The signature uses another scheme than the AK.
    #[error("the signature is {found}, the attestation key makes {expected}")]
    SignatureScheme {
        /// The AK's scheme.
        expected: SignatureScheme,
        /// The signature's scheme.
        found: SignatureScheme,
    },
    /// The signature uses another hash than the AK.
    #[error("the signature uses hash {found}, the attestation key uses {expected}")]
    SignatureHash {
        /// The AK's hash.
        expected: HashAlgorithm,
        /// The signature's hash.
        found: HashAlgorithm,
    },
    /// The signature was not made by this AK over this TPMS_ATTEST.
    #[error("the signature does not verify with the attestation key")]
    SignatureInvalid,
    /// What was signed is not a structure of the TPM's own making.
    #[error("the signed structure was not made by a TPM: its magic is {found:#010x}")]
    Magic {
        /// The magic found.
        found: u32,
    },
    /// What was signed is another kind of attestation.
    #[error("the signed structure is not a quote: its type is {found:#06x}")]
    NotAQuote {
        /// The structure tag found.
        found: u16,
    },
    /// What was signed is not a TPMS_ATTEST.
    #[error("the signed structure is malformed: {0}")]
    AttestMalformed(#[source] DecodeError),
    /// The quote was made over another nonce.
    #[error("the quote was made over another nonce")]
    NonceMismatch,
    /// The quote is about none or several banks.
    #[error("the quote has {count} PCR selections, exactly one is accepted")]
    Selections {
        /// How many selections it has.
        count: usize,
    },
    /// The quote is about another bank.
    #[error("the quote is about bank {found:#06x}, expected {expected}")]
    Bank {
        /// The expected bank.
        expected: HashAlgorithm,
        /// TPM_ALG_ID of the quoted bank.
        found: u16,
    },
    /// The quote covers no PCR.
    #[error("the quote covers no PCR")]
    NoPcrs,
    /// The PCR blob is malformed.
    #[error("the PCR values are malformed: {0}")]
    PcrsMalformed(#[source] PcrBlobError),
    /// The PCR blob is about another bank than the quote.
    #[error("the PCR values are of bank {found}, the quote is about {expected}")]
    PcrBank {
        /// The quoted bank.
        expected: HashAlgorithm,
        /// The bank of the blob.
        found: HashAlgorithm,
    },
    /// The PCR blob is about other PCRs than the quote.
    #[error("the PCR values are for mask {found}, the quote covers {quoted}")]
    PcrSelection {
        /// The quoted PCRs.
        quoted: PcrMask,
        /// The PCRs of the blob.
        found: PcrMask,
    },
    /// The PCR values are not the quoted ones.
    #[error("the PCR values are not the ones the TPM quoted")]
    PcrDigest,
}

/// Verifies a quote: `ak` signed it, over `nonce`, about PCRs of `bank` alone, and the PCR values sent
/// along are the quoted ones. The [crate documentation](crate) says what that proves and what not.
///
/// Nothing the node sent is interpreted before the signature was verified, except the signature's own
/// frame. Keylime demands that the hash of the AK's scheme is the hash of the bank (the TPM computes
/// pcrDigest with the former), and so does this function.
///
/// # Errors
/// One [`VerifyError`] per check.
pub fn verify_quote(
    quote: &QuoteString,
    ak: &AkPublic,
    nonce: &[u8],
    bank: HashAlgorithm,
) -> Result<VerifiedQuote, VerifyError> {
    if nonce.is_empty() || nonce.len() > Nonce::MAX_LEN {
        return Err(VerifyError::NonceLength { len: nonce.len() });
    }
    match bank {
        HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512 => (),
        HashAlgorithm::Sha1 => return Err(VerifyError::WeakBank),
        HashAlgorithm::Sm3_256 => return Err(VerifyError::UnsupportedBank { bank }),
    }
    if ak.hash() != bank {
        return Err(VerifyError::BankNotSchemeHash { bank, scheme_hash: ak.hash() });
    }

    check_signature(quote, ak)?;

    let attest = Attest::decode(quote.attest()).map_err(|error| match error {
        DecodeError::Magic { found } => VerifyError::Magic { found },
        DecodeError::AttestType { found } => VerifyError::NotAQuote { found },
        other => VerifyError::AttestMalformed(other),
    })?;
    if attest.extra_data != nonce {
        return Err(VerifyError::NonceMismatch);
    }
    let [selection] = attest.attested.selections.as_slice() else {
        return Err(VerifyError::Selections { count: attest.attested.selections.len() });
    };
    if !selection.is_bank(bank) {
        return Err(VerifyError::Bank { expected: bank, found: selection.bank });
    }
    if selection.mask.is_empty() {
        return Err(VerifyError::NoPcrs);
    }

    let pcrs = PcrValues::decode_blob(quote.pcrs()).map_err(VerifyError::PcrsMalformed)?;
    if pcrs.bank() != bank {
        return Err(VerifyError::PcrBank { expected: bank, found: pcrs.bank() });
    }
    if pcrs.mask() != selection.mask {
        return Err(VerifyError::PcrSelection { quoted: selection.mask, found: pcrs.mask() });
    }
    let digest = pcrs.digest().map_err(|_| VerifyError::UnsupportedBank { bank })?;
    if digest != attest.attested.pcr_digest {
        return Err(VerifyError::PcrDigest);
    }
    Ok(VerifiedQuote {
        pcrs,
        clock_info: attest.clock_info,
        firmware_version: attest.firmware_version,
        qualified_signer: attest.qualified_signer,
    })
}

/// Whether PCR 16 holds the digest of this node key and nothing else, as a Keylime agent leaves it
/// before each quote: H(zeros, H(PEM text)) with the hash of the bank. `None` if PCR 16 is not among
/// the values.
///
/// Take the values from a verified quote. It shows that the node key belongs to the quote: the
/// Keylime agent had it when the TPM signed. It does not show who holds the private key, and root on
/// the host can extend PCR 16 with any text.
pub fn node_key_matches(pcrs: &PcrValues, node_key_pem: &str) -> Option<bool> {
    let found = pcrs.get(NODE_KEY_PCR)?;
    let key = pcrs.bank().digest(node_key_pem.as_bytes()).ok()?;
    let extended = pcrs.bank().digest(&[vec![0; pcrs.bank().digest_len()], key].concat()).ok()?;
    Some(extended == found)
}

/// The signature is of the AK's scheme and hash, and verifies over the TPMS_ATTEST bytes.
fn check_signature(quote: &QuoteString, ak: &AkPublic) -> Result<(), VerifyError> {
    let signature = Signature::decode(quote.signature()).map_err(VerifyError::SignatureMalformed)?;
    if signature.scheme != ak.scheme() {
        return Err(VerifyError::SignatureScheme { expected: ak.scheme(), found: signature.scheme });
    }
    if signature.hash != ak.hash() {
        return Err(VerifyError::SignatureHash { expected: ak.hash(), found: signature.hash });
    }
    let message = quote.attest();
    let valid = match (ak.key(), &signature.value) {
        (AkKey::Rsa { modulus, exponent }, SignatureValue::Rsa(value)) => {
            rsa_verifies(modulus, exponent, ak.hash(), message, value)
        }
        (AkKey::P256(key), SignatureValue::Ecc { r, s }) if ak.hash() == HashAlgorithm::Sha256 => {
            fixed_ecdsa_verifies::<32>(
                &ECDSA_P256_SHA256_FIXED,
                key.to_encoded_point(false).as_bytes(),
                message,
                [r, s],
            )
        }
        (AkKey::P256(key), SignatureValue::Ecc { r, s }) => {
            ecdsa_verifies::<32, _, _>(key, ak.hash(), message, [r, s], |bytes| {
                p256::ecdsa::Signature::from_slice(bytes).ok()
            })
        }
        (AkKey::P384(key), SignatureValue::Ecc { r, s }) if ak.hash() == HashAlgorithm::Sha384 => {
            fixed_ecdsa_verifies::<48>(
                &ECDSA_P384_SHA384_FIXED,
                key.to_encoded_point(false).as_bytes(),
                message,
                [r, s],
            )
        }
        (AkKey::P384(key), SignatureValue::Ecc { r, s }) => {
            ecdsa_verifies::<48, _, _>(key, ak.hash(), message, [r, s], |bytes| {
                p384::ecdsa::Signature::from_slice(bytes).ok()
            })
        }
        (AkKey::P521(key), SignatureValue::Ecc { r, s }) => {
            ecdsa_verifies::<66, _, _>(key, ak.hash(), message, [r, s], |bytes| {
                p521::ecdsa::Signature::from_slice(bytes).ok()
            })
        }
        // The schemes are equal, and a scheme has one kind of key and one kind of value.
        (AkKey::Rsa { .. }, SignatureValue::Ecc { .. })
        | (AkKey::P256(_) | AkKey::P384(_) | AkKey::P521(_), SignatureValue::Rsa(_)) => false,
    };
    if valid { Ok(()) } else { Err(VerifyError::SignatureInvalid) }
}

fn rsa_verifies(modulus: &[u8], exponent: &[u8], hash: HashAlgorithm, message: &[u8], signature: &[u8]) -> bool {
    let parameters = match hash {
        HashAlgorithm::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        HashAlgorithm::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
        HashAlgorithm::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
        HashAlgorithm::Sha1 | HashAlgorithm::Sm3_256 => return false,
    };
    RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
}

/// ECDSA with the hash of the curve's own size, which are the usual pairs: ring does these several times
/// faster. `point` is in SEC1's uncompressed form.
fn fixed_ecdsa_verifies<const N: usize>(
    algorithm: &'static EcdsaVerificationAlgorithm,
    point: &[u8],
    message: &[u8],
    [r, s]: [&[u8]; 2],
) -> bool {
    let (Some(r), Some(s)) = (padded::<N>(r), padded::<N>(s)) else {
        return false;
    };
    UnparsedPublicKey::new(algorithm, point).verify(message, &[r, s].concat()).is_ok()
}

/// ECDSA over a field of `N` bytes with any hash. `signature` makes the curve's signature from r and s, padded and put
/// together; `None` if one of them is out of range.
fn ecdsa_verifies<const N: usize, K, S>(
    key: &K,
    hash: HashAlgorithm,
    message: &[u8],
    [r, s]: [&[u8]; 2],
    signature: impl Fn(&[u8]) -> Option<S>,
) -> bool
where
    K: PrehashVerifier<S>,
{
    let Ok(digest) = hash.digest(message) else {
        return false;
    };
    let (Some(r), Some(s)) = (padded::<N>(r), padded::<N>(s)) else {
        return false;
    };
    let Some(signature) = signature(&[r, s].concat()) else {
        return false;
    };
    // A digest shorter than the field is the same number with leading zeros, which the library wants
    // written out where it is shorter than half the field (SHA-256 with P-521). A longer one it cuts.
    let digest = padded::<N>(&digest).map_or(digest, |padded| padded.to_vec());
    key.verify_prehash(&digest, &signature).is_ok()
}

/// Big-endian `bytes` with leading zeros up to `N` bytes; `None` if they are longer.
fn padded<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let mut array = [0; N];
    array.get_mut(N.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(array)
}
