// SPDX-License-Identifier: Apache-2.0
//! What a TLS failure means, in the words of an operator

use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::certificate::utc;

/// One line that says what is wrong and on which side. Texts hold names and dates of certificates,
/// no secrets.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(verdict) => explain_certificate(verdict),
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::NoCertificatesPresented => "the client presented no certificate, and one is required".to_owned(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the peer does not speak TLS on this port (plain HTTP?)".to_owned()
        }
        Error::PeerIncompatible(reason) => {
            format!("no TLS version or cipher in common with the peer ({reason:?})")
        }
        Error::NoApplicationProtocol => "no application protocol in common".to_owned(),
        other => other.to_string(),
    }
}

/// Looks for a TLS error in an error and its sources, also inside I/O errors, and explains it.
/// None if there is none.
pub fn explain_source(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(tls) = current.downcast_ref::<Error>() {
            return Some(explain(tls));
        }
        if let Some(io) = current.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
        {
            // `source` of an I/O error skips the error it carries.
            let inner: &(dyn StdError + 'static) = inner;
            next = Some(inner);
            continue;
        }
        next = current.source();
    }
    None
}

fn explain_certificate(verdict: &CertificateError) -> String {
    match verdict {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the peer's certificate expired on {}, and it is {} here: renew it, or correct the clock of this host",
            text(*not_after),
            text(*time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the peer's certificate is valid from {} on, and it is {} here: correct the clock of one of the two hosts",
            text(*not_before),
            text(*time)
        ),
        CertificateError::Other(other) => other.0.to_string(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the peer's certificate is not made for this use (extended key usage)".to_owned()
        }
        CertificateError::Revoked => "the peer's certificate is revoked".to_owned(),
        CertificateError::BadEncoding => "the peer's certificate cannot be parsed".to_owned(),
        CertificateError::BadSignature => "the signature made with the peer's certificate is wrong".to_owned(),
        other => format!("the peer's certificate is refused: {other}"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "the peer requires a client certificate, and none is configured here".to_owned()
        }
        AlertDescription::UnknownCA => {
            "the peer refused our certificate: it does not know the authority that issued it".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "the peer refused our certificate: it is expired or not valid yet by the peer's clock".to_owned()
        }
        AlertDescription::CertificateRevoked => "the peer refused our certificate: it is revoked".to_owned(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => {
            format!("the peer refused our certificate (TLS alert {alert:?})")
        }
        AlertDescription::HandshakeFailure => {
            "the peer ended the handshake: a client certificate is missing, or there is no cipher in common".to_owned()
        }
        AlertDescription::ProtocolVersion => "the peer speaks neither TLS 1.2 nor TLS 1.3".to_owned(),
        other => format!("the peer ended the connection with TLS alert {other:?}"),
    }
}

fn text(time: UnixTime) -> String {
    utc(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn alerts_say_whose_fault_it_is() {
        for (alert, text) in [
            (
                AlertDescription::CertificateRequired,
                "the peer requires a client certificate, and none is configured here",
            ),
            (
                AlertDescription::UnknownCA,
                "the peer refused our certificate: it does not know the authority that issued it",
            ),
            (
                AlertDescription::CertificateExpired,
                "the peer refused our certificate: it is expired or not valid yet by the peer's clock",
            ),
            (AlertDescription::CertificateRevoked, "the peer refused our certificate: it is revoked"),
            (AlertDescription::BadCertificate, "the peer refused our certificate (TLS alert BadCertificate)"),
            (
                AlertDescription::HandshakeFailure,
                "the peer ended the handshake: a client certificate is missing, or there is no cipher in common",
            ),
            (AlertDescription::ProtocolVersion, "the peer speaks neither TLS 1.2 nor TLS 1.3"),
            (AlertDescription::InternalError, "the peer ended the connection with TLS alert InternalError"),
        ] {
            assert_eq!(explain(&Error::AlertReceived(alert)), text);
        }
    }

    #[test]
    fn dates_are_shown() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext { time: at(1_800_000_000), not_after: at(1_700_000_000) };
        assert_eq!(
            explain(&expired.into()),
            "the peer's certificate expired on 2023-11-14T22:13:20Z, and it is 2027-01-15T08:00:00Z here: renew it, or \
             correct the clock of this host"
        );
        let early = CertificateError::NotValidYetContext { time: at(1_700_000_000), not_before: at(1_800_000_000) };
        assert_eq!(
            explain(&early.into()),
            "the peer's certificate is valid from 2027-01-15T08:00:00Z on, and it is 2023-11-14T22:13:20Z here: correct \
             the clock of one of the two hosts"
        );
    }

    #[test]
    fn finds_the_tls_error_inside_others() {
        let tls = Error::AlertReceived(AlertDescription::UnknownCA);
        let inner = io::Error::new(io::ErrorKind::InvalidData, tls);
        let outer = io::Error::other(inner);
        assert_eq!(
            explain_source(&outer).unwrap(),
            "the peer refused our certificate: it does not know the authority that issued it"
        );
        assert_eq!(explain_source(&io::Error::from_raw_os_error(111)), None);
    }

    #[test]
    fn plain_http_is_recognised() {
        assert_eq!(
            explain(&Error::InvalidMessage(InvalidMessage::InvalidContentType)),
            "the peer does not speak TLS on this port (plain HTTP?)"
        );
    }
}
