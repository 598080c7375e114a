// SPDX-License-Identifier: Apache-2.0
//! Checks of the files that the configuration names, before any of them is used: everything that is wrong comes to light
//! at one start. Nothing is written.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{self, AccessFlags, Gid, getegid, geteuid};
use tls::{ClientTls, FileKind, Subject, TlsError, Trust};

use crate::access;
use crate::agent_data;
use crate::config::device_identity::DeviceKey;
use crate::config::{Config, RunAs, UnixSocket};
use crate::device_identity::Certificates;
use crate::error::Cause;
use crate::payload::store;
use crate::payload_key::{PayloadKey, PayloadKeyError, password};
use crate::privileges::{self, Account};
use crate::server::UnixError;
use crate::server_certificate::{self, exists};

/// What was found.
#[derive(Default)]
pub(crate) struct Findings {
    /// What keeps the agent from starting.
    pub(crate) problems: Vec<Cause>,
    /// What does not.
    pub(crate) warnings: Vec<String>,
    /// The files of `trusted_client_ca` that can be read; none without mTLS.
    pub(crate) client_cas: Vec<PathBuf>,
    /// `keylime_dir`, if it is not there or this user cannot enter it: then nothing can be said of what is in it.
    lost: Option<PathBuf>,
}

/// Checks all files with the rights that this process has now.
pub(crate) fn check(config: &Config) -> Findings {
    let mut findings = Findings::default();
    findings.folder(config);
    findings.server_tls(config);
    findings.payload_key(config);
    if findings.can_tell(&config.agent_data) {
        findings.problems.extend(agent_data::load(&config.agent_data).err().map(Cause::from));
    }
    findings.device_identity(config);
    findings.registrar_ca(config);
    findings.revocation(config);
    findings.places(config);
    findings.unix_socket(config);
    findings.problems.extend(tpm::tcti::check(config.tpm.tcti.as_deref()).err().map(Cause::from));
    findings.open_to_others(config);
    findings
}

impl Findings {
    fn file(&mut self, config: &Config, option: &'static str, source: TlsError) {
        let hint = whose(&source).into();
        let (option, source) = (config.origins.option(option), Box::new(source));
        self.problems.push(Cause::File { option, source, hint });
    }

    /// Whether the file is not one of those that are out of reach together.
    fn can_tell(&self, path: &Path) -> bool {
        self.lost.as_ref().is_none_or(|lost| !path.starts_with(lost))
    }

    fn folder(&mut self, config: &Config) {
        let folder = &config.keylime_dir;
        if !folder.is_dir() {
            // The option says so itself, unless it cannot be seen.
            self.lost = Some(folder.clone());
        } else if let Err(error) = unistd::access(folder, AccessFlags::X_OK) {
            self.lost = Some(folder.clone());
            self.closed_folder(config, "keylime_dir", "enter", folder, error);
        } else {
            self.problems.extend(store::find(folder).err().map(Cause::from));
        }
    }

    fn server_tls(&mut self, config: &Config) {
        let Some(files) = &config.client_cas else { return };
        // One that cannot be read is skipped, for a list often names the files of several deployments.
        let in_reach: Vec<_> = files.iter().filter(|file| self.can_tell(file)).collect();
        let all_in_reach = in_reach.len() == files.len();
        for file in in_reach {
            match tls::check_client_ca(file) {
                Ok(warnings) => {
                    let option = config.origins.option("trusted_client_ca");
                    self.warnings.extend(warnings.iter().map(|warning| format!("{option}: {warning}")));
                    self.client_cas.push(file.clone());
                }
                Err(error) => self.warnings.push(format!(
                    "Could not load certs from {}: {error}{}",
                    file.display(),
                    whose(&error)
                )),
            }
        }
        let (key, certificate) = (&config.server_key, &config.server_cert);
        let has_authority = !self.client_cas.is_empty();
        if !has_authority && all_in_reach {
            self.problems.push(Cause::NoClientCa { option: config.origins.option("trusted_client_ca") });
        }
        if !self.can_tell(&key.path) || !self.can_tell(certificate) {
            return self.server_files_apart(config);
        }
        let (has_key, has_certificate) = match (exists(&key.path), exists(certificate)) {
            (Ok(has_key), Ok(has_certificate)) => (has_key, has_certificate),
            (key, certificate) => {
                self.problems.extend(key.err().into_iter().chain(certificate.err()).map(Cause::from));
                return;
            }
        };
        let settings = server_certificate::settings(config, &self.client_cas);
        if has_key && (has_authority || !has_certificate) {
            self.warnings.extend(settings.warnings().iter().map(ToString::to_string));
        }
        let problems = match (has_key, has_certificate) {
            (true, true) if has_authority => settings.try_build().err().unwrap_or_default(),
            (true, true) => {
                let ca = Trust::Files(vec![certificate.clone()]);
                let settings = ClientTls { ca, identity: Some(settings.identity), server_name: None };
                let problems = settings.try_build().err().unwrap_or_default();
                problems.into_iter().filter(|problem| problem.subject() != Subject::Ca).collect()
            }
            _ => {
                let mut problems = Vec::new();
                if has_key {
                    problems.extend(tls::check_private_key(&key.path, password(key)).err());
                } else if has_certificate {
                    let (key, certificate) = (key.path.clone(), certificate.clone());
                    let option = config.origins.option("server_key");
                    self.problems.push(Cause::ServerKeyGone { option, key, certificate });
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
            self.file(config, option, problem);
        }
    }

    /// Key and certificate where only one of them is in reach: whether they belong together cannot be told.
    fn server_files_apart(&mut self, config: &Config) {
        let (key, certificate) = (&config.server_key, &config.server_cert);
        if self.can_tell(&key.path)
            && key.path.exists()
            && let Err(problem) = tls::check_private_key(&key.path, password(key))
        {
            self.file(config, "server_key", problem);
        }
        if self.can_tell(certificate)
            && certificate.exists()
            && let Err(problem) = tls::load_certificates(certificate, FileKind::Certificate)
        {
            self.file(config, "server_cert", problem);
        }
    }

    fn payload_key(&mut self, config: &Config) {
        if !self.can_tell(&config.payload_key.path) {
            return;
        }
        match PayloadKey::check(&config.payload_key, &config.server_key) {
            // With mTLS the server key has been reported for its own sake.
            Err(PayloadKeyError::ServerKey { .. }) if config.client_cas.is_some() => {}
            Err(source) => {
                let path = config.payload_key.path.clone();
                let hint = match &source {
                    PayloadKeyError::File(TlsError::WrongPassword { .. } | TlsError::PasswordMissing { .. }) => {
                        format!(" ({})", config.origins.option("payload_key_password"))
                    }
                    PayloadKeyError::File(error) => whose(error),
                    _ => String::new(),
                };
                self.problems.push(Cause::PayloadKey { path, source: Box::new(source), hint: hint.into() });
            }
            Ok(()) => {}
        }
    }

    fn registrar_ca(&mut self, config: &Config) {
        let Some(ca) = config.registrar.tls_ca.as_ref().filter(|ca| self.can_tell(ca)) else { return };
        let settings = ClientTls { ca: Trust::Files(vec![ca.clone()]), identity: None, server_name: None };
        for problem in settings.try_build().err().unwrap_or_default() {
            self.file(config, "registrar_tls_ca_cert", problem);
        }
    }

    fn device_identity(&mut self, config: &Config) {
        let Some(device_identity) = &config.device_identity else { return };
        let lost = |key: &DeviceKey| key.certificate.as_ref().is_some_and(|path| !self.can_tell(path));
        if !lost(&device_identity.iak) && !lost(&device_identity.idevid) {
            self.problems.extend(Certificates::problems(device_identity).into_iter().map(Cause::from));
        }
    }

    /// The certificate may come with the first payload, and be replaced by the next one; actions may come with it, too.
    fn revocation(&mut self, config: &Config) {
        let options = &config.revocation;
        let path = &options.certificate;
        if path.exists()
            && let Err(error) = tls::load_certificates(path, FileKind::Certificate)
        {
            self.warnings.push(format!("{}: {error}", config.origins.option("revocation_cert")));
        }
        let folder = &options.actions_dir;
        for name in options.actions.iter().filter(|name| !folder.join(name).is_file()) {
            let option = config.origins.option("revocation_actions");
            let from_payload = if options.allow_payload_actions { ", so each payload must bring it" } else { "" };
            let text = format!("there is no program {name} in {}{from_payload}", folder.display());
            let python = match folder.join(format!("{name}.py")).is_file() {
                true => format!(": {name}.py is there, and has to be a program with the name {name}"),
                false => String::new(),
            };
            self.warnings.push(format!("{option}: {text}{python}"));
        }
    }

    /// The folders of files that are going to be made.
    fn places(&mut self, config: &Config) {
        let mut made = vec![("agent_data_path", &config.agent_data), ("payload_key", &config.payload_key.path)];
        if config.client_cas.is_some() {
            made.extend([("server_key", &config.server_key.path), ("server_cert", &config.server_cert)]);
        }
        made.retain(|(_, path)| self.can_tell(path) && !path.exists());
        let folders = made.into_iter().filter_map(|(option, path)| Some((option, path.parent()?)));
        let mut seen = Vec::new();
        for (option, folder) in folders {
            if !seen.contains(&folder) {
                seen.push(folder);
                let option = if folder == config.keylime_dir { "keylime_dir" } else { option };
                self.can_write(config, option, folder);
            }
        }
    }

    fn unix_socket(&mut self, config: &Config) {
        let Some(socket) = &config.unix_socket else { return };
        let option = || config.origins.option("unix_socket_allowed_users");
        for user in socket.allowed_users.iter().flatten() {
            match privileges::user_id(user) {
                Err(source) => self.problems.push(Cause::AllowedUsers { option: option(), source }),
                Ok(id) if !can_connect(socket, user, id.as_raw()) => self.warnings.push(format!(
                    "{}: user {user} is allowed, but mode {:04o} of the socket does not let it connect: set \
                     'unix_socket_mode' to 0666, or make it a member of group {}",
                    option(),
                    socket.mode,
                    access::group()
                )),
                Ok(_) => {}
            }
        }
        if let Some(folder) = socket.path.parent().filter(|folder| folder.is_dir()) {
            self.can_write(config, "unix_socket_path", folder);
        }
        if std::fs::symlink_metadata(&socket.path).is_ok_and(|found| !found.file_type().is_socket()) {
            self.problems.push(UnixError::NotASocket { path: socket.path.clone() }.into());
        }
    }

    fn can_write(&mut self, config: &Config, option: &'static str, folder: &Path) {
        if !folder.exists() {
            let option = config.origins.option(option);
            self.problems.push(Cause::NoFolder { option, folder: folder.to_owned() });
        } else if let Err(error) = unistd::access(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
            self.closed_folder(config, option, "write to", folder, error);
        }
    }

    fn closed_folder(
        &mut self,
        config: &Config,
        option: &'static str,
        verb: &'static str,
        folder: &Path,
        error: nix::Error,
    ) {
        let reason = match access::describe(folder).filter(|_| error == nix::Error::EACCES) {
            Some(found) => format!("{found}: chown {} {}", access::user_and_group(), folder.display()),
            None => io::Error::from(error).to_string(),
        };
        let (option, folder) = (config.origins.option(option), folder.to_owned());
        let (user, reason) = (access::user().into(), reason.into());
        self.problems.push(Cause::Folder { option, verb, folder, user, reason });
    }

    /// Who can change these decides whom the agent trusts and what it runs.
    fn open_to_others(&mut self, config: &Config) {
        let folder = ("keylime_dir", config.keylime_dir.as_path());
        let authorities = self.client_cas.iter().map(|file| ("trusted_client_ca", file.as_path()));
        let actions = (!config.revocation.actions.is_empty() || config.revocation.publisher.is_some())
            .then_some(("revocation_actions_dir", config.revocation.actions_dir.as_path()));
        let named = [folder].into_iter().chain(authorities).chain(actions);
        let named = named.map(|(option, path)| (path, format!("{}: ", config.origins.option(option))));
        let files = config.origins.files().map(|path| (path, String::new()));
        let texts = named.chain(files).filter_map(|(path, option)| {
            let found = std::fs::metadata(path).ok().filter(access::is_open_to_others)?;
            let remedy = if found.mode() & 0o022 == 0 { "chown it to root" } else { "chmod go-w" };
            let found = access::describe(path)?;
            Some(format!(
                "{option}others than root and {} can write to {}: {found}: {remedy}",
                access::user(),
                path.display()
            ))
        });
        self.warnings.extend(texts);
    }
}

/// Who the agent runs as and whose file it is, where it may not read it.
fn whose(error: &TlsError) -> String {
    match error {
        TlsError::Read { path, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            let found = access::describe(path).map(|found| format!("; {found}")).unwrap_or_default();
            format!(" (the user {}{found})", access::user())
        }
        _ => String::new(),
    }
}

/// Whether the mode of the socket, which belongs to user and group of this process, lets the user connect.
fn can_connect(socket: &UnixSocket, name: &str, id: u32) -> bool {
    let is_member = |group: Gid| {
        let run_as = RunAs { user: name.to_owned(), group: None };
        Account::find(&run_as).is_ok_and(|account| account.is_member(group))
    };
    let bit = match id {
        0 => return true,
        id if id == geteuid().as_raw() => 0o200,
        _ if is_member(getegid()) => 0o020,
        _ => 0o002,
    };
    socket.mode & bit != 0
}
