// SPDX-License-Identifier: Apache-2.0
//! The certificates that peers are trusted by: authorities and pinned certificates

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::certificate::{CertificateInfo, utc};
use crate::{FileKind, TlsError, TlsWarning, load_certificates};

/// How long before its end a certificate is warned of.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

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
        let mut set = Self::empty(place);
        for path in files {
            if let Err(problem) = set.add_file(path) {
                problems.push(problem);
            }
        }
        (problems.len() == before).then_some(set)
    }

    fn empty(place: String) -> Self {
        Self { roots: RootCertStore::empty(), pins: Vec::new(), place }
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

/// Reads one file with certificates that clients are trusted by, for a list in which single files may be out of order.
/// Returns what should be changed although it works: certificates that stand for no client now, or soon.
///
/// # Errors
/// The file cannot be read, or holds something that is no certificate.
pub fn check_client_ca(path: &Path) -> Result<Vec<TlsWarning>, TlsError> {
    let mut set = TrustSet::empty(String::new());
    set.add_file(path)?;
    let now = SystemTime::now();
    Ok(set.pins.into_iter().filter_map(|pin| warning(path, pin.info, now)).collect())
}

fn warning(path: &Path, info: CertificateInfo, now: SystemTime) -> Option<TlsWarning> {
    // Others stand for no client at any time.
    if !info.is_ca && !info.is_self_issued() {
        return None;
    }
    let (path, not_before, not_after) = (path.to_owned(), utc(info.not_before), utc(info.not_after));
    let subject = info.subject;
    if now > info.not_after {
        Some(TlsWarning::TrustExpired { path, subject, not_before, not_after })
    } else if now < info.not_before {
        Some(TlsWarning::TrustNotValidYet { path, subject, not_before, not_after })
    } else if now + SOON > info.not_after {
        Some(TlsWarning::TrustExpiresSoon { path, subject, not_before, not_after })
    } else {
        None
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Site;
    use test_support::ca::{LeafSpec, TestCa, self_signed};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn warns_of_dates() {
        let site = Site::new();
        assert_eq!(check_client_ca(&site.ca_file).unwrap(), []);
        let now = SystemTime::now();
        let valid = "in the CA file FILE is valid from";
        for (time, begin, end) in [
            (
                now - 2 * DAY..now - DAY,
                "in the CA file FILE was valid from",
                "no client that it stands for is accepted any more; replace it by its successor, or take it out",
            ),
            (now - DAY..now + 29 * DAY, valid, "no client that it stands for is accepted then; add its successor"),
            (
                now + DAY..now + 2 * DAY,
                valid,
                "no client that it stands for is accepted before; check this host's clock",
            ),
        ] {
            let dates = (utc(time.start), utc(time.end));
            let file = TestCa::root_within("Dated", time).unwrap().write(site.scratch.path(), "dated").unwrap();
            // Each of a bundle is looked at.
            std::fs::write(&file, format!("{}{}", site.ca.pem(), std::fs::read_to_string(&file).unwrap())).unwrap();
            let [warning] = &check_client_ca(&file).unwrap()[..] else { panic!("one warning") };
            let soon = if end.contains("then") { ", which is soon" } else { "" };
            assert_eq!(
                warning.to_string().replace(file.to_str().unwrap(), "FILE"),
                format!("the certificate \"CN=Dated\" {begin} {} to {}{soon}: {end}", dates.0, dates.1)
            );
        }
        let far = TestCa::root_within("Far", now - DAY..now + 31 * DAY).unwrap();
        assert_eq!(check_client_ca(&far.write(site.scratch.path(), "far").unwrap()).unwrap(), []);
    }

    #[test]
    fn warns_of_listed_clients_but_not_of_others() {
        let site = Site::new();
        let own = self_signed(&LeafSpec::new("own").expired()).unwrap().write(site.scratch.path(), "own").unwrap();
        let warnings = check_client_ca(&own.0).unwrap();
        assert!(matches!(&warnings[..], [TlsWarning::TrustExpired { subject, .. }] if subject == "CN=own"));
        let issued = site.issue(&site.ca, &LeafSpec::new("issued").expired(), "issued");
        assert_eq!(check_client_ca(&issued.0).unwrap(), []);
        assert!(matches!(check_client_ca(&own.1), Err(TlsError::NoCertificate { .. })));
    }
}
