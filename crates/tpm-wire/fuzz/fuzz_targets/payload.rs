// SPDX-License-Identifier: Apache-2.0
//! The plugins' JSON messages: what decodes survives the round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tpm_wire::payload::{Challenge, ChallengeResponse, Payload};

fuzz_target!(|json: &[u8]| {
    if let Ok(message) = Payload::from_json(json) {
        assert_eq!(Payload::from_json(&message.to_json()).ok(), Some(message));
    }
    if let Ok(message) = Challenge::from_json(json) {
        assert_eq!(Challenge::from_json(&message.to_json()).ok(), Some(message));
    }
    for boot_log_wanted in [false, true] {
        if let Ok(message) = ChallengeResponse::from_json(json, boot_log_wanted) {
            assert_eq!(ChallengeResponse::from_json(&message.to_json(), boot_log_wanted).ok(), Some(message));
        }
    }
});
