// SPDX-License-Identifier: Apache-2.0
//! The EK certificate itself: purposes and key.

use tpm_wire::public::Public;

use crate::certificate::{Certificate, Key, key_usage};
use crate::der::{self, Reader, SEQUENCE};
use crate::error::EkCertificateError;

/// tcg-kp-EKCertificate, 2.23.133.8.1.
pub(crate) const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

/// anyExtendedKeyUsage, 2.5.29.37.0: as good in a CA, but not in an EK certificate.
pub(crate) const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// AlgorithmIdentifier contents of an RSA key: rsaEncryption with NULL, as everybody writes it.
const RSA_ENCRYPTION: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// The object identifier id-RSAES-OAEP, which some vendors write before parameters of their choice.
const RSAES_OAEP: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07];

/// The certificate is no CA's, and its extensions say what an EK is for, if they say anything.
///
/// Source: TCG EK Credential Profile for TPM Family 2.0, "Key Usage" and "Extended Key Usage".
pub(crate) fn check_purposes(certificate: &Certificate<'_>) -> Result<(), EkCertificateError> {
    let extensions = &certificate.extensions;
    if extensions.is_ca {
        return Err(EkCertificateError::Ca);
    }
    if let Some(extension) = extensions.unknown_critical.or(extensions.constraint).map(der::dotted) {
        return Err(EkCertificateError::UnsupportedExtension { extension });
    }
    if let Some(purposes) = &extensions.extended_key_usage
        && !purposes.contains(&EK_CERTIFICATE)
    {
        let found: Vec<_> = purposes.iter().take(8).map(|oid| der::dotted(oid)).collect();
        let found = if found.is_empty() { "empty".to_owned() } else { found.join(", ") };
        return Err(EkCertificateError::ExtendedKeyUsage { found });
    }
    if let Some(usage) = extensions.key_usage {
        let decrypts = usage & (key_usage::KEY_ENCIPHERMENT | key_usage::KEY_AGREEMENT) != 0;
        if !decrypts || usage & key_usage::KEY_CERT_SIGN != 0 {
            return Err(EkCertificateError::KeyUsage);
        }
    }
    Ok(())
}

/// The key of the certificate is this EK.
pub(crate) fn check_key(certificate: &Certificate<'_>, ek: &Public) -> Result<(), EkCertificateError> {
    let expected = ek.to_spki_der();
    let expected = Key::from_spki(Reader::new(&expected).expect(SEQUENCE, "subjectPublicKeyInfo")?.content)?;
    let found = &certificate.key;
    let same_kind = found.algorithm == expected.algorithm
        || (expected.algorithm == RSA_ENCRYPTION && found.algorithm.starts_with(RSAES_OAEP));
    if same_kind && found.bits == expected.bits { Ok(()) } else { Err(EkCertificateError::WrongKey) }
}
