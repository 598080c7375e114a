// SPDX-License-Identifier: Apache-2.0
//! Quote strings: nothing but what the recorded quotes say verifies, and each part decodes or is refused.
#![no_main]

use std::str::FromStr;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tpm_wire::attest::Attest;
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::PcrValues;
use tpm_wire::public::{AkPublic, Public};
use tpm_wire::quote::QuoteString;
use tpm_wire::signature::Signature;
use tpm_wire::verify::verify_quote;

struct Recorded {
    ak: AkPublic,
    nonce: &'static [u8],
    quote: QuoteString,
}

macro_rules! recorded {
    ($folder:literal) => {
        Recorded {
            ak: Public::decode_2b(include_bytes!(concat!("../../tests/fixtures/", $folder, "/ak.tpm2b")))
                .expect("the recorded AK decodes")
                .try_into()
                .expect("the recorded AK is one"),
            nonce: include_bytes!(concat!("../../tests/fixtures/", $folder, "/nonce")),
            quote: include_str!(concat!("../../tests/fixtures/", $folder, "/quote.txt"))
                .parse()
                .expect("the recorded quote is a quote string"),
        }
    };
}

static RECORDED: LazyLock<[Recorded; 2]> = LazyLock::new(|| [recorded!("rsa2048"), recorded!("p256")]);

fuzz_target!(|text: &str| {
    let Ok(quote) = QuoteString::from_str(text) else { return };
    assert_eq!(quote.to_string(), text);
    let _ = Attest::decode(quote.attest());
    let _ = Signature::decode(quote.signature());
    if let Ok(pcrs) = PcrValues::decode_blob(quote.pcrs()) {
        assert_eq!(PcrValues::decode_blob(&pcrs.encode_blob()).as_ref(), Ok(&pcrs));
    }
    for Recorded { ak, nonce, quote: recorded } in RECORDED.iter() {
        if verify_quote(&quote, ak, nonce, HashAlgorithm::Sha256).is_ok() {
            // ECDSA has a second signature for each, so that part may differ.
            assert_eq!(quote.attest(), recorded.attest(), "a forgery verifies");
            assert_eq!(quote.pcrs(), recorded.pcrs(), "other PCR values verify");
        }
    }
});
