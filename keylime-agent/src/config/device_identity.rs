// SPDX-License-Identifier: Apache-2.0
//! The options of IAK and IDevID.

use std::path::{Path, PathBuf};

use service::Secret;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm};

use super::reader::Reader;
use super::{Shown, values};

/// IAK and IDevID, with which the host is registered (`enable_iak_idevid`).
#[derive(Debug, Clone)]
pub struct DeviceIdentity {
    /// `iak_idevid_template`: type and nameAlg of the keys that have no handle.
    pub template: Template,
    /// The options `iak_*`.
    pub iak: DeviceKey,
    /// The options `idevid_*`.
    pub idevid: DeviceKey,
}

/// The template of IAK and IDevID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// That which makes the keys that the certificates are for; H-1 without certificates.
    Detect,
    /// Keys of this type and nameAlg.
    Given(KeyAlgorithm, HashAlgorithm),
}

/// IAK or IDevID.
#[derive(Debug, Clone)]
pub struct DeviceKey {
    /// `iak_handle`, `idevid_handle`: the persistent key to use instead of one made from the template.
    pub handle: Option<u32>,
    /// `iak_password`, `idevid_password`: authorization of the key at the handle.
    pub auth: Secret,
    /// `iak_cert`, `idevid_cert`, if it is not empty.
    pub certificate: Option<PathBuf>,
}

/// What `iak_idevid_template` says.
enum Named {
    Detect,
    Given(KeyAlgorithm, HashAlgorithm),
    /// By the two options beside it.
    Manual,
}

fn template(text: &str) -> Result<Named, String> {
    use {HashAlgorithm as H, KeyAlgorithm as K};
    Ok(match text.trim() {
        "" | "detect" | "default" => Named::Detect,
        "H-1" => Named::Given(K::Rsa2048, H::Sha256),
        "H-2" => Named::Given(K::Ecc256, H::Sha256),
        "H-3" => Named::Given(K::Ecc384, H::Sha384),
        "H-4" => Named::Given(K::Ecc521, H::Sha512),
        "manual" => Named::Manual,
        other => return Err(format!("expected 'detect', 'H-1', 'H-2', 'H-3', 'H-4' or 'manual', found '{other}'")),
    })
}

fn is_rsa(text: &str) -> Result<bool, String> {
    match text.trim() {
        "" | "rsa" => Ok(true),
        "ecc" => Ok(false),
        other => Err(format!("expected 'rsa' or 'ecc', found '{other}'")),
    }
}

fn name_alg(text: &str) -> Result<HashAlgorithm, String> {
    match text.trim().parse() {
        _ if text.trim().is_empty() => Ok(HashAlgorithm::Sha256),
        Ok(hash @ (HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)) => Ok(hash),
        _ => Err(format!("expected 'sha256', 'sha384' or 'sha512', found '{text}'")),
    }
}

/// The key type that goes with this nameAlg.
fn manual(is_rsa: bool, name_alg: HashAlgorithm) -> KeyAlgorithm {
    match (is_rsa, name_alg) {
        (true, HashAlgorithm::Sha384) => KeyAlgorithm::Rsa3072,
        (true, HashAlgorithm::Sha512) => KeyAlgorithm::Rsa4096,
        (true, _) => KeyAlgorithm::Rsa2048,
        (false, HashAlgorithm::Sha384) => KeyAlgorithm::Ecc384,
        (false, HashAlgorithm::Sha512) => KeyAlgorithm::Ecc521,
        (false, _) => KeyAlgorithm::Ecc256,
    }
}

impl Reader<'_> {
    /// The options, if the feature is on. They are checked in any case.
    pub(super) fn device_identity(&mut self, keylime_dir: &Path) -> Option<DeviceIdentity> {
        let is_on = self.boolean("enable_iak_idevid", false);
        let shown = self.options.text("iak_idevid_template").unwrap_or_else(|| "detect".to_owned());
        let named = self.parsed("iak_idevid_template", Named::Detect, template, |_| shown);
        let show_family = |is_rsa: &bool| if *is_rsa { "rsa" } else { "ecc" }.to_owned();
        let is_rsa = self.parsed("iak_idevid_asymmetric_alg", true, is_rsa, show_family);
        let show_hash = |hash: &HashAlgorithm| hash.name().to_owned();
        let name_alg = self.parsed("iak_idevid_name_alg", HashAlgorithm::Sha256, name_alg, show_hash);
        let template = match named {
            Named::Detect => Template::Detect,
            Named::Given(key, hash) => Template::Given(key, hash),
            Named::Manual => Template::Given(manual(is_rsa, name_alg), name_alg),
        };
        let iak = self.device_key(keylime_dir, ["iak_handle", "iak_password", "iak_cert"], "iak-cert.crt");
        let options = ["idevid_handle", "idevid_password", "idevid_cert"];
        let idevid = self.device_key(keylime_dir, options, "idevid-cert.crt");
        is_on.then_some(DeviceIdentity { template, iak, idevid })
    }

    fn device_key(&mut self, keylime_dir: &Path, options: [&'static str; 3], default: &str) -> DeviceKey {
        let [handle, password, certificate] = options;
        let show = |handle: &Option<u32>| handle.map_or_else(String::new, |handle| format!("{handle:#010x}"));
        let handle = self.parsed(handle, None, values::optional_handle, show);
        let auth = self.secret(password);
        let auth = values::authorization(auth).unwrap_or_else(|problem| {
            self.options.problem(password, problem);
            Secret::default()
        });
        let written = self.options.text(certificate).unwrap_or_else(|| "default".to_owned());
        // Unlike with other files, nothing means none.
        let path = (!written.is_empty()).then(|| values::path_in(keylime_dir, &written, default));
        let shown = path.as_ref().map_or_else(String::new, |path| path.to_string_lossy().into_owned());
        self.note(certificate, Shown::value(shown), true);
        DeviceKey { handle, auth, certificate: path }
    }
}

#[cfg(test)]
mod tests {
    use service::layered::{Layered, Source};

    use super::*;

    fn read(lines: &str) -> Result<Option<DeviceIdentity>, String> {
        let mut layered = Layered::new();
        let table: toml::Table = toml::from_str(lines).unwrap();
        for (name, value) in table {
            layered.set(&name, value, Source::File("f".into()));
        }
        let mut reader = Reader::new(&layered, Vec::new());
        let read = reader.device_identity(Path::new("/k"));
        let (_, _, problems) = reader.finish();
        problems.map_or(Ok(read), |problems| Err(problems.to_string()))
    }

    #[test]
    fn off_by_default() {
        assert!(read("").unwrap().is_none());
        assert!(read("enable_iak_idevid = \"False\"\niak_handle = \"0x81020000\"").unwrap().is_none());
    }

    #[test]
    fn templates() {
        use {HashAlgorithm as H, KeyAlgorithm as K};
        for (lines, expected) in [
            ("", Template::Detect),
            ("iak_idevid_template = \"default\"", Template::Detect),
            ("iak_idevid_template = \"\"", Template::Detect),
            ("iak_idevid_template = \"H-1\"", Template::Given(K::Rsa2048, H::Sha256)),
            ("iak_idevid_template = \"H-2\"\niak_idevid_name_alg = \"sha512\"", Template::Given(K::Ecc256, H::Sha256)),
            ("iak_idevid_template = \"H-3\"", Template::Given(K::Ecc384, H::Sha384)),
            ("iak_idevid_template = \"H-4\"", Template::Given(K::Ecc521, H::Sha512)),
            ("iak_idevid_template = \"manual\"", Template::Given(K::Rsa2048, H::Sha256)),
            (
                "iak_idevid_template = \"manual\"\niak_idevid_name_alg = \"sha384\"",
                Template::Given(K::Rsa3072, H::Sha384),
            ),
            (
                "iak_idevid_template = \"manual\"\niak_idevid_asymmetric_alg = \"ecc\"\niak_idevid_name_alg = \"sha512\"",
                Template::Given(K::Ecc521, H::Sha512),
            ),
        ] {
            let identity = read(&format!("enable_iak_idevid = true\n{lines}")).unwrap().unwrap();
            assert_eq!(identity.template, expected, "{lines}");
            for key in all_options() {
                assert!(!Template::Given(key.0, key.1).is_impossible(), "{key:?}");
            }
        }
    }

    /// What any combination of the options comes to.
    fn all_options() -> Vec<(KeyAlgorithm, HashAlgorithm)> {
        let hashes = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
        hashes.into_iter().flat_map(|hash| [true, false].map(|is_rsa| (manual(is_rsa, hash), hash))).collect()
    }

    impl Template {
        fn is_impossible(self) -> bool {
            matches!(self, Self::Given(key, hash) if tpm::check_device_key(key, hash).is_err())
        }
    }

    #[test]
    fn handles_passwords_and_certificates() {
        let on = "enable_iak_idevid = true\n";
        let identity = read(on).unwrap().unwrap();
        assert_eq!(identity.iak.certificate.as_deref(), Some(Path::new("/k/iak-cert.crt")));
        assert_eq!(identity.idevid.certificate.as_deref(), Some(Path::new("/k/idevid-cert.crt")));
        assert_eq!((identity.iak.handle, identity.idevid.handle), (None, None));
        let identity = read(&format!(
            "{on}iak_handle = \"0x81020000\"\niak_password = \"hex:0a0b\"\niak_cert = \"\"\nidevid_handle = \
             \"81020001\"\nidevid_password = \"secret\"\nidevid_cert = \"/etc/idevid.pem\""
        ))
        .unwrap()
        .unwrap();
        assert_eq!((identity.iak.handle, identity.idevid.handle), (Some(0x8102_0000), Some(0x8102_0001)));
        assert_eq!((identity.iak.auth.expose(), identity.idevid.auth.expose()), (&[10, 11][..], &b"secret"[..]));
        assert_eq!(identity.iak.certificate, None);
        assert_eq!(identity.idevid.certificate.as_deref(), Some(Path::new("/etc/idevid.pem")));
    }

    #[test]
    fn each_bad_value_has_its_text() {
        for (line, text) in [
            ("iak_idevid_template = \"H-5\"", "expected 'detect', 'H-1', 'H-2', 'H-3', 'H-4' or 'manual', found 'H-5'"),
            ("iak_idevid_asymmetric_alg = \"dsa\"", "expected 'rsa' or 'ecc', found 'dsa'"),
            ("iak_idevid_name_alg = \"sm3_256\"", "expected 'sha256', 'sha384' or 'sha512', found 'sm3_256'"),
            (
                "iak_handle = \"0x01\"",
                "expected nothing or a persistent handle from 0x81000000 to 0x81ffffff, found '0x01'",
            ),
            ("idevid_password = \"hex:1\"", "what follows 'hex:' must be pairs of hexadecimal digits"),
        ] {
            let name = line.split(' ').next().unwrap();
            assert_eq!(read(line).map(drop).unwrap_err(), format!("option '{name}' (f): {text}"));
        }
    }
}
