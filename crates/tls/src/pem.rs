// SPDX-License-Identifier: Apache-2.0
//! Reading PEM files: bounded, and with a helpful word about what is wrong with them

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use zeroize::Zeroizing;

use crate::{FileKind, TlsError};

/// Largest file read. A bundle of all public authorities has a quarter of this.
const MAX_FILE: u64 = 1 << 20;

/// Reads a whole file of at most 1 MiB; the buffer is wiped when dropped, as it may hold a key.
pub(crate) fn read_file(path: &Path, kind: FileKind) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read { kind, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let too_large = || TlsError::TooLarge { kind, path: path.to_owned(), limit: MAX_FILE };
    if size > MAX_FILE {
        return Err(too_large());
    }
    // Reserved in one piece: growing would leave unwiped copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Loads all certificates of a PEM file, in file order; other sections are passed over.
///
/// # Errors
/// The file cannot be read, is larger than 1 MiB, is damaged, or holds no certificate. The
/// certificates themselves are not parsed.
pub fn load_certificates(path: &Path, kind: FileKind) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read_file(path, kind)?;
    let certificates =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(|e| bad_pem(path, kind, &e))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { kind, path: path.to_owned(), found: found(&bytes) });
    }
    Ok(certificates)
}

pub(crate) fn bad_pem(path: &Path, kind: FileKind, error: &pem::Error) -> TlsError {
    let detail = match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("the line -----END {}----- is missing", String::from_utf8_lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is malformed".to_owned(),
        pem::Error::Base64Decode(_) => "its base64 text is broken".to_owned(),
        other => format!("{other:?}"),
    };
    TlsError::BadPem { kind, path: path.to_owned(), detail }
}

/// Says in words what a file holds that is not what was expected.
pub(crate) fn found(bytes: &[u8]) -> &'static str {
    let has = |text: &str| contains(bytes, text.as_bytes());
    if bytes.iter().all(u8::is_ascii_whitespace) {
        "an empty file"
    } else if has("PRIVATE KEY-----") {
        "a private key"
    } else if has("-----BEGIN CERTIFICATE-----") {
        "a certificate"
    } else if has("-----BEGIN CERTIFICATE REQUEST-----") {
        "a certificate request"
    } else if has("-----BEGIN PUBLIC KEY-----") {
        "a public key"
    } else if has("-----BEGIN ") {
        "PEM text of another kind"
    } else if bytes.first() == Some(&0x30) {
        "binary (DER) data, to be converted to PEM"
    } else {
        "something else"
    }
}

pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    find(haystack, needle).is_some()
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CA, Site, testdata, text};

    #[test]
    fn loads_all_certificates_and_passes_over_the_rest() {
        let site = Site::new();
        let leaf = std::fs::read_to_string(&site.server.0).unwrap();
        let key = std::fs::read_to_string(&site.server.1).unwrap();
        let mixed = format!("subject: x\r\n{leaf}\n{key}{}trailing", site.ca.pem());
        let path = site.file("mixed.pem", mixed);
        assert_eq!(load_certificates(&path, CA).unwrap().len(), 2);
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let site = Site::new();
        let pem = site.ca.pem();
        let cut = pem.replace("-----END CERTIFICATE-----", "");
        let garbled = pem.replace("MII", "M*I");
        let none = "the CA file FILE holds no certificate: expected PEM text with a line -----BEGIN CERTIFICATE-----, \
                    found ";
        let damaged =
            |detail: &str| format!("the CA file FILE is damaged PEM text: {detail}: write it anew from its source");
        for (bytes, message) in [
            (&b" \n"[..], format!("{none}an empty file")),
            (&[0x30, 0x82, 1, 1], format!("{none}binary (DER) data, to be converted to PEM")),
            (b"hello", format!("{none}something else")),
            (&std::fs::read(testdata("ec-p521.pem")).unwrap(), format!("{none}a private key")),
            (
                b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n",
                format!("{none}a certificate request"),
            ),
            (cut.as_bytes(), damaged("the line -----END CERTIFICATE----- is missing")),
            (garbled.as_bytes(), damaged("its base64 text is broken")),
            (
                &vec![b' '; 1_048_577],
                "the CA file FILE is larger than 1048576 bytes: this is not a PEM file of that use".to_owned(),
            ),
        ] {
            let path = site.file("bad.pem", bytes);
            assert_eq!(text(&load_certificates(&path, CA).unwrap_err(), &path), message);
        }
    }

    #[test]
    fn says_why_a_file_cannot_be_read() {
        let site = Site::new();
        for (path, reason) in [
            (site.scratch.join("none"), "No such file or directory (os error 2)"),
            (site.scratch.path().to_owned(), "Is a directory (os error 21)"),
        ] {
            assert_eq!(
                text(&load_certificates(&path, CA).unwrap_err(), &path),
                format!("cannot read the CA file FILE: {reason}: check the path, and that this user may read it")
            );
        }
    }
}
