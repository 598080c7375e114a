// SPDX-License-Identifier: Apache-2.0
//! Loading of CA certificates.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::{Authority, fixture, now, pem, public_of};
use ek_certificate::EkTrust;
use rcgen::{CustomExtension, IsCa, KeyUsagePurpose};
use test_support::scratch::Scratch;

/// The problems of a store, with its path replaced by `STORE`.
fn problems(path: &Path) -> Vec<String> {
    let problems = EkTrust::load(path).unwrap_err();
    problems.iter().map(|problem| problem.to_string().replace(path.to_str().unwrap(), "STORE")).collect()
}

fn not_a_ca(number: usize, subject: &str) -> String {
    format!(
        "certificate {number} in STORE ({subject}) is no CA certificate: expected CA:TRUE, and keyCertSign if it has a \
         keyUsage: take it out"
    )
}

#[test]
fn loads_files_and_folders_in_pem_and_der() {
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let middle = root.below("Middle");
    let ek = middle.ek();
    let scratch = Scratch::new("ek-store").unwrap();
    let both = format!("subject: x\r\n{}\n{}{}", pem(&middle.der), pem(&root.der), pem(&root.der));
    let file = scratch.write("b.pem", both).unwrap();
    let one = EkTrust::load(&file).unwrap();
    assert_eq!(one.files(), std::slice::from_ref(&file));
    assert!(one.verify(&ek, &public_of(&ek), now()).is_ok());

    // There are vendors that end such a file with a line feed.
    let der = scratch.write("a.crt", [other.der.as_slice(), b"\n"].concat()).unwrap();
    let again = scratch.write("c", &root.der).unwrap();
    scratch.write(".hidden", "not a certificate").unwrap();
    scratch.folder("folder").unwrap();
    std::os::unix::fs::symlink(&again, scratch.join("d")).unwrap();
    let all = EkTrust::load(scratch.path()).unwrap();
    assert_eq!(all.files(), [der.clone(), file.clone(), again, scratch.join("d")]);
    let entries: Vec<_> =
        all.certificates().iter().map(|entry| (&entry.file, entry.subject.as_str(), entry.is_anchor)).collect();
    assert_eq!(entries, [(&der, "CN=Other", true), (&file, "CN=Middle", false), (&file, "CN=Root", true)]);
    let last = all.certificates().iter().map(|entry| entry.not_after).min().unwrap();
    assert!(last > now());
    assert!(all.verify(&ek, &public_of(&ek), now()).is_ok());
}

#[test]
fn says_what_is_wrong_with_a_file() {
    let root = Authority::root("Root");
    let leaf = pem(&root.ek());
    let no_sign = Authority::root_with("No", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let no_ca = Authority::root_with("Self", |params| params.is_ca = IsCa::NoCa);
    let mut forged = root.der.clone();
    *forged.last_mut().unwrap() ^= 1;
    let constrained = |oid: &[u64], critical| {
        let mut extension = CustomExtension::from_oid_content(oid, vec![0x30, 0x00]);
        extension.set_criticality(critical);
        Authority::root_with("Odd", |params| params.custom_extensions = vec![extension])
    };
    let restricts = |oid: &str| {
        format!(
            "certificate 1 in STORE (CN=Odd) has the extension {oid}, which restricts its use in a way that is not \
             checked here: take it out"
        )
    };
    let none = |found: &str| {
        format!(
            "STORE holds no certificate: expected one or more in PEM, or one in DER, found {found}: correct the file \
             or take it away"
        )
    };
    let damaged = |detail: &str| format!("STORE is damaged PEM text: {detail}: write it anew from its source");
    let unreadable = |what: &str| {
        format!(
            "certificate 1 in STORE cannot be parsed: not an X.509 certificate in DER: {what} is malformed: write the \
             file anew from its source"
        )
    };
    let no_root = "STORE holds intermediate CA certificates only, so no chain can end there: add the root, the \
                   self-signed certificate of the manufacturer";
    let root_pem = pem(&root.der);
    for (bytes, expected) in [
        (b" \n".to_vec(), none("an empty file")),
        (b"hello".to_vec(), none("something else")),
        (b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n".to_vec(), none("a private key")),
        (b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n".to_vec(), none("a revocation list")),
        (b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n".to_vec(), none("PEM text of another kind")),
        (
            root_pem.replace("-----END CERTIFICATE-----", "").into_bytes(),
            damaged("the line -----END CERTIFICATE----- is missing"),
        ),
        (root_pem.replace("MII", "M*I").into_bytes(), damaged("its base64 text is broken")),
        (root.der[..100].to_vec(), unreadable("Certificate")),
        ([root.der.as_slice(), b"x"].concat(), unreadable("end of the certificate")),
        (format!("{root_pem}{leaf}").into_bytes(), not_a_ca(2, "an empty name")),
        (no_sign.der, not_a_ca(1, "CN=No")),
        (no_ca.der, not_a_ca(1, "CN=Self")),
        (
            forged,
            "certificate 1 in STORE (CN=Root) names itself as its issuer, but is not signed with its own key: it is \
             damaged or forged: get it anew from its source"
                .to_owned(),
        ),
        (constrained(&[2, 5, 29, 30], false).der, restricts("2.5.29.30")),
        (constrained(&[2, 5, 29, 36], true).der, restricts("2.5.29.36")),
        (constrained(&[1, 2, 3], true).der, restricts("1.2.3")),
        (root.below("Middle").der, no_root.to_owned()),
        (vec![b' '; 1_048_577], "STORE is larger than 1048576 bytes: this is not a file of CA certificates".to_owned()),
        (
            [&[0x30, 0x82, 0x20, 0x00][..], &[0; 8192]].concat(),
            "certificate 1 in STORE has 8196 bytes, at most 8192 are accepted".to_owned(),
        ),
    ] {
        let scratch = Scratch::new("ek-store").unwrap();
        assert_eq!(problems(&scratch.write("store.pem", bytes).unwrap()), [expected]);
    }
    // Of no meaning here, and marked as critical by a vendor.
    let policies = constrained(&[2, 5, 29, 32], true);
    let scratch = Scratch::new("ek-store").unwrap();
    assert!(EkTrust::load(&scratch.write("store.pem", policies.der).unwrap()).is_ok());
}

#[test]
fn says_what_is_wrong_with_all_files_at_once() {
    let scratch = Scratch::new("ek-store").unwrap();
    assert_eq!(
        problems(scratch.path()),
        ["the folder STORE holds no file: put the CA certificates of your TPMs' manufacturers there, roots and \
          intermediates (hidden files and subfolders are not read)"]
    );
    scratch.write("1", "one").unwrap();
    scratch.write("2", std::fs::read(fixture("cas/a-root.pem")).unwrap()).unwrap();
    std::os::unix::fs::symlink("nowhere", scratch.join("3")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scratch.join("4")).unwrap();
    assert_eq!(
        problems(scratch.path()),
        [
            "STORE/1 holds no certificate: expected one or more in PEM, or one in DER, found something else: correct \
             the file or take it away",
            "cannot read STORE/3: No such file or directory (os error 2): check the path, and that this user may read \
             it",
            "STORE/4 is neither a file nor a folder: name a file with CA certificates of TPM manufacturers, or a \
             folder of such files",
        ]
    );
    assert_eq!(
        problems(&scratch.join("none")),
        ["cannot read STORE: No such file or directory (os error 2): check the path, and that this user may read it"]
    );
    assert_eq!(
        problems(&scratch.join("4")),
        [
            "STORE is neither a file nor a folder: name a file with CA certificates of TPM manufacturers, or a folder of \
          such files"
        ]
    );
}

#[test]
fn has_bounds() {
    let scratch = Scratch::new("ek-store").unwrap();
    for number in 0..=1024 {
        scratch.write(&format!("{number}"), "").unwrap();
    }
    assert_eq!(
        problems(scratch.path()),
        ["the folder STORE has more than 1024 files: keep the CA certificates of TPM manufacturers in a folder of \
          their own"]
    );
    let scratch = Scratch::new("ek-store").unwrap();
    let many: String = (0..=1024).map(|number| pem(&[0x30, 2, 0x02, 0, (number >> 8) as u8, number as u8])).collect();
    assert_eq!(
        problems(&scratch.write("many.pem", many).unwrap()),
        ["STORE has more than 1024 certificates: keep those of the manufacturers of your TPMs only"]
    );
}
