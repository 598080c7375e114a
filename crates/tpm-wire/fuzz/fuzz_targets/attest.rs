// SPDX-License-Identifier: Apache-2.0
//! TPMS_ATTEST, TPMT_SIGNATURE and the PCR blob as bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tpm_wire::attest::{Attest, MAX_ATTEST_LEN};
use tpm_wire::pcr::PcrValues;
use tpm_wire::signature::{MAX_SIGNATURE_LEN, Signature};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(attest) = Attest::decode(bytes) {
        assert!(bytes.len() <= MAX_ATTEST_LEN);
        assert!(attest.extra_data.len() <= 66);
        assert!(attest.attested.pcr_digest.len() <= 64);
        assert!(attest.attested.selections.len() <= 16);
    }
    if Signature::decode(bytes).is_ok() {
        assert!(bytes.len() <= MAX_SIGNATURE_LEN);
    }
    if let Ok(pcrs) = PcrValues::decode_blob(bytes) {
        assert_eq!(PcrValues::decode_blob(&pcrs.encode_blob()).as_ref(), Ok(&pcrs));
    }
});
