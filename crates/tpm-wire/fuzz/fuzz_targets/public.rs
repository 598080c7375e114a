// SPDX-License-Identifier: Apache-2.0
//! TPM2B_PUBLIC and what is derived from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tpm_wire::public::{AkPublic, Public, ek_hash};

fuzz_target!(|bytes: &[u8]| {
    let Ok(public) = Public::decode_2b(bytes) else { return };
    if let Ok(name) = public.name() {
        assert_eq!(name.len(), 2 + public.name_alg.digest_len());
    }
    assert_eq!(ek_hash(&public.to_spki_pem()).len(), 64);
    let _ = AkPublic::try_from(public);
});
