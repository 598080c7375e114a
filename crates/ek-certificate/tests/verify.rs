// SPDX-License-Identifier: Apache-2.0
//! What of a chain and of an EK certificate is accepted, and what is said of the rest.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, SystemTime};

use common::{
    Attribute, Authority, MODEL, UTF8, alt_name, alt_name_of, element, fixture, now, public_of, recorded_ek, trust,
};
use ek_certificate::{EkTrust, TpmModel};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, date_time_ymd,
};

fn purpose(arcs: &[u64]) -> Vec<ExtendedKeyUsagePurpose> {
    vec![ExtendedKeyUsagePurpose::Other(arcs.to_vec())]
}

fn said(store: &[&Authority], ek: &[u8], when: SystemTime) -> String {
    let ders: Vec<&[u8]> = store.iter().map(|ca| ca.der.as_slice()).collect();
    trust(&ders).verify(ek, &public_of(ek), when).unwrap_err().to_string()
}

fn model(manufacturer: &str, model: &str, version: &str) -> TpmModel {
    TpmModel { manufacturer: manufacturer.into(), model: model.into(), version: version.into() }
}

#[test]
fn accepts_each_algorithm_and_form() {
    let trust = EkTrust::load(&fixture("cas")).unwrap();
    for (chain, expected) in [
        ("a", model("id:54455354", "Test TPM 3", "id:00010002")),
        ("b", model("id:4E544300", "NPCT6xx", "id:13")),
        ("c", model("id:4E544300", "NPCT6xx", "id:13")),
    ] {
        let mut der = std::fs::read(fixture(&format!("{chain}-ek.der"))).unwrap();
        let ek = recorded_ek(chain);
        assert_eq!(trust.verify(&der, &ek, now()), Ok(expected.clone()), "{chain}");
        // The rest of an NV index.
        der.resize(1600, 0xff);
        assert_eq!(trust.verify(&der, &ek, now()), Ok(expected), "{chain}");
    }
}

#[test]
fn reads_the_model_wherever_it_is() {
    let root = Authority::root("Root");
    let trust = trust(&[&root.der]);
    let names = |extension: CustomExtension| {
        let der = root.ek_with(|params| params.custom_extensions = vec![extension]);
        trust.verify(&der, &public_of(&der), now()).map_err(|error| error.to_string())
    };
    let [m, n, v] = MODEL;
    let expected = Ok(model("id:54455354", "Model 3", "id:0102"));
    assert_eq!(names(alt_name(&[&[v, n, m]])), expected);
    assert_eq!(names(alt_name(&[&[v], &[m], &[n]])), expected);
    assert_eq!(names(alt_name(&[&[(1, 0x13, m.2), (2, 0x16, n.2), v]])), expected);
    let dns = element(0x82, b"tpm.example");
    let mut both = alt_name(&[&MODEL]).content()[2..].to_vec();
    both.splice(0..0, dns.clone());
    assert_eq!(names(alt_name_of(&both)), expected);
    assert_eq!(names(alt_name(&[&[m, (2, UTF8, b""), v]])), Ok(model("id:54455354", "", "id:0102")));
    let longest = [b'x'; 64];
    assert_eq!(names(alt_name(&[&[m], &[(2, UTF8, &longest)], &[v]])).unwrap().model.len(), 64);

    let unusable = |attribute: Attribute<'_>| names(alt_name(&[&[m], &[attribute], &[v]])).unwrap_err();
    let what = "the EK certificate's TPM model (2.23.133.2.2) cannot be used: ";
    assert_eq!(unusable((2, UTF8, &[b'x'; 65])), format!("{what}it has more than 64 characters"));
    for value in ["a\nb".as_bytes(), "é".as_bytes(), b"\x7f", b"a\0", b"\xff"] {
        let expected = format!("{what}it has a character that is not printable ASCII");
        assert_eq!(unusable((2, UTF8, value)), expected);
    }
    let expected = format!("{what}it is neither a UTF8String nor a PrintableString nor an IA5String");
    assert_eq!(unusable((2, 0x1e, b"\0a")), expected);
    assert_eq!(names(alt_name(&[&[m], &[n], &[n], &[v]])), Err(format!("{what}it is there twice")));
    for (rest, missing) in [
        (vec![n, v], "TPM manufacturer (2.23.133.2.1)"),
        (vec![m, v], "TPM model (2.23.133.2.2)"),
        (vec![m, n], "TPM version (2.23.133.2.3)"),
    ] {
        let expected = format!("the EK certificate does not name its TPM: there is no {missing} in its subjectAltName");
        assert_eq!(names(alt_name(&[&rest])), Err(expected));
    }
    let none = "the EK certificate does not name its TPM: there is no TPM manufacturer (2.23.133.2.1) in its \
                subjectAltName";
    assert_eq!(names(alt_name_of(&dns)), Err(none.to_owned()));
}

#[test]
fn reads_the_subject_of_a_certificate_without_alternative_name() {
    let root = Authority::root("Root");
    let subject = |params: &mut CertificateParams| {
        for (arc, value) in [(1, "id:1"), (2, "Old"), (3, "id:2")] {
            params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 23, 133, 2, arc]), value);
        }
    };
    let trust = trust(&[&root.der]);
    let old = root.ek_with(|params| {
        params.custom_extensions.clear();
        subject(params);
    });
    assert_eq!(trust.verify(&old, &public_of(&old), now()), Ok(model("id:1", "Old", "id:2")));
    let both = root.ek_with(subject);
    assert_eq!(trust.verify(&both, &public_of(&both), now()).unwrap().model, "Model 3");
    let none = root.ek_with(|params| params.custom_extensions.clear());
    assert_eq!(
        trust.verify(&none, &public_of(&none), now()).unwrap_err().to_string(),
        "the EK certificate does not name its TPM: there is no TPM manufacturer (2.23.133.2.1) in its subjectAltName"
    );
}

#[test]
fn says_what_is_wrong_with_a_chain() {
    let root = Authority::root("Root");
    let middle = root.below("Middle");
    let ek = middle.ek();
    let other_root = Authority::root("Root");
    let old_root = Authority::root_with("Old Root", |params| params.not_after = date_time_ymd(2029, 1, 1));
    let old_middle = root.below_with("Middle", |params| params.not_after = date_time_ymd(2029, 1, 1));
    let new_middle = root.below_with("Middle", |params| params.not_before = date_time_ymd(2031, 1, 1));
    let tls = root.below_with("Middle", |params| params.extended_key_usages = purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 1]));
    let short = Authority::root_with("Root", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let short_middle = root.below_with("Middle", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let late = |params: &mut CertificateParams| params.not_before = date_time_ymd(2030, 1, 2);
    let early = |params: &mut CertificateParams| params.not_after = date_time_ymd(2029, 12, 31);
    for (store, ek, expected) in [
        (
            vec![&other_root],
            &ek,
            "the issuer of the EK certificate is not among the trusted CA certificates: add the certificate of \
             CN=Middle",
        ),
        (
            vec![&old_root, &middle],
            &ek,
            "the issuer of the CA certificate CN=Middle is not among the trusted CA certificates: add the certificate \
             of CN=Root",
        ),
        (
            vec![&other_root, &middle],
            &ek,
            "the signature of the CA certificate CN=Middle does not verify with the key of CN=Root: it is forged or \
             damaged, or the store has another CA of that name",
        ),
        (
            vec![&root, &root.below("Middle")],
            &ek,
            "the signature of the EK certificate does not verify with the key of CN=Middle: it is forged or damaged, \
             or the store has another CA of that name",
        ),
        (vec![&root, &old_middle], &old_middle.ek(), "the CA certificate CN=Middle expired at 2029-01-01T00:00:00Z"),
        (vec![&old_root], &old_root.ek(), "the CA certificate CN=Old Root expired at 2029-01-01T00:00:00Z"),
        (
            vec![&root, &new_middle],
            &new_middle.ek(),
            "the CA certificate CN=Middle is not valid before 2031-01-01T00:00:00Z: check this server's clock",
        ),
        (vec![&root], &root.ek_with(early), "the EK certificate expired at 2029-12-31T00:00:00Z"),
        (
            vec![&root],
            &root.ek_with(late),
            "the EK certificate is not valid before 2030-01-02T00:00:00Z: check this server's clock",
        ),
        (
            vec![&root, &tls],
            &tls.ek(),
            "the CA certificate CN=Middle is for other purposes: its extended key usage lacks 2.23.133.8.1 \
             (tcg-kp-EKCertificate)",
        ),
        (
            vec![&short, &short.below("Middle")],
            &short.below("Middle").ek(),
            "the signature of the EK certificate does not verify with the key of CN=Middle: it is forged or damaged, \
             or the store has another CA of that name",
        ),
    ] {
        assert_eq!(said(&store, ek, now()), expected);
    }
    let below_short = short.below("Middle");
    let long = "the chain of the EK certificate is longer than the path length of CN=";
    assert_eq!(said(&[&short, &below_short], &below_short.ek(), now()), format!("{long}Root allows"));
    let lowest = short_middle.below("Lowest");
    assert_eq!(said(&[&root, &short_middle, &lowest], &lowest.ek(), now()), format!("{long}Middle allows"));
    // The path lengths are just enough here.
    let (short_ek, middle_ek) = (short.ek(), short_middle.ek());
    assert!(trust(&[&short.der]).verify(&short_ek, &public_of(&short_ek), now()).is_ok());
    assert!(trust(&[&root.der, &short_middle.der]).verify(&middle_ek, &public_of(&middle_ek), now()).is_ok());

    let mut deep = vec![Authority::root("CA 0")];
    for number in 1..=8 {
        deep.push(deep.last().unwrap().below(&format!("CA {number}")));
    }
    let all: Vec<_> = deep.iter().collect();
    let (eighth, ninth) = (deep[7].ek(), deep[8].ek());
    let ders: Vec<&[u8]> = deep.iter().map(|ca| ca.der.as_slice()).collect();
    assert!(trust(&ders).verify(&eighth, &public_of(&eighth), now()).is_ok());
    assert_eq!(
        said(&all, &ninth, now()),
        "the chain of the EK certificate does not end at a root within 8 CA certificates: check the trusted CA \
         certificates"
    );
}

#[test]
fn finds_the_good_way_among_several() {
    let roots = [Authority::root("Root"), Authority::root("Root"), Authority::root("Root")];
    let old = roots[1].below_with("Middle", |params| params.not_after = date_time_ymd(2029, 1, 1));
    let good = roots[1].below("Middle");
    let bad = roots[2].below("Middle");
    let ek = good.ek();
    let trust = trust(&[&bad.der, &old.der, &good.der, &roots[0].der, &roots[1].der]);
    assert!(trust.verify(&ek, &public_of(&ek), now()).is_ok());
    let reach: Vec<_> = trust.certificates().iter().map(|entry| (entry.is_anchor, entry.reaches_anchor)).collect();
    assert_eq!(reach, [(false, false), (false, true), (false, true), (true, true), (true, true)]);
}

#[test]
fn refuses_certificates_that_are_not_of_an_ek() {
    let root = Authority::root("Root");
    let eku = |found: &str| {
        format!(
            "the EK certificate is for other purposes: its extended key usage is {found}, expected 2.23.133.8.1 \
             (tcg-kp-EKCertificate)"
        )
    };
    let usage = "the EK certificate is for other purposes: its key usage has neither keyEncipherment nor keyAgreement, \
                 or has keyCertSign";
    let ca = "the EK certificate is a CA certificate: the registrar has another certificate on record than the TPM's \
              own";
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let unknown = |oid: &'static [u64]| -> Change {
        Box::new(|params| {
            let mut extension = CustomExtension::from_oid_content(oid, vec![0x05, 0x00]);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        })
    };
    let rows: Vec<(Change, String)> = vec![
        (Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), ca.to_owned()),
        (Box::new(|p| p.extended_key_usages = purpose(&[1, 3, 6, 1, 5, 5, 7, 3, 1])), eku("1.3.6.1.5.5.7.3.1")),
        (Box::new(|p| p.extended_key_usages = purpose(&[2, 5, 29, 37, 0])), eku("2.5.29.37.0")),
        (Box::new(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]), usage.to_owned()),
        (
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign]),
            usage.to_owned(),
        ),
        (
            unknown(&[1, 3, 6, 1, 4, 1, 1]),
            "the EK certificate has the critical extension 1.3.6.1.4.1.1, which is not known".to_owned(),
        ),
        (
            unknown(&[2, 5, 29, 30]),
            "the EK certificate has the critical extension 2.5.29.30, which is not known".to_owned(),
        ),
        (
            Box::new(|p| p.custom_extensions.push(alt_name(&[&MODEL]))),
            "the EK certificate cannot be parsed: not an X.509 certificate in DER: extensions is malformed".to_owned(),
        ),
    ];
    for (change, expected) in rows {
        assert_eq!(said(&[&root], &root.ek_with(change), now()), expected);
    }
    // Neither of the usages has to be there.
    let plain = root.ek_with(|params| {
        params.extended_key_usages.clear();
        params.key_usages.clear();
        params.is_ca = IsCa::NoCa;
    });
    assert!(trust(&[&root.der]).verify(&plain, &public_of(&plain), now()).is_ok());
}

#[test]
fn refuses_the_certificate_of_another_ek() {
    let root = Authority::root("Root");
    let (ours, theirs) = (root.ek(), root.ek());
    let trust = trust(&[&root.der]);
    for ek in [public_of(&theirs), recorded_ek("a"), recorded_ek("b"), recorded_ek("c")] {
        assert_eq!(
            trust.verify(&ours, &ek, now()).unwrap_err().to_string(),
            "the EK certificate certifies another key than the EK on record: the host's registration mixes two TPMs, \
             or was tampered with"
        );
    }
}

#[test]
fn refuses_each_prefix_and_each_changed_byte() {
    let trust = EkTrust::load(&fixture("cas")).unwrap();
    for chain in ["a", "b"] {
        let der = std::fs::read(fixture(&format!("{chain}-ek.der"))).unwrap();
        let ek = recorded_ek(chain);
        for len in 0..der.len() {
            assert!(trust.verify(&der[..len], &ek, now()).is_err(), "the first {len} bytes are accepted");
        }
        for position in 0..der.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut changed = der.clone();
                changed[position] ^= mask;
                assert!(
                    trust.verify(&changed, &ek, now()).is_err(),
                    "byte {position} changed by {mask:#x} is accepted"
                );
            }
        }
    }
}

#[test]
fn has_bounds() {
    let root = Authority::root("Root");
    let der = root.ek();
    let (trust, ek) = (trust(&[&root.der]), public_of(&der));
    let mut padded = der.clone();
    padded.resize(8192, 0);
    assert!(trust.verify(&padded, &ek, now()).is_ok());
    padded.push(0);
    assert_eq!(
        trust.verify(&padded, &ek, now()).unwrap_err().to_string(),
        "the EK certificate has 8193 bytes, at most 8192 are accepted"
    );
    // A clock before 1970 is no reason to panic.
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(
        trust.verify(&der, &ek, before).unwrap_err().to_string(),
        "the EK certificate is not valid before 2020-01-01T00:00:00Z: check this server's clock"
    );
}
