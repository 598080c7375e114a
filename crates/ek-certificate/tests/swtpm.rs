// SPDX-License-Identifier: Apache-2.0
//! The EK certificates of software TPMs, with the CA that swtpm makes for each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::SystemTime;

use ek_certificate::EkTrust;
use test_support::{Swtpm, SwtpmOptions, require};
use tpm_wire::public::Public;

/// The persistent handles of the RSA and the ECC EK.
const RSA: &str = "0x81010001";
const ECC: &str = "0x81010016";

fn ek(tpm: &Swtpm, handle: &str) -> Public {
    let path = tpm.scratch().join("ek.pub");
    tpm.tool("tpm2_readpublic", &["-c", handle, "-o", path.to_str().unwrap()]).unwrap();
    Public::decode_2b(&std::fs::read(path).unwrap()).unwrap()
}

fn trust(tpm: &Swtpm) -> EkTrust {
    let folder = tpm.scratch().folder("store").unwrap();
    for path in &tpm.ca_certs {
        std::fs::copy(path, folder.join(path.file_name().unwrap())).unwrap();
    }
    EkTrust::load(&folder).unwrap()
}

#[test]
fn verifies_a_tpm_against_its_own_ca_only() {
    let Some(()) = require::swtpm() else { return };
    let [ours, theirs] = [(); 2].map(|()| Swtpm::start(SwtpmOptions::default()).unwrap());
    let now = SystemTime::now();
    let certificate = ours.ek_certificate().unwrap();
    let model = trust(&ours).verify(&certificate, &ek(&ours, RSA), now).unwrap();
    assert!(model.manufacturer.starts_with("id:"), "{model:?}");
    assert_eq!(model.model, "swtpm");
    assert!(model.version.starts_with("id:"), "{model:?}");

    // The one of the ECC P-384 EK, in an NV index of its own.
    let path = ours.scratch().join("ecc.der");
    ours.tool("tpm2_nvread", &["0x01c00016", "--output", path.to_str().unwrap()]).unwrap();
    let ecc = std::fs::read(path).unwrap();
    assert_eq!(trust(&ours).verify(&ecc, &ek(&ours, ECC), now), Ok(model));

    let error = trust(&theirs).verify(&certificate, &ek(&ours, RSA), now).unwrap_err().to_string();
    assert!(error.starts_with("the signature of the EK certificate does not verify with the key of "), "{error}");
    let error = trust(&ours).verify(&certificate, &ek(&theirs, RSA), now).unwrap_err().to_string();
    assert!(error.starts_with("the EK certificate certifies another key than the EK on record"), "{error}");

    let alone = EkTrust::load(&ours.ca_certs[1]).unwrap();
    let error = alone.verify(&certificate, &ek(&ours, RSA), now).unwrap_err().to_string();
    assert!(error.starts_with("the issuer of the EK certificate is not among the trusted CA certificates"), "{error}");
}
