// SPDX-License-Identifier: Apache-2.0
//! The CA certificates an operator trusts.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use crate::algorithm;
use crate::certificate::{Certificate, Key, MAX_CERTIFICATE_LEN};
use crate::chain::Issuers;
use crate::der::{self, Reader};
use crate::error::EkTrustError;
use crate::leaf::{ANY_PURPOSE, EK_CERTIFICATE};

/// Largest file read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most files of a folder.
const MAX_FILES: usize = 1024;
/// Most certificates of a store, those that are there twice not counted.
const MAX_CERTIFICATES: usize = 1024;

/// The trusted roots and intermediates.
#[derive(Debug)]
pub struct EkTrust {
    pub(crate) cas: Vec<Ca>,
    certificates: Vec<StoreCertificate>,
    files: Vec<PathBuf>,
}

/// What of a CA certificate a chain needs. The signatures between CAs are verified once, at load.
#[derive(Debug)]
pub(crate) struct Ca {
    /// Content of the subject's Name.
    pub(crate) subject: Vec<u8>,
    pub(crate) subject_text: String,
    pub(crate) issuer_text: String,
    /// Content of the SubjectPublicKeyInfo.
    spki: Vec<u8>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) path_len: Option<u8>,
    /// Its extended key usage, if there is one, has the purpose of EK certificates, or any.
    pub(crate) for_ek: bool,
    /// Self-signed.
    pub(crate) is_anchor: bool,
    pub(crate) issuers: Issuers,
}

impl Ca {
    pub(crate) fn key(&self) -> Option<Key<'_>> {
        Key::from_spki(&self.spki).ok()
    }
}

/// A certificate of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreCertificate {
    /// The file it is in.
    pub file: PathBuf,
    /// Its subject as text: at most 256 characters, none a control character.
    pub subject: String,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
    /// Whether it is self-signed and so a trust anchor; the others are intermediates.
    pub is_anchor: bool,
    /// Whether it is an anchor or has a chain of signatures to one. A certificate without one is of no use.
    pub reaches_anchor: bool,
}

impl EkTrust {
    /// Loads a file, or all files of a folder: PEM with any number of certificates, or DER with one. Hidden files and
    /// subfolders are passed over. A self-signed certificate becomes a trust anchor; the others are intermediates,
    /// believed only where they chain to an anchor. Expired certificates load: they may be renewed, and the error of
    /// [`EkTrust::verify`] names them.
    ///
    /// # Errors
    /// All problems at once: something cannot be read, is no certificate of a CA or damaged; there is no root; or there
    /// are more than 1024 files, 1 MiB in a file, 1024 certificates, 8 KiB in a certificate.
    pub fn load(path: &Path) -> Result<Self, Vec<EkTrustError>> {
        let files = files(path).map_err(|error| vec![error])?;
        let mut problems = Vec::new();
        let mut ders: Vec<(usize, CertificateDer<'static>)> = Vec::new();
        for (place, file) in files.iter().enumerate() {
            match certificates(file) {
                Ok(found) => {
                    for (index, der) in found.into_iter().enumerate() {
                        if ders.iter().any(|(_, known)| *known == der) {
                            continue;
                        }
                        match check(file, index + 1, &der) {
                            Ok(()) => ders.push((place, der)),
                            Err(problem) => problems.push(problem),
                        }
                        if ders.len() + problems.len() > MAX_CERTIFICATES {
                            let path = path.to_owned();
                            return Err(vec![EkTrustError::TooManyCertificates { path, limit: MAX_CERTIFICATES }]);
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        // All of them parse, or there is a problem already.
        let parsed: Vec<_> =
            ders.iter().filter_map(|(place, der)| Some((*place, Certificate::from_der(der).ok()?))).collect();
        if problems.is_empty() && !parsed.iter().any(|(_, certificate)| certificate.is_self_issued()) {
            problems.push(EkTrustError::NoAnchor { path: path.to_owned() });
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self::link(files, &parsed))
    }

    /// Finds for each CA those that signed it.
    fn link(files: Vec<PathBuf>, parsed: &[(usize, Certificate<'_>)]) -> Self {
        let mut cas: Vec<Ca> = parsed.iter().map(|(_, certificate)| ca(certificate)).collect();
        let issuers: Vec<_> = (parsed.iter().enumerate())
            .map(|(i, (_, certificate))| match certificate.is_self_issued() {
                true => Issuers::Found(Vec::new()),
                false => Issuers::of(certificate, &cas, Some(i)),
            })
            .collect();
        for (ca, issuers) in cas.iter_mut().zip(issuers) {
            ca.issuers = issuers;
        }
        let mut trust = Self { cas, certificates: Vec::new(), files };
        let entries = trust.cas.iter().zip(parsed).enumerate().map(|(position, (ca, (place, _)))| StoreCertificate {
            file: trust.files.get(*place).cloned().unwrap_or_default(),
            subject: ca.subject_text.clone(),
            not_before: ca.not_before,
            not_after: ca.not_after,
            is_anchor: ca.is_anchor,
            reaches_anchor: trust.reaches_anchor(position),
        });
        trust.certificates = entries.collect();
        trust
    }

    /// The files read, sorted; without the folder.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    /// The certificates, in the order of the files; each once.
    pub fn certificates(&self) -> &[StoreCertificate] {
        &self.certificates
    }
}

/// A certificate of the store must be one of a CA, and have nothing in it that is not understood here.
fn check(file: &Path, number: usize, der: &CertificateDer<'_>) -> Result<(), EkTrustError> {
    let path = || file.to_owned();
    if der.len() > MAX_CERTIFICATE_LEN {
        let (len, limit) = (der.len(), MAX_CERTIFICATE_LEN);
        return Err(EkTrustError::CertificateTooLarge { path: path(), number, len, limit });
    }
    let certificate =
        Certificate::from_der(der).map_err(|source| EkTrustError::BadCertificate { path: path(), number, source })?;
    let subject = certificate.subject_text();
    if !certificate.may_issue() {
        return Err(EkTrustError::NotACa { path: path(), number, subject });
    }
    let extensions = &certificate.extensions;
    if let Some(extension) = extensions.unknown_critical.or(extensions.constraint).map(der::dotted) {
        return Err(EkTrustError::UnsupportedExtension { path: path(), number, subject, extension });
    }
    // A root of an algorithm that is not accepted here is taken as it is: its own signature proves nothing.
    if certificate.is_self_issued() && algorithm::is_signed_with(&certificate, &certificate.key) == Ok(false) {
        return Err(EkTrustError::BadSelfSignature { path: path(), number, subject });
    }
    Ok(())
}

fn ca(certificate: &Certificate<'_>) -> Ca {
    let extensions = &certificate.extensions;
    let purposes = extensions.extended_key_usage.as_ref();
    Ca {
        subject: certificate.subject.to_vec(),
        subject_text: certificate.subject_text(),
        issuer_text: certificate.issuer_text(),
        spki: certificate.spki.to_vec(),
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        path_len: extensions.path_len,
        for_ek: purposes.is_none_or(|all| all.iter().any(|oid| [EK_CERTIFICATE, ANY_PURPOSE].contains(oid))),
        is_anchor: certificate.is_self_issued(),
        issuers: Issuers::NoneOfThatName,
    }
}

/// The file itself, or the files of a folder, sorted.
fn files(path: &Path) -> Result<Vec<PathBuf>, EkTrustError> {
    let failed = |source| EkTrustError::Read { path: path.to_owned(), source };
    let kind = fs::metadata(path).map_err(failed)?;
    if kind.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !kind.is_dir() {
        return Err(EkTrustError::NotAFile { path: path.to_owned() });
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Of what a link leads to; a link to nothing is a problem of that file.
        if fs::metadata(entry.path()).is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        files.push(entry.path());
        if files.len() > MAX_FILES {
            return Err(EkTrustError::TooManyFiles { path: path.to_owned(), limit: MAX_FILES });
        }
    }
    if files.is_empty() {
        return Err(EkTrustError::Empty { path: path.to_owned() });
    }
    files.sort();
    Ok(files)
}

/// The certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EkTrustError> {
    let mut bytes = read(path)?;
    // The length of a certificate takes two bytes, so this is the beginning of each.
    if bytes.starts_with(&[0x30, 0x82]) {
        // There are vendors that end such a file with a line feed.
        if let Ok(whole) = Reader::new(&bytes).any("Certificate")
            && bytes.get(whole.whole.len()..).is_some_and(|rest| rest.iter().all(u8::is_ascii_whitespace))
        {
            bytes.truncate(whole.whole.len());
        }
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| EkTrustError::BadPem { path: path.to_owned(), detail: pem_detail(&error) })?;
    if certificates.is_empty() {
        return Err(EkTrustError::NoCertificate { path: path.to_owned(), found: found(&bytes) });
    }
    Ok(certificates)
}

/// Reads a whole regular file; others could block.
fn read(path: &Path) -> Result<Vec<u8>, EkTrustError> {
    let failed = |source| EkTrustError::Read { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(EkTrustError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(EkTrustError::TooLarge { path: path.to_owned(), limit: MAX_FILE });
    }
    Ok(bytes)
}

fn pem_detail(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("the line -----END {}----- is missing", String::from_utf8_lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is malformed".to_owned(),
        pem::Error::Base64Decode(_) => "its base64 text is broken".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Says in words what a file without a certificate holds.
fn found(bytes: &[u8]) -> &'static str {
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        "an empty file"
    } else if has(b"PRIVATE KEY-----") {
        "a private key"
    } else if has(b"-----BEGIN X509 CRL-----") {
        "a revocation list"
    } else if has(b"-----BEGIN ") {
        "PEM text of another kind"
    } else {
        "something else"
    }
}
