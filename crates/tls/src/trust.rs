// SPDX-License-Identifier: Apache-2.0
//! The certificates that peers are trusted by: authorities and pinned certificates

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::certificate::CertificateInfo;
use crate::{FileKind, TlsError, load_certificates};

/// A certificate that is accepted because it is configured, byte for byte.
#[derive(Debug)]
pub(crate) struct Pin {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) info: CertificateInfo,
}

/// What peers are trusted by.
#[derive(Debug)]
pub(crate) struct TrustSet {
    /// Authorities that chains may end at.
    pub(crate) roots: RootCertStore,
    /// Every certificate of the configured files. Kept apart from the roots: a certificate that is
    /// no authority must not vouch for others, and some cannot be a trust anchor at all.
    pub(crate) pins: Vec<Pin>,
    /// Where all this comes from, for messages.
    pub(crate) place: String,
}

impl TrustSet {
    /// Loads all files; each that cannot be used is a problem, and then there is no set.
    pub(crate) fn from_files(files: &[PathBuf], problems: &mut Vec<TlsError>) -> Option<Self> {
        let Some(place) = place(files) else {
            problems.push(TlsError::NoFiles);
            return None;
        };
        let before = problems.len();
        let mut set = Self { roots: RootCertStore::empty(), pins: Vec::new(), place };
        for path in files {
            if let Err(problem) = set.add_file(path) {
                problems.push(problem);
            }
        }
        (problems.len() == before).then_some(set)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), TlsError> {
        for (i, der) in load_certificates(path, FileKind::Ca)?.into_iter().enumerate() {
            let info = CertificateInfo::from_der(&der).map_err(|source| {
                let path = path.to_owned();
                TlsError::BadCertificate { kind: FileKind::Ca, path, number: i + 1, source }
            })?;
            if self.pins.iter().any(|pin| pin.der == der) {
                continue;
            }
            // One that webpki cannot use as an anchor still counts as pinned.
            if info.is_ca {
                let _ = self.roots.add(der.clone());
            }
            self.pins.push(Pin { der, info });
        }
        Ok(())
    }

    pub(crate) fn from_system() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let detail = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
            return Err(TlsError::SystemRoots { detail });
        }
        Ok(Self { roots, pins: Vec::new(), place: "the system's trusted certificates".into() })
    }
}

/// The files as one text; none for no files.
fn place(files: &[PathBuf]) -> Option<String> {
    match files {
        [] => None,
        [one] => Some(format!("the CA file {}", one.display())),
        many => {
            let list: Vec<_> = many.iter().map(|p| p.display().to_string()).collect();
            Some(format!("the CA files {}", list.join(", ")))
        }
    }
}
