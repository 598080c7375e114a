// SPDX-License-Identifier: Apache-2.0
//! EK certificates: nothing but the recorded ones verifies, and whatever a signed one calls its TPM is within bounds.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ek_certificate::EkTrust;
use libfuzzer_sys::fuzz_target;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use tpm_wire::public::Public;

/// 2030-01-01.
const NOW: Duration = Duration::from_secs(1_893_456_000);

struct Recorded {
    trust: EkTrust,
    eks: [(Public, &'static [u8]); 3],
}

macro_rules! ek {
    ($chain:literal) => {
        (
            Public::decode_tpmt(include_bytes!(concat!("../../tests/fixtures/", $chain, "-ek.tpmt")))
                .expect("the recorded EK decodes"),
            include_bytes!(concat!("../../tests/fixtures/", $chain, "-ek.der")).as_slice(),
        )
    };
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(|| Recorded {
    trust: EkTrust::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/cas"))
        .expect("the recorded CAs are a store"),
    eks: [ek!("a"), ek!("b"), ek!("c")],
});

/// A CA of the target's own, and an EK.
struct Signer {
    trust: EkTrust,
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    ek: Public,
}

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let new_key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = new_key();
    let file = std::env::temp_dir().join(format!("ek-certificate-fuzz-{}.pem", std::process::id()));
    std::fs::write(&file, params.self_signed(&ca_key).expect("a CA").pem()).expect("a file");
    let trust = EkTrust::load(&file).expect("a store");
    std::fs::remove_file(&file).expect("the file");
    let key = new_key();
    // TPMT_PUBLIC of a P-256 EK without a policy.
    let (x, y) = key.public_key_raw()[1..].split_at(32);
    let header = b"\x00\x23\x00\x0b\x00\x03\x00\xb2\x00\x00\x00\x06\x00\x80\x00\x43\x00\x10\x00\x03\x00\x10";
    let tpmt = [header.as_slice(), b"\x00\x20", x, b"\x00\x20", y].concat();
    let ek = Public::decode_tpmt(&tpmt).expect("an EK");
    Signer { trust, issuer: Issuer::new(params, ca_key), key, ek }
});

fuzz_target!(|bytes: &[u8]| {
    let now = SystemTime::UNIX_EPOCH + NOW;
    for (ek, der) in &RECORDED.eks {
        if RECORDED.trust.verify(bytes, ek, now).is_ok() {
            // Padding may follow.
            assert!(bytes.starts_with(der), "a forgery verifies");
        }
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], bytes.to_vec())];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    let certificate = params.signed_by(&SIGNER.key, &SIGNER.issuer).expect("a certificate");
    if let Ok(model) = SIGNER.trust.verify(certificate.der(), &SIGNER.ek, now) {
        for text in [model.manufacturer, model.model, model.version] {
            assert!(text.len() <= 64 && text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text:?}");
        }
    }
});
