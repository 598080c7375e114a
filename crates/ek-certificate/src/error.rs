// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with a store of CA certificates, and with an EK certificate.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::certificate::utc;

/// Bytes are not an X.509 certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate in DER: {what} is malformed")]
pub struct Malformed {
    /// The field of RFC 5280 that could not be read.
    pub(crate) what: &'static str,
}

/// A store of CA certificates that cannot be used: the operator's to mend. Every text names the file and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EkTrustError {
    /// The file or folder is missing or not readable.
    #[error("cannot read {}: {source}: check the path, and that this user may read it", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The path is a socket, a device or the like.
    #[error("{} is neither a file nor a folder: name a file with CA certificates of TPM manufacturers, or a folder of such files", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The folder has too many files.
    #[error("the folder {} has more than {limit} files: keep the CA certificates of TPM manufacturers in a folder of their own", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The largest accepted number.
        limit: usize,
    },
    /// A file is larger than any such file.
    #[error("{} is larger than {limit} bytes: this is not a file of CA certificates", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest accepted size in bytes.
        limit: u64,
    },
    /// There are too many certificates.
    #[error("{} has more than {limit} certificates: keep those of the manufacturers of your TPMs only", path.display())]
    TooManyCertificates {
        /// The configured file or folder.
        path: PathBuf,
        /// The largest accepted number.
        limit: usize,
    },
    /// A file has no certificate in it.
    #[error("{} holds no certificate: expected one or more in PEM, or one in DER, found {found}: correct the file or take it away", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What the file holds instead.
        found: &'static str,
    },
    /// The PEM text of a file is damaged.
    #[error("{} is damaged PEM text: {detail}: write it anew from its source", path.display())]
    BadPem {
        /// The file.
        path: PathBuf,
        /// What the PEM reader found.
        detail: String,
    },
    /// A certificate is larger than any real one.
    #[error("certificate {number} in {} has {len} bytes, at most {limit} are accepted", path.display())]
    CertificateTooLarge {
        /// The file.
        path: PathBuf,
        /// Position in the file, from 1.
        number: usize,
        /// Its length in bytes.
        len: usize,
        /// The largest accepted length in bytes.
        limit: usize,
    },
    /// A certificate cannot be parsed.
    #[error("certificate {number} in {} cannot be parsed: {source}: write the file anew from its source", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Position in the file, from 1.
        number: usize,
        /// The field that could not be read.
        source: Malformed,
    },
    /// A certificate may not issue others.
    #[error("certificate {number} in {} ({subject}) is no CA certificate: expected CA:TRUE, and keyCertSign if it has a keyUsage: take it out", path.display())]
    NotACa {
        /// The file.
        path: PathBuf,
        /// Position in the file, from 1.
        number: usize,
        /// Its subject.
        subject: String,
    },
    /// The signature of a root is not its own.
    #[error("certificate {number} in {} ({subject}) names itself as its issuer, but is not signed with its own key: it is damaged or forged: get it anew from its source", path.display())]
    BadSelfSignature {
        /// The file.
        path: PathBuf,
        /// Position in the file, from 1.
        number: usize,
        /// Its subject.
        subject: String,
    },
    /// A certificate restricts its use in a way that is not checked here.
    #[error("certificate {number} in {} ({subject}) has the extension {extension}, which restricts its use in a way that is not checked here: take it out", path.display())]
    UnsupportedExtension {
        /// The file.
        path: PathBuf,
        /// Position in the file, from 1.
        number: usize,
        /// Its subject.
        subject: String,
        /// The object identifier of the extension.
        extension: String,
    },
    /// The folder is empty.
    #[error("the folder {} holds no file: put the CA certificates of your TPMs' manufacturers there, roots and intermediates (hidden files and subfolders are not read)", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// There is no root.
    #[error("{} holds intermediate CA certificates only, so no chain can end there: add the root, the self-signed certificate of the manufacturer", path.display())]
    NoAnchor {
        /// The configured file or folder.
        path: PathBuf,
    },
}

/// An EK certificate that is not believed. Names in the texts are those of the certificates, at most 256 characters
/// each, without control characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EkCertificateError {
    /// More bytes than any EK certificate and its padding have.
    #[error("the EK certificate has {len} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Length in bytes.
        len: usize,
        /// The largest accepted length in bytes.
        limit: usize,
    },
    /// The bytes are not a certificate.
    #[error("the EK certificate cannot be parsed: {0}")]
    Malformed(#[from] Malformed),
    /// A CA certificate in place of an EK certificate.
    #[error(
        "the EK certificate is a CA certificate: the registrar has another certificate on record than the TPM's own"
    )]
    Ca,
    /// The certificate is for other purposes.
    #[error(
        "the EK certificate is for other purposes: its extended key usage is {found}, expected 2.23.133.8.1 (tcg-kp-EKCertificate)"
    )]
    ExtendedKeyUsage {
        /// The object identifiers found, or "empty".
        found: String,
    },
    /// The key may not decrypt.
    #[error(
        "the EK certificate is for other purposes: its key usage has neither keyEncipherment nor keyAgreement, or has keyCertSign"
    )]
    KeyUsage,
    /// The certificate is another key's.
    #[error(
        "the EK certificate certifies another key than the EK on record: the host's registration mixes two TPMs, or was tampered with"
    )]
    WrongKey,
    /// The CA that should be next in the chain is not in the store.
    #[error("the issuer of {certificate} is not among the trusted CA certificates: add the certificate of {issuer}")]
    MissingIssuer {
        /// Which certificate of the chain.
        certificate: String,
        /// The missing CA's name.
        issuer: String,
    },
    /// The chain's signature does not verify.
    #[error(
        "the signature of {certificate} does not verify with the key of {issuer}: it is forged or damaged, or the store has another CA of that name"
    )]
    BadSignature {
        /// Which certificate of the chain.
        certificate: String,
        /// The CA that it names.
        issuer: String,
    },
    /// The chain has a signature that is not verified here.
    #[error(
        "{certificate} is signed with algorithm {algorithm}, which is not accepted: RSA of 2048 to 8192 bits and ECDSA on P-256, P-384 and P-521 are, with SHA-256, SHA-384 or SHA-512"
    )]
    UnsupportedSignature {
        /// Which certificate of the chain.
        certificate: String,
        /// The object identifier of the signature algorithm.
        algorithm: String,
    },
    /// A certificate of the chain is no longer valid.
    #[error("{certificate} expired at {}", utc(*not_after))]
    Expired {
        /// Which certificate of the chain.
        certificate: String,
        /// Its last moment of validity.
        not_after: SystemTime,
    },
    /// A certificate of the chain is not valid yet.
    #[error("{certificate} is not valid before {}: check this server's clock", utc(*not_before))]
    NotYetValid {
        /// Which certificate of the chain.
        certificate: String,
        /// Its first moment of validity.
        not_before: SystemTime,
    },
    /// A CA of the chain is for other purposes.
    #[error(
        "the CA certificate {issuer} is for other purposes: its extended key usage lacks 2.23.133.8.1 (tcg-kp-EKCertificate)"
    )]
    CaExtendedKeyUsage {
        /// The CA.
        issuer: String,
    },
    /// There are more CAs in the chain than one of them allows.
    #[error("the chain of the EK certificate is longer than the path length of {issuer} allows")]
    PathLength {
        /// The CA that says so.
        issuer: String,
    },
    /// The CAs of the store lead to no trust anchor in at most eight steps.
    #[error(
        "the chain of the EK certificate does not end at a root within 8 CA certificates: check the trusted CA certificates"
    )]
    Endless,
    /// The certificate has a critical extension that is not known here.
    #[error("the EK certificate has the critical extension {extension}, which is not known")]
    UnsupportedExtension {
        /// The object identifier of the extension.
        extension: String,
    },
    /// The certificate does not name its TPM.
    #[error("the EK certificate does not name its TPM: there is no {attribute} in its subjectAltName")]
    NoModel {
        /// The missing attribute.
        attribute: &'static str,
    },
    /// An attribute that names the TPM cannot be used.
    #[error("the EK certificate's {attribute} cannot be used: {problem}")]
    BadModel {
        /// The attribute.
        attribute: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}
