// SPDX-License-Identifier: Apache-2.0
//! TPM and TSS response codes in words.
//!
//! Layout: TPM 2.0 Library Part 2, "TPM_RC Values"; layers above the TPM: TCG TSS 2.0 Overview and Common
//! Structures, "TSS2 Response Codes".

use std::fmt;

/// A response code of the TPM (layer 0) or of the software between it and us (bits 16 to 23 not zero).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResponseCode(pub u32);

const LAYER_MASK: u32 = 0x00FF_0000;
/// Format-one codes speak about one handle, session or parameter.
const FORMAT_ONE: u32 = 0x080;
const PARAMETER: u32 = 0x040;

pub(crate) const INITIALIZE: u32 = 0x100;
pub(crate) const FAILURE: u32 = 0x101;
const NV_UNINITIALIZED: u32 = 0x14A;
/// The private part of an object does not unmarshal or match its public part.
const SENSITIVE: u32 = 0x155;
const SESSION_BAD_AUTH: u32 = 0x9A2;
const SESSION_AUTH_FAIL: u32 = 0x98E;
/// Lower six bits of format-one codes.
const AUTH_FAIL: u32 = 0x0E;
const SIZE: u32 = 0x15;
const BAD_AUTH: u32 = 0x22;
const YIELDED: u32 = 0x908;
const TESTING: u32 = 0x90A;
const RETRY: u32 = 0x922;

/// Codes without a parameter, handle or session number.
const FORMAT_ZERO_NAMES: &[(u32, &str)] = &[
    (INITIALIZE, "TPM_RC_INITIALIZE: the TPM has not been started (TPM2_Startup)"),
    (FAILURE, "TPM_RC_FAILURE: the TPM is in failure mode until it is reset"),
    (0x120, "TPM_RC_DISABLED: the command is disabled"),
    (0x143, "TPM_RC_COMMAND_CODE: the TPM does not know this command"),
    (0x149, "TPM_RC_NV_AUTHORIZATION"),
    (NV_UNINITIALIZED, "TPM_RC_NV_UNINITIALIZED: the NV index has not been written"),
    (SENSITIVE, "TPM_RC_SENSITIVE: the private part is damaged"),
    (0x901, "TPM_RC_CONTEXT_GAP"),
    (0x902, "TPM_RC_OBJECT_MEMORY: out of memory for objects"),
    (0x903, "TPM_RC_SESSION_MEMORY: out of memory for sessions"),
    (0x904, "TPM_RC_MEMORY: out of memory"),
    (0x905, "TPM_RC_SESSION_HANDLES: out of session handles"),
    (0x906, "TPM_RC_OBJECT_HANDLES: out of object handles"),
    (0x907, "TPM_RC_LOCALITY"),
    (YIELDED, "TPM_RC_YIELDED"),
    (0x909, "TPM_RC_CANCELED"),
    (TESTING, "TPM_RC_TESTING"),
    (0x910, "TPM_RC_REFERENCE_H0: the first key is not loaded"),
    (0x911, "TPM_RC_REFERENCE_H1: the second key is not loaded"),
    (0x920, "TPM_RC_NV_RATE"),
    (0x921, "TPM_RC_LOCKOUT: the TPM is locked after too many wrong authorizations"),
    (RETRY, "TPM_RC_RETRY"),
    (0x923, "TPM_RC_NV_UNAVAILABLE"),
];

/// Lower six bits of format-one codes.
const FORMAT_ONE_NAMES: &[(u32, &str)] = &[
    (0x01, "TPM_RC_ASYMMETRIC"),
    (0x02, "TPM_RC_ATTRIBUTES"),
    (0x03, "TPM_RC_HASH: the hash algorithm is not supported"),
    (0x04, "TPM_RC_VALUE"),
    (0x05, "TPM_RC_HIERARCHY"),
    (0x07, "TPM_RC_KEY_SIZE: the key size is not supported"),
    (0x0A, "TPM_RC_TYPE"),
    (0x0B, "TPM_RC_HANDLE"),
    (AUTH_FAIL, "TPM_RC_AUTH_FAIL: wrong authorization value"),
    (0x12, "TPM_RC_SCHEME: the signing scheme is not supported or not compatible"),
    (SIZE, "TPM_RC_SIZE"),
    (0x1D, "TPM_RC_POLICY_FAIL"),
    (0x1F, "TPM_RC_INTEGRITY: the integrity check failed"),
    (BAD_AUTH, "TPM_RC_BAD_AUTH: wrong authorization value"),
    (0x26, "TPM_RC_CURVE: the curve is not supported"),
];

/// Codes of the TCTI layer, without the layer bits.
const TCTI_NAMES: &[(u32, &str)] = &[
    (0x01, "general failure"),
    (0x02, "not implemented"),
    (0x05, "bad reference"),
    (0x08, "no connection"),
    (0x09, "try again"),
    (0x0A, "input/output error"),
    (0x0B, "bad value in the configuration text"),
    (0x0C, "not permitted"),
    (0x11, "malformed response"),
    (0x13, "response too large"),
    (0x15, "not supported"),
];

impl ResponseCode {
    fn layer(self) -> u32 {
        self.0 & LAYER_MASK
    }

    /// The code without the bits of the layer that produced it; resource managers put theirs on TPM codes.
    fn bare(self) -> u32 {
        self.0 & !LAYER_MASK
    }

    fn is_format_one(self) -> bool {
        self.bare() & FORMAT_ONE != 0
    }

    /// The TPM asks for the same command again (it was testing itself or had to yield).
    pub(crate) fn wants_retry(self) -> bool {
        matches!(self.bare(), YIELDED | TESTING | RETRY)
    }

    /// The TPM lost all loaded objects.
    pub(crate) fn is_reset(self) -> bool {
        matches!(self.bare(), INITIALIZE | FAILURE)
    }

    /// A handle names an object that is not loaded.
    pub(crate) fn is_missing_object(self) -> bool {
        (0x910..=0x916).contains(&self.bare())
    }

    /// A handle has nothing behind it (format one, TPM_RC_HANDLE, any position) or is not loaded.
    pub(crate) fn is_bad_handle(self) -> bool {
        self.is_missing_object() || (self.is_format_one() && self.bare() & 0xFF == 0x8B)
    }

    pub(crate) fn is_out_of_room(self) -> bool {
        (0x902..=0x906).contains(&self.bare())
    }

    /// The value used in the first authorization is wrong.
    pub(crate) fn is_bad_auth(self) -> bool {
        matches!(self.bare(), SESSION_BAD_AUTH | SESSION_AUTH_FAIL)
    }

    /// The value used in this authorization, counted from 1, is wrong. Position as in "TPM_RC Values".
    pub(crate) fn is_bad_auth_of(self, session: u32) -> bool {
        let place = self.bare() >> 8;
        self.is_format_one()
            && self.bare() & PARAMETER == 0
            && place == 0x8 | session
            && matches!(self.bare() & 0x3F, AUTH_FAIL | BAD_AUTH)
    }

    /// This parameter, counted from 1, is longer than the TPM takes.
    pub(crate) fn is_size_of_parameter(self, number: u32) -> bool {
        self.is_format_one() && self.bare() & PARAMETER != 0 && self.bare() >> 8 == number && self.bare() & 0x3F == SIZE
    }

    /// The TPM objects to a parameter of the command, not to handles, sessions or its own state.
    pub(crate) fn is_about_parameter(self) -> bool {
        (self.is_format_one() && self.bare() & PARAMETER != 0) || self.bare() == SENSITIVE
    }

    pub(crate) fn is_nv_unwritten(self) -> bool {
        self.bare() == NV_UNINITIALIZED
    }
}

fn name_in(table: &'static [(u32, &'static str)], code: u32) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == code).map(|(_, name)| *name)
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.0;
        // 0x000A0000 is the TCTI layer; other non-zero layers are resource managers that pass TPM codes on.
        if self.layer() == 0x000A_0000 {
            let name = name_in(TCTI_NAMES, self.0 & 0xFFFF).unwrap_or("transport error");
            return write!(f, "{name} ({hex:#010x})");
        }
        if !self.is_format_one() {
            let name = name_in(FORMAT_ZERO_NAMES, self.bare()).unwrap_or("TPM error");
            return write!(f, "{name} ({hex:#x})");
        }
        let name = name_in(FORMAT_ONE_NAMES, self.bare() & 0x3F).unwrap_or("TPM error");
        let number = (self.bare() >> 8) & 0xF;
        let (place, number) = match (self.bare() & PARAMETER != 0, number) {
            (true, n) => ("parameter", n),
            (false, n) if n & 0x8 != 0 => ("session", n & 0x7),
            (false, n) => ("handle", n),
        };
        write!(f, "{name} ({hex:#x}, {place} {number})")
    }
}

impl fmt::Debug for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseCode({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_as_words() {
        let rows = [
            (0x100, "TPM_RC_INITIALIZE: the TPM has not been started (TPM2_Startup) (0x100)"),
            (0x902, "TPM_RC_OBJECT_MEMORY: out of memory for objects (0x902)"),
            (0x9A2, "TPM_RC_BAD_AUTH: wrong authorization value (0x9a2, session 1)"),
            (0x1DF, "TPM_RC_INTEGRITY: the integrity check failed (0x1df, parameter 1)"),
            (0x18B, "TPM_RC_HANDLE (0x18b, handle 1)"),
            (0x000A_000A, "input/output error (0x000a000a)"),
            (0x000B_0143, "TPM_RC_COMMAND_CODE: the TPM does not know this command (0xb0143)"),
            (0x7FF, "TPM error (0x7ff, parameter 7)"),
            (0x15F, "TPM error (0x15f)"),
        ];
        for (code, text) in rows {
            assert_eq!(ResponseCode(code).to_string(), text);
        }
    }

    #[test]
    fn classes_of_codes() {
        assert!(ResponseCode(0x922).wants_retry() && ResponseCode(0x90A).wants_retry());
        assert!(ResponseCode(0x910).is_missing_object() && !ResponseCode(0x917).is_missing_object());
        assert!(ResponseCode(0x18B).is_bad_handle() && ResponseCode(0x28B).is_bad_handle());
        assert!(ResponseCode(0x902).is_out_of_room() && ResponseCode(0x903).is_out_of_room());
        assert!(ResponseCode(0x1DF).is_about_parameter() && !ResponseCode(0x9A2).is_about_parameter());
        assert!(!ResponseCode(0x902).is_about_parameter());
        assert!(ResponseCode(0xAA2).is_bad_auth_of(2) && ResponseCode(0xA8E).is_bad_auth_of(2));
        assert!(!ResponseCode(0x9A2).is_bad_auth_of(2) && ResponseCode(0x9A2).is_bad_auth_of(1));
        assert!(ResponseCode(0x1D5).is_size_of_parameter(1) && !ResponseCode(0x2D5).is_size_of_parameter(1));
    }
}
