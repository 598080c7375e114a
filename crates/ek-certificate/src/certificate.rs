// SPDX-License-Identifier: Apache-2.0
//! The fields of an X.509 certificate. Nothing here is verified.

use std::time::SystemTime;

use x509_cert::der::{DateTime, Decode};
use x509_cert::time::Time;

use crate::der::{BIT_STRING, BOOLEAN, INTEGER, OCTET_STRING, OID, Reader, SEQUENCE, boolean, whole_bytes};
use crate::error::Malformed;
use crate::name;

/// The largest accepted certificate in bytes. Real ones have 700 to 2500.
pub(crate) const MAX_CERTIFICATE_LEN: usize = 8192;

/// Most extensions of a certificate. Real ones have five to ten.
const MAX_EXTENSIONS: usize = 32;

const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const CERTIFICATE_POLICIES: &[u8] = &[0x55, 0x1d, 32];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
const INHIBIT_ANY_POLICY: &[u8] = &[0x55, 0x1d, 54];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
const POLICY_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 36];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];

/// What of a certificate (RFC 5280 "Basic Certificate Fields") matters here. Borrows from the DER.
#[derive(Debug)]
pub(crate) struct Certificate<'a> {
    /// The bytes of the certificate, without what follows it.
    pub(crate) der: &'a [u8],
    /// The part that is signed.
    pub(crate) tbs: &'a [u8],
    /// Content of the signature's AlgorithmIdentifier.
    pub(crate) algorithm: &'a [u8],
    /// The signature.
    pub(crate) signature: &'a [u8],
    /// Content of the issuer's Name.
    pub(crate) issuer: &'a [u8],
    /// First moment of validity.
    pub(crate) not_before: SystemTime,
    /// Last moment of validity.
    pub(crate) not_after: SystemTime,
    /// Content of the subject's Name.
    pub(crate) subject: &'a [u8],
    /// Content of the SubjectPublicKeyInfo.
    pub(crate) spki: &'a [u8],
    /// The same, taken apart.
    pub(crate) key: Key<'a>,
    pub(crate) extensions: Extensions<'a>,
}

/// SubjectPublicKeyInfo.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    /// Content of the AlgorithmIdentifier.
    pub(crate) algorithm: &'a [u8],
    /// Content of the BIT STRING: an RSAPublicKey, or a point.
    pub(crate) bits: &'a [u8],
}

/// The extensions that matter here.
#[derive(Debug, Default)]
pub(crate) struct Extensions<'a> {
    /// basicConstraints: CA:TRUE.
    pub(crate) is_ca: bool,
    /// basicConstraints: pathLenConstraint.
    pub(crate) path_len: Option<u8>,
    /// keyUsage: its first byte, most significant bit first; a ninth bit (decipherOnly) is left out.
    pub(crate) key_usage: Option<u8>,
    /// extKeyUsage: the contents of its object identifiers.
    pub(crate) extended_key_usage: Option<Vec<&'a [u8]>>,
    /// subjectAltName: the content of its SEQUENCE.
    pub(crate) alt_names: Option<&'a [u8]>,
    /// subjectKeyIdentifier.
    pub(crate) key_id: Option<&'a [u8]>,
    /// authorityKeyIdentifier: keyIdentifier.
    pub(crate) issuer_key_id: Option<&'a [u8]>,
    /// The object identifier of a critical extension that is not known here.
    pub(crate) unknown_critical: Option<&'a [u8]>,
    /// The object identifier of an extension that restricts what a CA may issue, or under which policies.
    pub(crate) constraint: Option<&'a [u8]>,
    /// Object identifiers seen.
    seen: Vec<&'a [u8]>,
}

/// keyUsage bits within the first byte.
pub(crate) mod key_usage {
    pub(crate) const KEY_ENCIPHERMENT: u8 = 0x20;
    pub(crate) const KEY_AGREEMENT: u8 = 0x08;
    pub(crate) const KEY_CERT_SIGN: u8 = 0x04;
}

impl<'a> Certificate<'a> {
    /// Reads the certificate that `bytes` begin with. What follows it is left out: NV indices have a fixed size.
    pub(crate) fn from_padded(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let whole = Reader::new(bytes).expect(SEQUENCE, "Certificate")?;
        let mut outer = whole.reader();
        let tbs = outer.expect(SEQUENCE, "tbsCertificate")?;
        let algorithm = outer.expect(SEQUENCE, "signatureAlgorithm")?.content;
        let signature = whole_bytes(outer.expect(BIT_STRING, "signatureValue")?.content, "signatureValue")?;
        outer.finish("Certificate")?;

        let mut fields = tbs.reader();
        // Certificates of version 1 lack it, and the extensions too, so they are never those of a CA.
        fields.optional(0xa0, "version")?;
        fields.expect(INTEGER, "serialNumber")?;
        if fields.expect(SEQUENCE, "signature")?.content != algorithm {
            return Err(Malformed { what: "signature" });
        }
        let issuer = fields.expect(SEQUENCE, "issuer")?.content;
        let mut validity = fields.expect(SEQUENCE, "validity")?.reader();
        let not_before = time(&mut validity)?;
        let not_after = time(&mut validity)?;
        validity.finish("validity")?;
        let subject = fields.expect(SEQUENCE, "subject")?.content;
        let spki = fields.expect(SEQUENCE, "subjectPublicKeyInfo")?.content;
        let key = Key::from_spki(spki)?;
        fields.optional(0xa1, "issuerUniqueID")?;
        fields.optional(0xa2, "subjectUniqueID")?;
        let mut extensions = Extensions::default();
        if let Some(tagged) = fields.optional(0xa3, "extensions")? {
            let mut tagged = tagged.reader();
            let mut list = tagged.expect(SEQUENCE, "extensions")?.reader();
            tagged.finish("extensions")?;
            while !list.is_empty() {
                extensions.add(&mut list)?;
            }
        }
        fields.finish("tbsCertificate")?;
        Ok(Self {
            der: whole.whole,
            tbs: tbs.whole,
            algorithm,
            signature,
            issuer,
            not_before,
            not_after,
            subject,
            spki,
            key,
            extensions,
        })
    }

    /// Reads a certificate that nothing follows.
    pub(crate) fn from_der(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let certificate = Self::from_padded(bytes)?;
        if certificate.der.len() == bytes.len() {
            Ok(certificate)
        } else {
            Err(Malformed { what: "end of the certificate" })
        }
    }

    /// The subject as text.
    pub(crate) fn subject_text(&self) -> String {
        name::text(self.subject)
    }

    /// The issuer as text.
    pub(crate) fn issuer_text(&self) -> String {
        name::text(self.issuer)
    }

    /// Names itself as its issuer, and does not name another key of that issuer.
    pub(crate) fn is_self_issued(&self) -> bool {
        let Extensions { key_id, issuer_key_id, .. } = self.extensions;
        self.subject == self.issuer && (key_id.is_none() || issuer_key_id.is_none() || key_id == issuer_key_id)
    }

    /// May issue certificates: CA:TRUE, and keyCertSign if there is a keyUsage.
    pub(crate) fn may_issue(&self) -> bool {
        self.extensions.is_ca && self.extensions.key_usage.is_none_or(|usage| usage & key_usage::KEY_CERT_SIGN != 0)
    }
}

impl<'a> Key<'a> {
    /// Reads the content of a SubjectPublicKeyInfo.
    pub(crate) fn from_spki(content: &'a [u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "subjectPublicKeyInfo";
        let mut reader = Reader::new(content);
        let algorithm = reader.expect(SEQUENCE, WHAT)?.content;
        let bits = whole_bytes(reader.expect(BIT_STRING, WHAT)?.content, WHAT)?;
        reader.finish(WHAT)?;
        Ok(Self { algorithm, bits })
    }
}

impl<'a> Extensions<'a> {
    /// Reads one extension.
    fn add(&mut self, list: &mut Reader<'a>) -> Result<(), Malformed> {
        let mut extension = list.expect(SEQUENCE, "extension")?.reader();
        let id = extension.expect(OID, "extension")?.content;
        let critical = match extension.optional(BOOLEAN, "extension")? {
            Some(critical) => boolean(critical.content, "extension")?,
            None => false,
        };
        let mut value = extension.expect(OCTET_STRING, "extension")?.reader();
        extension.finish("extension")?;
        if self.seen.contains(&id) || self.seen.len() >= MAX_EXTENSIONS {
            return Err(Malformed { what: "extensions" });
        }
        self.seen.push(id);
        match id {
            BASIC_CONSTRAINTS => {
                const WHAT: &str = "basicConstraints";
                let mut fields = value.expect(SEQUENCE, WHAT)?.reader();
                if let Some(ca) = fields.optional(BOOLEAN, WHAT)? {
                    self.is_ca = boolean(ca.content, WHAT)?;
                }
                if let Some(len) = fields.optional(INTEGER, WHAT)? {
                    let &[len @ 0..=0x7f] = len.content else { return Err(Malformed { what: WHAT }) };
                    self.path_len = Some(len);
                }
            }
            KEY_USAGE => {
                let bits = value.expect(BIT_STRING, "keyUsage")?.content;
                self.key_usage = Some(bits.get(1).copied().unwrap_or_default());
            }
            EXTENDED_KEY_USAGE => {
                let mut purposes = value.expect(SEQUENCE, "extKeyUsage")?.reader();
                let mut all = Vec::new();
                while !purposes.is_empty() {
                    all.push(purposes.expect(OID, "extKeyUsage")?.content);
                }
                self.extended_key_usage = Some(all);
            }
            SUBJECT_ALT_NAME => self.alt_names = Some(value.expect(SEQUENCE, "subjectAltName")?.content),
            SUBJECT_KEY_ID => {
                self.key_id = Some(value.expect(OCTET_STRING, "subjectKeyIdentifier")?.content);
            }
            AUTHORITY_KEY_ID => {
                const WHAT: &str = "authorityKeyIdentifier";
                let mut fields = value.expect(SEQUENCE, WHAT)?.reader();
                self.issuer_key_id = fields.optional(0x80, WHAT)?.map(|id| id.content);
            }
            NAME_CONSTRAINTS | POLICY_CONSTRAINTS | INHIBIT_ANY_POLICY => self.constraint = Some(id),
            // Without policyConstraints and inhibitAnyPolicy they restrict nothing (RFC 5280 "Basic Path Validation"),
            // and STMicroelectronics marks them as critical.
            CERTIFICATE_POLICIES => {}
            other if critical => self.unknown_critical = Some(other),
            _ => {}
        }
        Ok(())
    }
}

fn time(reader: &mut Reader<'_>) -> Result<SystemTime, Malformed> {
    let error = Malformed { what: "validity" };
    let time = Time::from_der(reader.any("validity")?.whole).map_err(|_| error)?;
    Ok(time.to_system_time())
}

/// A moment as UTC text such as `2026-08-01T12:00:00Z`.
pub(crate) fn utc(time: SystemTime) -> String {
    DateTime::from_system_time(time).map_or_else(|_| "an impossible date".to_owned(), |time| time.to_string())
}
