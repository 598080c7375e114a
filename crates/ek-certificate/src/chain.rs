// SPDX-License-Identifier: Apache-2.0
//! The chain from an EK certificate to a trust anchor.

use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use tpm_wire::public::Public;
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, RequiredEkuNotFoundContext, VerifiedPath,
};

use crate::algorithm::{self, ACCEPTED};
use crate::certificate::{Certificate, MAX_CERTIFICATE_LEN};
use crate::der::{self, OID, Reader};
use crate::error::EkCertificateError;
use crate::leaf::{self, EK_CERTIFICATE};
use crate::model::TpmModel;
use crate::store::EkTrust;

/// Longest chain that messages are made for; webpki accepts no more than six intermediates.
const MAX_CHAIN: usize = 8;

/// anyExtendedKeyUsage, 2.5.29.37.0.
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

impl EkTrust {
    /// Verifies an EK certificate and reads out of it what TPM it is for. `der` is the certificate as it is on record,
    /// at most 8192 bytes; bytes after it are the padding of the NV index and not looked at. `ek` is the EK that
    /// the registrar has on record.
    ///
    /// What is checked: the chain of signatures to a trust anchor, and at `now` the validity of each certificate in it,
    /// the anchor's included; CA flags, key usages, path lengths and name constraints of the CAs; that the certificate
    /// is no CA's, and that extended key usage and key usage, if there are any, are those of an EK; that it certifies
    /// `ek`.
    ///
    /// # Errors
    /// One [`EkCertificateError`] per check; it names the certificate at fault.
    pub fn verify(&self, der: &[u8], ek: &Public, now: SystemTime) -> Result<TpmModel, EkCertificateError> {
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(EkCertificateError::TooLarge { len: der.len(), limit: MAX_CERTIFICATE_LEN });
        }
        let certificate = Certificate::from_padded(der)?;
        leaf::check_purposes(&certificate)?;
        self.verify_chain(&certificate, now)?;
        leaf::check_key(&certificate, ek)?;
        TpmModel::read(&certificate)
    }

    fn verify_chain(&self, certificate: &Certificate<'_>, now: SystemTime) -> Result<(), EkCertificateError> {
        let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO));
        let der = CertificateDer::from(certificate.der);
        let failed = |error: &webpki::Error| EkCertificateError::Chain { detail: error.to_string() };
        let leaf = EndEntityCert::try_from(&der).map_err(|error| failed(&error))?;
        let check_anchor = |path: &VerifiedPath<'_>| self.check_anchor(path, now, time);
        leaf.verify_for_usage(ACCEPTED, &self.anchors, &self.intermediates, time, EkPurpose, None, Some(&check_anchor))
            .map(drop)
            .map_err(|error| self.explain(certificate, now).unwrap_or_else(|| failed(&error)))
    }

    /// What webpki leaves out of a trust anchor.
    fn check_anchor(&self, path: &VerifiedPath<'_>, now: SystemTime, time: UnixTime) -> Result<(), webpki::Error> {
        let position = self.anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
        let root = position.and_then(|position| self.roots.get(position)).ok_or(webpki::Error::UnknownIssuer)?;
        let root = Certificate::from_der(root).map_err(|_| webpki::Error::BadDer)?;
        let unix = |moment: SystemTime| {
            UnixTime::since_unix_epoch(moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
        };
        if now < root.not_before {
            return Err(webpki::Error::CertNotValidYet { time, not_before: unix(root.not_before) });
        }
        if now > root.not_after {
            return Err(webpki::Error::CertExpired { time, not_after: unix(root.not_after) });
        }
        let below = path.intermediate_certificates().count();
        if root.extensions.path_len.is_some_and(|allowed| below > usize::from(allowed)) {
            return Err(webpki::Error::PathLenConstraintViolated);
        }
        Ok(())
    }

    /// Says why a chain that webpki refused cannot be built, in the operator's terms: goes up from the certificate by
    /// names, as far as it goes. For messages only.
    fn explain(&self, leaf: &Certificate<'_>, now: SystemTime) -> Option<EkCertificateError> {
        let cas: Vec<(Certificate<'_>, bool)> = (self.roots.iter().map(|der| (der, true)))
            .chain(self.intermediates.iter().map(|der| (der, false)))
            .filter_map(|(der, anchor)| Some((Certificate::from_der(der).ok()?, anchor)))
            .collect();
        let mut current = leaf;
        for depth in 0..MAX_CHAIN {
            let certificate = || describe(current, depth);
            if let Some(error) = validity(current, now, depth) {
                return Some(error);
            }
            let named: Vec<_> = cas.iter().filter(|(ca, _)| ca.subject == current.issuer).collect();
            if named.is_empty() {
                let issuer = current.issuer_text();
                return Some(EkCertificateError::MissingIssuer { certificate: certificate(), issuer });
            }
            let checked = |&&(ca, _): &&&(Certificate<'_>, bool)| algorithm::is_signed_with(current, &ca.key);
            let signers: Vec<_> = named.iter().filter(|ca| checked(ca) == Ok(true)).collect();
            // Of several with the same name and key, the one that a chain can go through.
            let usable = signers.iter().find(|(ca, _)| validity(ca, now, depth + 1).is_none());
            let Some((signer, is_anchor)) = usable.or(signers.first()) else {
                if named.iter().all(|ca| checked(&ca).is_err()) {
                    let oid = Reader::new(current.algorithm).expect(OID, "signatureAlgorithm").ok()?;
                    let algorithm = der::dotted(oid.content);
                    return Some(EkCertificateError::UnsupportedSignature { certificate: certificate(), algorithm });
                }
                let issuer = current.issuer_text();
                return Some(EkCertificateError::BadSignature { certificate: certificate(), issuer });
            };
            if let Some(purposes) = &signer.extensions.extended_key_usage
                && !purposes.contains(&EK_CERTIFICATE)
                && !purposes.contains(&ANY_PURPOSE)
                && !is_anchor
            {
                return Some(EkCertificateError::CaExtendedKeyUsage { issuer: signer.subject_text() });
            }
            // The CAs between the leaf and the signer.
            if signer.extensions.path_len.is_some_and(|allowed| depth > usize::from(allowed)) {
                return Some(EkCertificateError::PathLength { issuer: signer.subject_text() });
            }
            if *is_anchor {
                return validity(signer, now, depth + 1);
            }
            current = signer;
        }
        None
    }
}

/// A certificate of a chain in a message; the EK certificate itself mostly has no name.
fn describe(certificate: &Certificate<'_>, depth: usize) -> String {
    if depth == 0 {
        "the EK certificate".to_owned()
    } else {
        format!("the CA certificate {}", certificate.subject_text())
    }
}

fn validity(certificate: &Certificate<'_>, now: SystemTime, depth: usize) -> Option<EkCertificateError> {
    let &Certificate { not_before, not_after, .. } = certificate;
    let certificate = describe(certificate, depth);
    if now < not_before {
        Some(EkCertificateError::NotYetValid { certificate, not_before })
    } else if now > not_after {
        Some(EkCertificateError::Expired { certificate, not_after })
    } else {
        None
    }
}

/// The purposes of all certificates of a chain; the EK certificate has had a closer look before.
struct EkPurpose;

impl ExtendedKeyUsageValidator for EkPurpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let accepted = [EK_CERTIFICATE, ANY_PURPOSE].map(KeyPurposeId::new);
        let mut present = Vec::new();
        for purpose in purposes {
            let purpose = purpose?;
            if accepted.contains(&purpose) {
                return Ok(());
            }
            present.push(purpose.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = webpki::KeyUsage::required(EK_CERTIFICATE);
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}
