// SPDX-License-Identifier: Apache-2.0
//! The thread that owns the TPM: keys, quotes, credential activation.
//!
//! [`Tpm::open`] starts one thread that owns the connection to the TPM; every operation is a request in a bounded
//! queue with a deadline, and a full queue refuses at once. An identity quote costs one TPM command, TPM2_Quote, as
//! long as the PCRs do not change. Objects and sessions are flushed when they are done with, also on errors;
//! [`Tpm::shutdown`] leaves nothing of ours in the TPM. After a TPM reset or a broken connection the thread reopens
//! the TPM and reloads the AK, while requests fail with [`TpmError::Unavailable`].
//!
//! ```no_run
//! # async fn start() -> Result<(), tpm::TpmError> {
//! use std::time::{Duration, Instant};
//! use tpm::{QuoteRequest, Tpm, TpmSettings};
//! use tpm_wire::{hash::HashAlgorithm, nonce::Nonce, pcr::PcrMask};
//!
//! let tpm = Tpm::open(TpmSettings::default()).await?;
//! let _guard = tpm.guard();
//! let ek = tpm.create_ek().await?;
//! let ak = tpm.load_or_create_ak(None).await?;
//! tpm.flush_ek().await?;
//! # let node_key_pem = "";
//! # let nonce: Nonce = "abc".parse().expect("alphanumeric");
//! let quote = tpm
//!     .quote(QuoteRequest {
//!         nonce,
//!         mask: PcrMask::EMPTY,
//!         node_key_digest: HashAlgorithm::Sha256.digest(node_key_pem.as_bytes()).expect("SHA-256 is there"),
//!         deadline: Instant::now() + Duration::from_secs(10),
//!     })
//!     .await?;
//! # let _ = (ek, ak, quote);
//! tpm.shutdown().await
//! # }
//! ```

mod ak;
mod capability;
mod codec;
mod command;
mod connection;
mod credential;
mod device_identity;
mod ek;
mod error;
mod handle;
mod nv;
mod object;
mod owner;
mod pcr;
mod policy;
mod quote;
mod response_code;
mod settings;
pub mod tcti;
mod template;

pub use ak::{AkInfo, AkRejected, SavedAk};
pub use credential::ParsedCredential;
pub use device_identity::{
    Certification, CertifiedAk, DeviceKeyCause, DeviceKeyKind, DeviceKeySource, check_device_key,
};
pub use ek::{EkInfo, EkSource};
pub use error::{EkHandleCause, OpenCause, TpmError};
pub use handle::{Tpm, TpmGuard};
pub use quote::{Quote, QuoteRequest};
pub use response_code::ResponseCode;
pub use settings::TpmSettings;
pub use template::check;
