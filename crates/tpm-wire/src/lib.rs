// SPDX-License-Identifier: Apache-2.0
//! TPM 2.0 structures, Keylime quote strings and the attestor plugins' messages: decode, encode, verify.
//!
//! The crate is pure: no I/O, no clock, no threads, no logging, and it links no TPM library. Every
//! decoder takes bytes that an attacker may have written: input is bounded before it is looked at,
//! nothing is indexed or allocated by a length that was not checked, bytes left over are an error,
//! and no input makes a decoder panic.
//!
//! | Module | Subject |
//! |---|---|
//! | [`hash`] | algorithm identifiers and their Keylime names |
//! | [`nonce`] | the nonce of a quote |
//! | [`pcr`] | PCR masks, PCR values and Keylime's PCR blob |
//! | [`attest`] | TPMS_ATTEST as TPM2_Quote makes it |
//! | [`signature`] | TPMT_SIGNATURE |
//! | [`public`] | TPM2B_PUBLIC, the rules for an AK, SubjectPublicKeyInfo |
//! | [`quote`] | Keylime's quote string |
//! | [`verify`] | the check of a quote |
//! | [`reader`] | a cursor that never reads past the end |
//! | [`payload`] | the JSON messages between the two SPIRE node attestor plugins |
//!
//! # What a verified quote proves
//!
//! [`verify::verify_quote`] proves one thing: the holder of the given attestation key signed a
//! TPMS_ATTEST structure that names this nonce and a digest of PCR values, and the values sent along
//! are the ones behind that digest. If the key is a restricted key inside a TPM, which
//! [`public::AkPublic`] demands of its attributes, then that TPM held those PCR values after the
//! nonce was known to somebody on its host.
//!
//! It does **not** prove
//! - that the key belongs to an enrolled host, or lies in a TPM at all: attributes in a public area
//!   are claims until a credential activation has tied them to an endorsement key. Take the key from
//!   the registrar, which did that, never from the node;
//! - that the quote is fresh, beyond the nonce being the caller's own, unpredictable and used once;
//! - that the PCR values are good, that PCR 16 binds the expected node key, that the clock went
//!   forward or that the boot was orderly: the values and the clock are returned for the caller's
//!   policy;
//! - that whoever delivered the quote runs on the machine that holds the TPM.

pub mod attest;
pub mod error;
pub mod hash;
pub mod nonce;
pub mod payload;
pub mod pcr;
pub mod public;
pub mod quote;
pub mod reader;
pub mod signature;
mod structure;
pub mod verify;
