// SPDX-License-Identifier: Apache-2.0
//! When the server certificate has to be renewed, and which agent id it was made for.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use keylime_api::AgentId;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long before the end there are warnings, but for certificates of less than three times that.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);
/// id-at-commonName (RFC 5280, appendix A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The certificate that is served until the next start.
pub(crate) struct Renewal {
    path: PathBuf,
    soon: SystemTime,
    end: SystemTime,
    /// The end, as text, UTC.
    end_text: String,
    /// The agent id in a self-made one.
    made_for: Option<AgentId>,
}

impl Renewal {
    /// Of the first certificate (DER) in this file; none for what cannot be parsed, which TLS refuses with its reason.
    pub(crate) fn new(path: &Path, leaf: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(leaf).ok()?.tbs_certificate;
        let validity = certificate.validity;
        let (begin, end) = (validity.not_before.to_system_time(), validity.not_after.to_system_time());
        let lifetime = end.duration_since(begin).unwrap_or_default();
        let made_for = (certificate.issuer == certificate.subject)
            .then(|| certificate.subject.0.iter().flat_map(|name| name.0.iter()).find(|part| part.oid == COMMON_NAME));
        let made_for = made_for.flatten().and_then(|part| std::str::from_utf8(part.value.value()).ok()?.parse().ok());
        let end_text = validity.not_after.to_date_time().to_string();
        Some(Self { path: path.to_owned(), soon: end - SOON.min(lifetime / 3), end, end_text, made_for })
    }

    /// Warns at once and then every day, as long as there is something to warn of. Does not end.
    pub(crate) async fn watch(&self) {
        loop {
            if let Some(warning) = self.warning(SystemTime::now()) {
                tracing::warn!("{warning}");
            }
            tokio::time::sleep(DAY).await;
        }
    }

    fn warning(&self, now: SystemTime) -> Option<String> {
        if now < self.soon {
            return None;
        }
        let (path, end) = (self.path.display(), &self.end_text);
        let state = if now < self.end {
            format!("ends at {end}, and then the verifier refuses this host")
        } else {
            format!("ended at {end}: the verifier refuses this host")
        };
        let remedy = match &self.made_for {
            Some(id) => format!(
                "remove the file, start the agent again, and run `keylime_tenant -c update -u {id}` with what the host was \
                 added with"
            ),
            None => "put its successor into the file and start the agent again".to_owned(),
        };
        Some(format!("the server certificate {path} {state}. To renew it, {remedy}"))
    }

    /// What to say if the host has had another agent id.
    pub(crate) fn other_id(&self, id: &AgentId) -> Option<String> {
        let former = self.made_for.as_ref().filter(|former| *former != id)?;
        let restore = match uuid::Uuid::parse_str(former.as_str()) {
            Ok(_) => format!("set uuid = \"{former}\""),
            Err(_) => "put the former value back".to_owned(),
        };
        Some(format!(
            "option 'uuid': the agent id is {id} now, and the server certificate {} was made for {former}. If the host is \
             enrolled as that, {restore}; if the change is meant, remove the certificate, and another is made",
            self.path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use test_support::ca::{LeafSpec, TestCa};

    use super::*;
    use crate::config::{Host, KeyFile};

    const ID: &str = "d432fbb3-d2f1-4a97-9ef7-75bd81c00001";

    fn self_made(dir: &Path, id: &str) -> (Renewal, PathBuf) {
        let key = KeyFile { path: dir.join(format!("{id}.key")), password: Default::default() };
        let path = dir.join(id);
        let host = Host::Address("127.0.0.1".parse().unwrap());
        let made = crate::server_certificate::load_or_create(&key, &path, &id.parse().unwrap(), &host).unwrap();
        (Renewal::new(&path, &made.leaf).unwrap(), path)
    }

    #[test]
    fn the_end_is_told_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let (own, path) = self_made(dir.path(), ID);
        let shown = path.display();
        let (end, day) = (&own.end_text, DAY);
        let begin = format!("the server certificate {shown} ");
        let renew = format!(
            ". To renew it, remove the file, start the agent again, and run `keylime_tenant -c update -u {ID}` with what the \
             host was added with"
        );
        for (now, expected) in [
            (own.end - 31 * day, None),
            (own.end - 29 * day, Some(format!("ends at {end}, and then the verifier refuses this host{renew}"))),
            (own.end + day, Some(format!("ended at {end}: the verifier refuses this host{renew}"))),
        ] {
            assert_eq!(own.warning(now), expected.map(|text| format!("{begin}{text}")));
        }
        let issued = Renewal { made_for: None, ..own };
        let text = format!(
            "{begin}ends at {}, and then the verifier refuses this host. To renew it, put its successor into the file and \
             start the agent again",
            issued.end_text
        );
        assert_eq!(issued.warning(issued.end - day), Some(text));
        // A week's certificate begins without a warning.
        let week = Renewal { soon: issued.end - (7 * day) / 3, ..issued };
        assert_eq!(week.warning(week.end - 6 * day), None);
    }

    #[test]
    fn another_id_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let hash = "0".repeat(64);
        for (former, restore) in [(ID, format!("set uuid = \"{ID}\"")), (&hash, "put the former value back".to_owned())]
        {
            let (own, path) = self_made(dir.path(), former);
            assert_eq!(own.other_id(&former.parse().unwrap()), None);
            let text = format!(
                "option 'uuid': the agent id is other now, and the server certificate {} was made for {former}. If the host \
                 is enrolled as that, {restore}; if the change is meant, remove the certificate, and another is made",
                path.display()
            );
            assert_eq!(own.other_id(&"other".parse().unwrap()), Some(text));
        }
        // An issued one says nothing of the id.
        let leaf = TestCa::root("ca").unwrap().issue(&LeafSpec::new(ID)).unwrap();
        let issued = Renewal::new(Path::new("server-cert.crt"), &leaf.cert_der).unwrap();
        assert_eq!(issued.other_id(&"other".parse().unwrap()), None);
        assert!(Renewal::new(Path::new("server-cert.crt"), b"no certificate").is_none());
    }
}
