// SPDX-License-Identifier: Apache-2.0
//! Checks of the files that the configuration names, before any of them is used: everything that is wrong comes to light
//! at one start. Nothing is written.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};
use tls::{ClientTls, FileKind, Identity, ServerTls, Subject, TlsError, Trust};
use zeroize::Zeroizing;

use crate::agent_data;
use crate::config::Config;
use crate::device_identity::Certificates;
use crate::error::Cause;
use crate::payload::store;
use crate::payload_key::{PayloadKey, PayloadKeyError, password};
use crate::privileges;
use crate::server_certificate::exists;

/// What was found.
#[derive(Default)]
pub(crate) struct Findings {
    /// What keeps the agent from starting.
    pub(crate) problems: Vec<Cause>,
    /// What does not.
    pub(crate) warnings: Vec<String>,
    /// The files of `trusted_client_ca` that can be read; none without mTLS.
    pub(crate) client_cas: Vec<PathBuf>,
}

/// Checks all files with the rights that this process has now.
pub(crate) fn check(config: &Config) -> Findings {
    let mut findings = Findings::default();
    // Without the folder nothing can be said of what is in it.
    if config.keylime_dir.is_dir() {
        findings.problems.extend(store::find(&config.keylime_dir).err().map(Cause::from));
        findings.server_tls(config);
        findings.payload_key(config);
        findings.problems.extend(agent_data::load(&config.agent_data).err().map(Cause::from));
        if let Some(device_identity) = &config.device_identity {
            findings.problems.extend(Certificates::problems(device_identity).into_iter().map(Cause::from));
        }
        findings.registrar_ca(config);
        findings.revocation_certificate(config);
        findings.places(config);
    }
    findings.unix_socket(config);
    findings
}

impl Findings {
    fn file(&mut self, option: &'static str, source: TlsError) {
        self.problems.push(Cause::File { option, source });
    }

    fn server_tls(&mut self, config: &Config) {
        let Some(files) = &config.client_cas else { return };
        // One that cannot be read is skipped, for a list often names the files of several deployments.
        for file in files {
            match tls::check_client_ca(file) {
                Ok(warnings) => {
                    self.warnings
                        .extend(warnings.iter().map(|warning| format!("option 'trusted_client_ca': {warning}")));
                    self.client_cas.push(file.clone());
                }
                Err(error) => self.warnings.push(format!("Could not load certs from {}: {error}", file.display())),
            }
        }
        let (key, certificate) = (&config.server_key, &config.server_cert);
        let has_authority = !self.client_cas.is_empty();
        if !has_authority {
            self.problems.push(Cause::NoClientCa);
        }
        let secret = password(key).map(|text| Zeroizing::new(text.to_owned()));
        let (has_key, has_certificate) = match (exists(&key.path), exists(certificate)) {
            (Ok(has_key), Ok(has_certificate)) => (has_key, has_certificate),
            (key, certificate) => {
                self.problems.extend(key.err().into_iter().chain(certificate.err()).map(Cause::from));
                return;
            }
        };
        let problems = match (has_key, has_certificate) {
            (true, true) if has_authority => {
                let settings = ServerTls::new(certificate, &key.path, secret, self.client_cas.clone());
                self.warnings.extend(settings.warnings().iter().map(ToString::to_string));
                settings.try_build().err().unwrap_or_default()
            }
            (true, true) => {
                let identity = Identity { cert: certificate.clone(), key: key.path.clone(), password: secret };
                let ca = Trust::Files(vec![certificate.clone()]);
                let settings = ClientTls { ca, identity: Some(identity), server_name: None };
                let problems = settings.try_build().err().unwrap_or_default();
                problems.into_iter().filter(|problem| problem.subject() != Subject::Ca).collect()
            }
            _ => {
                let mut problems = Vec::new();
                if has_key {
                    problems.extend(tls::check_private_key(&key.path, password(key)).err());
                } else if has_certificate {
                    let (key, certificate) = (key.path.clone(), certificate.clone());
                    self.problems.push(Cause::ServerKeyGone { key, certificate });
                }
                if has_authority {
                    problems.extend(tls::check_client_cas(&self.client_cas).err().unwrap_or_default());
                }
                problems
            }
        };
        for problem in problems {
            let option = match problem.subject() {
                _ if matches!(problem, TlsError::WrongPassword { .. } | TlsError::PasswordMissing { .. }) => {
                    "server_key_password"
                }
                Subject::Ca => "trusted_client_ca",
                Subject::Certificate => "server_cert",
                _ => "server_key",
            };
            self.file(option, problem);
        }
    }

    fn payload_key(&mut self, config: &Config) {
        match PayloadKey::check(&config.payload_key, &config.server_key) {
            // With mTLS the server key has been reported for its own sake.
            Err(PayloadKeyError::ServerKey { .. }) if config.client_cas.is_some() => {}
            Err(source) => {
                let path = config.payload_key.path.clone();
                self.problems.push(Cause::PayloadKey { path, source });
            }
            Ok(()) => {}
        }
    }

    fn registrar_ca(&mut self, config: &Config) {
        let Some(ca) = &config.registrar.tls_ca else { return };
        let settings = ClientTls { ca: Trust::Files(vec![ca.clone()]), identity: None, server_name: None };
        for problem in settings.try_build().err().unwrap_or_default() {
            self.file("registrar_tls_ca_cert", problem);
        }
    }

    /// It may come with the first payload, and be replaced by the next one.
    fn revocation_certificate(&mut self, config: &Config) {
        let path = &config.revocation.certificate;
        if path.exists()
            && let Err(error) = tls::load_certificates(path, FileKind::Certificate)
        {
            self.warnings.push(format!("option 'revocation_cert': {error}"));
        }
    }

    /// The folders of files that are going to be made.
    fn places(&mut self, config: &Config) {
        let mut made = vec![("agent_data_path", &config.agent_data), ("payload_key", &config.payload_key.path)];
        if config.client_cas.is_some() {
            made.extend([("server_key", &config.server_key.path), ("server_cert", &config.server_cert)]);
        }
        made.retain(|(_, path)| !path.exists());
        let folders = made.into_iter().filter_map(|(option, path)| Some((option, path.parent()?)));
        let mut seen = Vec::new();
        for (option, folder) in folders {
            if !seen.contains(&folder) {
                seen.push(folder);
                self.can_write(option, folder);
            }
        }
    }

    fn unix_socket(&mut self, config: &Config) {
        let Some(socket) = &config.unix_socket else { return };
        for user in socket.allowed_users.iter().flatten() {
            self.problems.extend(privileges::user_id(user).err().map(Cause::AllowedUsers));
        }
        if let Some(folder) = socket.path.parent().filter(|folder| folder.is_dir()) {
            self.can_write("unix_socket_path", folder);
        }
    }

    fn can_write(&mut self, option: &'static str, folder: &Path) {
        if let Err(source) = access(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
            let (folder, user) = (folder.to_owned(), geteuid().as_raw());
            self.problems.push(Cause::NotWritable { option, folder, user, source });
        }
    }
}
