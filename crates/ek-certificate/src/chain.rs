// SPDX-License-Identifier: Apache-2.0
//! The chain from an EK certificate to a trust anchor (RFC 5280 "Certification Path Validation").

use std::time::SystemTime;

use tpm_wire::public::Public;

use crate::algorithm;
use crate::certificate::{Certificate, MAX_CERTIFICATE_LEN};
use crate::der::{self, OID, Reader};
use crate::error::EkCertificateError;
use crate::leaf;
use crate::model::TpmModel;
use crate::store::{Ca, EkTrust};

/// Most CA certificates of a chain. Manufacturers have two to four.
const MAX_CAS: usize = 8;

/// Who signed a certificate, among the CAs of the store.
#[derive(Debug)]
pub(crate) enum Issuers {
    /// The CAs of the issuer's name whose key verifies the signature, as positions in the store: at least one.
    Found(Vec<usize>),
    /// No CA has the issuer's name.
    NoneOfThatName,
    /// No CA of the issuer's name made the signature.
    BadSignature,
    /// The signature's algorithm, an object identifier, is not accepted for the keys of the CAs of that name.
    Unsupported(String),
}

impl Issuers {
    /// Looks for the CAs that signed a certificate; `leave_out` is its own position if it is of the store.
    pub(crate) fn of(certificate: &Certificate<'_>, cas: &[Ca], leave_out: Option<usize>) -> Self {
        let named = cas.iter().enumerate().filter(|(i, ca)| ca.subject == certificate.issuer && Some(*i) != leave_out);
        let checked: Vec<_> = named
            .map(|(i, ca)| (i, ca.key().map_or(Ok(false), |key| algorithm::is_signed_with(certificate, &key))))
            .collect();
        let signers: Vec<usize> = checked.iter().filter(|(_, signed)| *signed == Ok(true)).map(|(i, _)| *i).collect();
        if checked.is_empty() {
            Self::NoneOfThatName
        } else if !signers.is_empty() {
            Self::Found(signers)
        } else if checked.iter().all(|(_, signed)| signed.is_err()) {
            let oid = Reader::new(certificate.algorithm).expect(OID, "signatureAlgorithm");
            Self::Unsupported(oid.map_or_else(|_| "unknown".to_owned(), |oid| der::dotted(oid.content)))
        } else {
            Self::BadSignature
        }
    }
}

/// Why there is no chain through some CA, and how many CAs there were up to it: the reason that is furthest up is the
/// one to tell.
type NoChain = (usize, EkCertificateError);

impl EkTrust {
    /// Verifies an EK certificate and reads out of it what TPM it is for. `der` is the certificate as it is on record,
    /// at most 8192 bytes; bytes after it are the padding of the NV index and not looked at. `ek` is the EK that
    /// the registrar has on record.
    ///
    /// What is checked: the chain of signatures to a trust anchor, and at `now` the validity of each certificate in it,
    /// the anchor's included; CA flags, key usages and path lengths of the CAs; that the certificate is no CA's, and
    /// that extended key usage and key usage, if there are any, are those of an EK; that it certifies `ek`. Revocation
    /// is not checked.
    ///
    /// # Errors
    /// One [`EkCertificateError`] per check; it names the certificate at fault.
    pub fn verify(&self, der: &[u8], ek: &Public, now: SystemTime) -> Result<TpmModel, EkCertificateError> {
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(EkCertificateError::TooLarge { len: der.len(), limit: MAX_CERTIFICATE_LEN });
        }
        let certificate = Certificate::from_padded(der)?;
        leaf::check_purposes(&certificate)?;
        let name = || "the EK certificate".to_owned();
        check_validity(certificate.not_before, certificate.not_after, now, name)?;
        // The key before the chain: it takes no arithmetic.
        leaf::check_key(&certificate, ek)?;
        let issuers = Issuers::of(&certificate, &self.cas, None);
        self.climb(&issuers, name, || certificate.issuer_text(), &mut Vec::new(), now).map_err(|(_, error)| error)?;
        TpmModel::read(&certificate)
    }

    /// Whether a chain, apart from dates and path lengths, leads from here to an anchor.
    pub(crate) fn reaches_anchor(&self, ca: usize) -> bool {
        let mut seen = Vec::new();
        let mut next = vec![ca];
        while let Some(position) = next.pop() {
            let Some(ca) = self.cas.get(position).filter(|_| !seen.contains(&position)) else { continue };
            if ca.is_anchor {
                return true;
            }
            seen.push(position);
            if let Issuers::Found(issuers) = &ca.issuers {
                next.extend(issuers);
            }
        }
        false
    }

    /// Goes from a certificate, given by its issuers, up to an anchor. `path` holds the CAs below.
    fn climb(
        &self,
        issuers: &Issuers,
        certificate: impl Fn() -> String,
        issuer: impl Fn() -> String,
        path: &mut Vec<usize>,
        now: SystemTime,
    ) -> Result<(), NoChain> {
        let found = match issuers {
            Issuers::Found(found) => found,
            Issuers::NoneOfThatName => {
                let error = EkCertificateError::MissingIssuer { certificate: certificate(), issuer: issuer() };
                return Err((path.len(), error));
            }
            Issuers::BadSignature => {
                let error = EkCertificateError::BadSignature { certificate: certificate(), issuer: issuer() };
                return Err((path.len(), error));
            }
            Issuers::Unsupported(algorithm) => {
                let (certificate, algorithm) = (certificate(), algorithm.clone());
                return Err((path.len(), EkCertificateError::UnsupportedSignature { certificate, algorithm }));
            }
        };
        let mut worst: NoChain = (0, EkCertificateError::Endless);
        for position in found {
            // A way that comes back to where it was leads nowhere else.
            if path.contains(position) || path.len() >= MAX_CAS {
                continue;
            }
            match self.through(*position, path, now) {
                Ok(()) => return Ok(()),
                Err(reason) if reason.0 > worst.0 || worst.1 == EkCertificateError::Endless => worst = reason,
                Err(_) => {}
            }
        }
        Err(worst)
    }

    /// Goes on from a CA whose signature is below. The intermediates below it are those of `path`.
    fn through(&self, position: usize, path: &mut Vec<usize>, now: SystemTime) -> Result<(), NoChain> {
        let Some(ca) = self.cas.get(position) else { return Err((0, EkCertificateError::Endless)) };
        let name = || format!("the CA certificate {}", ca.subject_text);
        let fail = |error| (path.len() + 1, error);
        check_validity(ca.not_before, ca.not_after, now, name).map_err(fail)?;
        if !ca.is_anchor && !ca.for_ek {
            return Err(fail(EkCertificateError::CaExtendedKeyUsage { issuer: ca.subject_text.clone() }));
        }
        if ca.path_len.is_some_and(|allowed| path.len() > usize::from(allowed)) {
            return Err(fail(EkCertificateError::PathLength { issuer: ca.subject_text.clone() }));
        }
        if ca.is_anchor {
            return Ok(());
        }
        path.push(position);
        let result = self.climb(&ca.issuers, name, || ca.issuer_text.clone(), path, now);
        path.pop();
        result
    }
}

fn check_validity(
    not_before: SystemTime,
    not_after: SystemTime,
    now: SystemTime,
    name: impl Fn() -> String,
) -> Result<(), EkCertificateError> {
    if now < not_before {
        Err(EkCertificateError::NotYetValid { certificate: name(), not_before })
    } else if now > not_after {
        Err(EkCertificateError::Expired { certificate: name(), not_after })
    } else {
        Ok(())
    }
}
