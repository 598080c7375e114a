// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with our own TLS files and settings

use std::fmt;
use std::path::PathBuf;

/// The use a file is configured for, as named in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// Certificates of the authorities (or the very certificates) that peers are trusted by.
    Ca,
    /// Our own certificate, with the intermediates that go with it.
    Certificate,
    /// Our own private key.
    Key,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "CA file",
            Self::Certificate => "certificate file",
            Self::Key => "private key file",
        })
    }
}

/// A TLS file or setting of ours that cannot be used. Every text names the file and the remedy;
/// none holds key material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file is missing or not readable.
    #[error("cannot read the {kind} {}: {source}: check the path, and that this user may read it", path.display())]
    Read {
        /// What the file is for.
        kind: FileKind,
        /// The configured path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is far larger than any such file.
    #[error("the {kind} {} is larger than {limit} bytes: this is not a PEM file of that use", path.display())]
    TooLarge {
        /// What the file is for.
        kind: FileKind,
        /// The configured path.
        path: PathBuf,
        /// Largest size read, in bytes.
        limit: u64,
    },
    /// The file has no certificate in it.
    #[error("the {kind} {} holds no certificate: expected PEM text with a line -----BEGIN CERTIFICATE-----, found {found}", path.display())]
    NoCertificate {
        /// What the file is for.
        kind: FileKind,
        /// The configured path.
        path: PathBuf,
        /// What the file holds instead.
        found: &'static str,
    },
    /// The file has no private key in it.
    #[error("the private key file {} holds no private key: expected PEM text with a line -----BEGIN PRIVATE KEY-----, found {found}", path.display())]
    NoKey {
        /// The configured path.
        path: PathBuf,
        /// What the file holds instead.
        found: &'static str,
    },
    /// The PEM text is damaged.
    #[error("the {kind} {} is damaged PEM text: {detail}: write it anew from its source", path.display())]
    BadPem {
        /// What the file is for.
        kind: FileKind,
        /// The configured path.
        path: PathBuf,
        /// What the PEM reader found.
        detail: String,
    },
    /// A certificate in the file does not parse.
    #[error("certificate {number} in the {kind} {} cannot be parsed: {source}: write the file anew from its source", path.display())]
    BadCertificate {
        /// What the file is for.
        kind: FileKind,
        /// The configured path.
        path: PathBuf,
        /// Position in the file, from 1.
        number: usize,
        /// What the parser found.
        source: crate::InvalidCertificate,
    },
    /// The files name no authority that could have issued a client certificate.
    #[error(
        "there is no CA certificate in {place}: expected one or more certificates with CA:TRUE; name the file with the issuer of the clients' certificates"
    )]
    NoAuthority {
        /// The files, as one text.
        place: String,
    },
    /// No file is configured where at least one is needed.
    #[error("no CA file is configured: name the file with the certificates that peers are trusted by")]
    NoFiles,
    /// The system has no usable trusted certificates.
    #[error(
        "the system's trusted certificates cannot be used: {detail}: install the ca-certificates package, or configure a CA file"
    )]
    SystemRoots {
        /// The first problem met.
        detail: String,
    },
    /// The key is encrypted and there is no password for it.
    #[error("the private key in {} is encrypted and no password is configured: store it unencrypted with mode 0600, or configure its password where there is an option for it", path.display())]
    PasswordMissing {
        /// The configured path.
        path: PathBuf,
    },
    /// The key is encrypted with another password.
    #[error("the private key in {} cannot be decrypted with the configured password: configure the one that it was encrypted with", path.display())]
    WrongPassword {
        /// The configured path.
        path: PathBuf,
    },
    /// The key is encrypted in a way that is not supported.
    #[error("the private key in {} is encrypted in a way that is not supported: convert it with: openssl pkcs8 -topk8 -v2 aes-256-cbc", path.display())]
    UnsupportedEncryption {
        /// The configured path.
        path: PathBuf,
    },
    /// The key's type or size cannot be used.
    #[error("the private key in {} cannot be used for TLS: {detail}: use RSA of 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519", path.display())]
    UnsupportedKey {
        /// The configured path.
        path: PathBuf,
        /// What the cryptography library said.
        detail: String,
    },
    /// The key belongs to another certificate.
    #[error("the private key in {} does not belong to the certificate in {}: after a renewal both files must be replaced together", key.display(), cert.display())]
    KeyMismatch {
        /// Path of the key.
        key: PathBuf,
        /// Path of the certificate.
        cert: PathBuf,
    },
    /// The certificate cannot be used by the TLS library.
    #[error("the certificate in {} cannot be used for TLS: {source}", path.display())]
    UnusableCertificate {
        /// The configured path.
        path: PathBuf,
        /// The TLS library's reason.
        source: rustls::Error,
    },
    /// The name that servers should be checked against is no host name or address.
    #[error(
        "{name:?} is neither a host name nor an IP address (it goes without https:// and port) that a certificate could be checked against"
    )]
    BadServerName {
        /// The configured name.
        name: String,
    },
    /// A key could not be encrypted or encoded for storing.
    #[error("the private key cannot be encoded: {detail}")]
    KeyEncoding {
        /// What the encoder said.
        detail: String,
    },
    /// The TLS library refused the settings.
    #[error("the TLS library refuses the settings")]
    Settings {
        /// The TLS library's reason.
        #[source]
        source: rustls::Error,
    },
}

/// The input that a [`TlsError`] is about, so that a caller can name its option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// The CA files, or the system's trusted certificates.
    Ca,
    /// The file with our certificate.
    Certificate,
    /// The file with our private key, its password, or a key that is not the certificate's.
    Key,
    /// The name that servers are checked against.
    ServerName,
    /// Nothing that is configured here.
    Other,
}

impl TlsError {
    /// The input to put right.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Read { kind, .. }
            | Self::TooLarge { kind, .. }
            | Self::NoCertificate { kind, .. }
            | Self::BadPem { kind, .. }
            | Self::BadCertificate { kind, .. } => match kind {
                FileKind::Ca => Subject::Ca,
                FileKind::Certificate => Subject::Certificate,
                FileKind::Key => Subject::Key,
            },
            Self::NoAuthority { .. } | Self::NoFiles | Self::SystemRoots { .. } => Subject::Ca,
            Self::UnusableCertificate { .. } => Subject::Certificate,
            Self::NoKey { .. }
            | Self::PasswordMissing { .. }
            | Self::WrongPassword { .. }
            | Self::UnsupportedEncryption { .. }
            | Self::UnsupportedKey { .. }
            | Self::KeyMismatch { .. } => Subject::Key,
            Self::BadServerName { .. } => Subject::ServerName,
            Self::KeyEncoding { .. } | Self::Settings { .. } => Subject::Other,
        }
    }
}

/// Something the operator should change although TLS works; the caller logs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsWarning {
    /// Any user of the host can read or change the key.
    #[error("the private key file {} is open to every user of this host (mode {mode:04o}): set its mode to 0600", path.display())]
    KeyOpenToAll {
        /// The configured path.
        path: PathBuf,
        /// Permission bits of the file.
        mode: u32,
    },
    /// Clients refuse our own certificate.
    #[error("our certificate in {} is not for servers (extended key usage): have it issued with server authentication, peers refuse it", path.display())]
    NotForServers {
        /// The configured path.
        path: PathBuf,
    },
    /// Our own certificate is a client's, too.
    #[error("our certificate in {} can be used by a client, too, and whoever trusts its issuer may take this host for one: have it issued with the extended key usage server authentication only", path.display())]
    ForClientsToo {
        /// The configured path.
        path: PathBuf,
    },
    /// Our own certificate is past its end.
    #[error("our certificate in {} expired on {not_after}: renew it, peers refuse it", path.display())]
    Expired {
        /// The configured path.
        path: PathBuf,
        /// Its end, UTC.
        not_after: String,
    },
    /// A certificate that clients are trusted by is past its end.
    #[error("the certificate \"{subject}\" in the CA file {} was valid from {not_before} to {not_after}: no client that it stands for is accepted any more; replace it by its successor, or take it out", path.display())]
    TrustExpired {
        /// The configured path.
        path: PathBuf,
        /// The certificate's subject.
        subject: String,
        /// Its begin, UTC.
        not_before: String,
        /// Its end, UTC.
        not_after: String,
    },
    /// A certificate that clients are trusted by ends soon.
    #[error("the certificate \"{subject}\" in the CA file {} is valid from {not_before} to {not_after}, which is soon: no client that it stands for is accepted then; add its successor", path.display())]
    TrustExpiresSoon {
        /// The configured path.
        path: PathBuf,
        /// The certificate's subject.
        subject: String,
        /// Its begin, UTC.
        not_before: String,
        /// Its end, UTC.
        not_after: String,
    },
    /// A certificate that clients are trusted by is not valid yet.
    #[error("the certificate \"{subject}\" in the CA file {} is valid from {not_before} to {not_after}: no client that it stands for is accepted before; check this host's clock", path.display())]
    TrustNotValidYet {
        /// The configured path.
        path: PathBuf,
        /// The certificate's subject.
        subject: String,
        /// Its begin, UTC.
        not_before: String,
        /// Its end, UTC.
        not_after: String,
    },
    /// Our own certificate is not valid yet.
    #[error("our certificate in {} is not valid before {not_before}: check this host's clock", path.display())]
    NotValidYet {
        /// The configured path.
        path: PathBuf,
        /// Its begin, UTC.
        not_before: String,
    },
}
