// SPDX-License-Identifier: Apache-2.0
//! A host whose maker has certified its IAK and IDevID, and a registrar that asks for them.

use std::path::PathBuf;

use test_support::device_identity::{DeviceCa, DeviceKey};
use test_support::{KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, require};

use super::{Lab, options};

/// The host, the servers and the maker.
pub(crate) struct Device {
    pub(crate) lab: Lab,
    pub(crate) folder: tempfile::TempDir,
    ca: DeviceCa,
}

impl Device {
    /// A TPM, and servers whose certificate store has the maker's CA.
    pub(crate) fn new() -> Option<Self> {
        require::swtpm()?;
        require::keylime()?;
        let folder = tempfile::tempdir().unwrap();
        let ca = DeviceCa::new(folder.path(), "maker").unwrap();
        let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
        let mut ek_ca_certs = tpm.ca_certs.clone();
        ek_ca_certs.push(ca.certificate());
        let overrides = vec![("registrar".to_owned(), "tpm_identity".to_owned(), "iak_idevid".to_owned())];
        let options = KeylimeOptions { ek_ca_certs, overrides, quote_interval: 0.5, ..KeylimeOptions::default() };
        let servers = KeylimeServers::start(&options).unwrap();
        Some(Self { lab: Lab { tpm, servers }, folder, ca })
    }

    /// A file of the maker's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Certificates of both keys as `<name>-iak` and `<name>-idevid`; the keys are stored at these handles, if any.
    pub(crate) fn certified(&self, name: &str, form: &str, key: [&str; 2], stored: Option<[(&str, &str); 2]>) {
        let tpm = &self.lab.tpm;
        for (index, (kind, end)) in [(DeviceKey::Iak, "iak"), (DeviceKey::IDevId, "idevid")].into_iter().enumerate() {
            let (handle, password) = stored.map(|stored| stored[index]).unzip();
            tpm.device_key(kind, key[0], key[1], password.unwrap_or_default()).unwrap();
            let to = self.path(&format!("{name}-{end}"));
            self.ca.certify(&tpm.scratch().join("key.pem"), &to, form).unwrap();
            if let Some(handle) = handle {
                tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "key.ctx", handle]).unwrap();
                tpm.flush_transient().unwrap();
            }
        }
    }

    /// An agent with these certificates and a new id.
    pub(crate) fn options(&self, iak: &str, idevid: &str) -> KeylimeAgentOptions {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        KeylimeAgentOptions { uuid: "generate".to_owned(), ..options() }
            .env("KEYLIME_AGENT_ENABLE_IAK_IDEVID", "true")
            .env("KEYLIME_AGENT_IAK_CERT", path(iak))
            .env("KEYLIME_AGENT_IDEVID_CERT", path(idevid))
    }

    /// As [`Device::options`], with the certificates of this name.
    pub(crate) fn named(&self, name: &str) -> KeylimeAgentOptions {
        self.options(&format!("{name}-iak"), &format!("{name}-idevid"))
    }
}
