// SPDX-License-Identifier: Apache-2.0
//! The CA certificates an operator trusts.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::algorithm;
use crate::certificate::{Certificate, MAX_CERTIFICATE_LEN};
use crate::error::EkTrustError;

/// Largest file read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most files of a folder.
const MAX_FILES: usize = 1024;
/// Most certificates of a store, those that are there twice not counted.
const MAX_CERTIFICATES: usize = 1024;

/// The trusted roots and intermediates.
#[derive(Debug)]
pub struct EkTrust {
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    /// The certificates of `anchors`, in the same order.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    certificates: Vec<StoreCertificate>,
    files: Vec<PathBuf>,
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
        let mut trust = Self {
            anchors: Vec::new(),
            roots: Vec::new(),
            intermediates: Vec::new(),
            certificates: Vec::new(),
            files: Vec::new(),
        };
        let mut problems = Vec::new();
        for file in files {
            match certificates(&file) {
                Ok(ders) => {
                    for (index, der) in ders.into_iter().enumerate() {
                        if let Err(problem) = trust.add(&file, index + 1, der) {
                            problems.push(problem);
                        }
                        if trust.certificates.len() > MAX_CERTIFICATES {
                            let path = path.to_owned();
                            problems.push(EkTrustError::TooManyCertificates { path, limit: MAX_CERTIFICATES });
                            return Err(problems);
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
            trust.files.push(file);
        }
        if problems.is_empty() && trust.anchors.is_empty() {
            problems.push(EkTrustError::NoAnchor { path: path.to_owned() });
        }
        if problems.is_empty() { Ok(trust) } else { Err(problems) }
    }

    /// The files read, sorted; without the folder.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    /// The certificates, in the order of the files; each once.
    pub fn certificates(&self) -> &[StoreCertificate] {
        &self.certificates
    }

    fn add(&mut self, file: &Path, number: usize, der: CertificateDer<'static>) -> Result<(), EkTrustError> {
        let path = || file.to_owned();
        if der.len() > MAX_CERTIFICATE_LEN {
            let (len, limit) = (der.len(), MAX_CERTIFICATE_LEN);
            return Err(EkTrustError::CertificateTooLarge { path: path(), number, len, limit });
        }
        if self.roots.contains(&der) || self.intermediates.contains(&der) {
            return Ok(());
        }
        let certificate = Certificate::from_der(&der).map_err(|source| EkTrustError::BadCertificate {
            path: path(),
            number,
            source,
        })?;
        let subject = certificate.subject_text();
        if !certificate.may_issue() {
            return Err(EkTrustError::NotACa { path: path(), number, subject });
        }
        let is_anchor = certificate.is_self_issued();
        let entry = StoreCertificate {
            file: path(),
            subject: subject.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            is_anchor,
        };
        if is_anchor {
            // A root of an algorithm that is not accepted here is taken as it is: its own signature proves nothing.
            if algorithm::is_signed_with(&certificate, &certificate.key) == Ok(false) {
                return Err(EkTrustError::BadSelfSignature { path: path(), number, subject });
            }
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|error| EkTrustError::UnusableAnchor {
                    path: path(),
                    number,
                    subject,
                    detail: error.to_string(),
                })?
                .to_owned();
            self.anchors.push(anchor);
            self.roots.push(der);
        } else {
            self.intermediates.push(der);
        }
        self.certificates.push(entry);
        Ok(())
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
    let bytes = read(path)?;
    // The length of a certificate takes two bytes, so this is the beginning of each.
    if bytes.starts_with(&[0x30, 0x82]) {
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
