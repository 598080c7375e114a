// SPDX-License-Identifier: Apache-2.0
//! The measured-boot event log (`binary_bios_measurements`): parse it, replay it against quoted PCR
//! values, and say what it then shows.
//!
//! Format: TCG PC Client Platform Firmware Profile Specification, "Event Logging", in the
//! crypto-agile form: a TCG_PCClientPCREvent that holds a TCG_EfiSpecIDEvent, then TCG_PCR_EVENT2
//! structures, all little-endian. A log of the older form, which has SHA-1 digests alone, is
//! refused: SHA-1 vouches for nothing any more.
//!
//! The crate is pure: no I/O, no clock, no logging. A log comes from the host that is to be judged,
//! so it is bounded before it is looked at, no length in it leads to an allocation or a read that the
//! bytes do not back, the work is linear in its length, and nothing in it makes the parser panic.
//!
//! ```
//! # fn f(log: &[u8], quoted: &tpm_wire::pcr::PcrValues) -> Result<(), boot_log::BootLogError> {
//! use boot_log::{BootLog, SecureBoot};
//!
//! let log = BootLog::parse(log)?;
//! if log.verify(quoted)?.secure_boot() == SecureBoot::On { /* ... */ }
//! # Ok(())
//! # }
//! ```
//!
//! # What a verified log proves
//!
//! [`BootLog::verify`] proves that the digests in the log, in the order of the log, are those with
//! which the quoted PCRs 0 to 7 were extended since the TPM was reset. Pass it values out of a quote
//! that has been verified with a nonce of one's own; against other values it proves nothing.
//!
//! PCRs cover digests only. Event types, event data and events that are never extended are whatever
//! the host wrote. [`VerifiedBootLog::secure_boot`] therefore follows from the digests alone: no
//! other type, no other data and no added event changes it while the quoted PCRs stay the same.
//! Whoever believes it believes
//! - that the firmware up to the separator of PCR 7 measured honestly. Firmware that an attacker has
//!   replaced can measure `SecureBoot = 1` and boot anything; PCR 0 is what tells firmware apart;
//! - that the TPM was reset together with the platform. Whoever can reset a discrete TPM by itself
//!   can extend the digests of a good boot into it.
//!
//! It does **not** prove
//! - which keys are enrolled (PK, KEK, db, dbx): secure boot that trusts an attacker's key is on;
//! - that the platform is locked down: `SetupMode`, `AuditMode` and `DeployedMode` are not looked at;
//! - that secure boot stayed on after the separator: what is measured later counts for nothing, since
//!   any program with access to the TPM can extend PCR 7 by then;
//! - anything about PCRs 8 and above, which the operating system extends without this log.

mod error;
mod fields;
mod parse;
mod replay;
mod secure_boot;
#[cfg(test)]
mod testing;

pub use error::BootLogError;
pub use parse::{BootLog, MAX_ALGORITHMS, MAX_BOOT_LOG_LEN, MAX_EVENTS};
pub use replay::VerifiedBootLog;
pub use secure_boot::SecureBoot;
