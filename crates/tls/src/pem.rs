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
    let failed = |source| TlsError::Read {
        kind,
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let too_large = || TlsError::TooLarge {
        kind,
        path: path.to_owned(),
        limit: MAX_FILE,
    };
    if size > MAX_FILE {
        return Err(too_large());
    }
    // Reserved in one piece: growing would leave unwiped copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
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
pub fn load_certificates(
    path: &Path,
    kind: FileKind,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read_file(path, kind)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad_pem(path, kind, &e))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            kind,
            path: path.to_owned(),
            found: found(&bytes),
        });
    }
    Ok(certificates)
}

pub(crate) fn bad_pem(path: &Path, kind: FileKind, error: &pem::Error) -> TlsError {
    let detail = match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!(
                "the line {} is missing",
                String::from_utf8_lossy(end_marker)
            )
        }
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is malformed".to_owned(),
        pem::Error::Base64Decode(_) => "its base64 text is broken".to_owned(),
        other => format!("{other:?}"),
    };
    TlsError::BadPem {
        kind,
        path: path.to_owned(),
        detail,
    }
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
