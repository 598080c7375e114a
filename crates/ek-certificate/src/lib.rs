// SPDX-License-Identifier: Apache-2.0
//! Endorsement key certificates: verification against a store of CA certificates, and what they say of the TPM.
//!
//! The manufacturer of a TPM certifies its EK. Such a certificate is no TLS certificate: its subject is mostly empty,
//! the TPM is named by three attributes in a critical subjectAltName, and it is read from an NV index that may be
//! larger than it. Source: TCG EK Credential Profile for TPM Family 2.0, version 2.5, "X.509 EK Certificate".
//!
//! [`EkTrust::load`] reads the roots and intermediates an operator trusts, [`EkTrust::verify`] checks a certificate and
//! answers the [`TpmModel`]. The signatures among the CAs are verified once, at load.
//!
//! Paths are built here: the webpki crate, which verifies TLS certificates, refuses a critical certificatePolicies
//! extension, and all of STMicroelectronics' intermediates have one; only its signature algorithms are used. General
//! decoders of certificates refuse Nuvoton's, whose names are not sorted as DER demands; so the fields are read here
//! too. Revocation lists are not consulted.

mod algorithm;
mod certificate;
mod chain;
mod der;
mod error;
mod leaf;
mod model;
mod name;
mod store;

pub use error::{EkCertificateError, EkTrustError, Malformed};
pub use model::TpmModel;
pub use store::{EkTrust, StoreCertificate};
