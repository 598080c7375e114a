// SPDX-License-Identifier: Apache-2.0
//! TLS settings for clients and servers: loading, checking and pinning certificates.
//!
//! One cryptography provider (ring) is passed explicitly, so nothing has to be installed per
//! process. TLS 1.2 and 1.3 only. Verification cannot be switched off: a peer is accepted by chain
//! and name, or because its certificate is byte for byte one of the configured ones.
//!
//! Limits of the provider: RSA 2048 to 8192 bits (own keys to 4096), ECDSA P-256 and P-384, and
//! Ed25519; certificates with P-521 keys are not supported.

mod certificate;
mod client;
mod error;
mod explain;
mod key;
mod pem;
mod server;
#[cfg(test)]
mod testing;
mod trust;
mod verify;

use std::sync::Arc;

pub use certificate::{InvalidCertificate, Validity, load_validity};
pub use client::{ClientTls, Identity, Trust, trust_nobody};
pub use error::{FileKind, Subject, TlsError, TlsWarning};
pub use explain::{explain, explain_source};
pub use key::{check_private_key, encrypt_private_key, load_private_key, private_key_pem};
pub use pem::load_certificates;
pub use rustls;
pub use server::{ServerTls, TlsServer, check_client_cas};
pub use trust::check_client_ca;

/// The one cryptography provider of this project.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
