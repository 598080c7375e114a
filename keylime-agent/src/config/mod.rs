// SPDX-License-Identifier: Apache-2.0
//! The configuration: the stock agent's options under their names and defaults, and a few of our own.
//!
//! [`Config::inspect`] reads all sources and checks every option. All problems are reported together; what is odd but no
//! reason to refuse is returned as [`Notice`]s, for the log.

mod api_versions;
mod deferred;
pub(crate) mod device_identity;
mod effective;
mod origins;
mod payload;
mod reader;
mod sources;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keylime_api::version::ApiVersion;
use service::Secret;
use service::layered::{Layered, Source};
use service::options::{Options, Problems};
use tpm::TpmError;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};

pub use device_identity::DeviceIdentity;
pub use effective::{Effective, Shown};
pub use origins::Origins;
pub use payload::{Payload, Revocation};
pub use sources::Sources;
pub use values::{Host, RunAs};

use reader::Reader;
use sources::{CONFIG_FILE, Read};

use crate::identity;
pub use crate::identity::UuidSource;

/// How the registrar is reached.
#[derive(Debug, Clone)]
pub struct Registrar {
    /// `registrar_ip`.
    pub host: Host,
    /// `registrar_tls_port` with TLS, else `registrar_port`.
    pub port: u16,
    /// With TLS (`registrar_tls_enabled`), the CA file the registrar is checked against (`registrar_tls_ca_cert`).
    pub tls_ca: Option<PathBuf>,
}

/// When a failed registration is tried again (`exponential_backoff_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Wait before the first retry; doubled for each further one.
    pub initial_delay: Duration,
    /// Longest wait.
    pub max_delay: Duration,
    /// Retries before giving up. Without the option there is no end: a neighbour may still be starting.
    pub max_retries: Option<u64>,
}

/// The TPM and the keys made in it.
#[derive(Debug, Clone)]
pub struct TpmOptions {
    /// `tcti`: how the TPM is reached, in tpm2-tss notation; without it the kernel's resource manager, then `/dev/tpm0`.
    pub tcti: Option<String>,
    /// `tpm_hash_alg`: PCR bank, AK name and signature hash.
    pub hash: HashAlgorithm,
    /// `tpm_encryption_alg`: type and size of EK and AK.
    pub key: KeyAlgorithm,
    /// `tpm_signing_alg`: scheme of the AK.
    pub signing: SignatureScheme,
    /// `ek_handle`: a persistent EK to use instead of a created one.
    pub ek_handle: Option<u32>,
    /// `tpm_ownerpassword`: authorization of the endorsement hierarchy.
    pub endorsement_auth: Secret,
}

/// A private key file and its password, which is empty if there is none.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// Path of the PEM file.
    pub path: PathBuf,
    /// Password that protects it.
    pub password: Secret,
}

/// A measurement log.
#[derive(Debug, Clone)]
pub struct LogFile {
    /// Path of the log.
    pub path: PathBuf,
    /// Whether the path differs from the kernel's.
    pub is_override: bool,
}

/// The Unix socket that serves local programs.
#[derive(Debug, Clone)]
pub struct UnixSocket {
    /// `unix_socket_path`, absolute.
    pub path: PathBuf,
    /// `unix_socket_mode`: permission bits of the socket file.
    pub mode: u32,
    /// `unix_socket_allowed_users`: names or numbers; without it root and the user the agent runs as.
    pub allowed_users: Option<Vec<String>>,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `api_versions`, ascending, never empty.
    pub api_versions: Vec<ApiVersion>,
    /// `uuid`.
    pub uuid: UuidSource,
    /// `ip` and `port`: where the agent listens.
    pub listen: (Host, u16),
    /// `contact_ip` and `contact_port`: where the verifier and the tenant reach the agent.
    pub contact: (Host, u16),
    /// The registrar.
    pub registrar: Registrar,
    /// Retries of the registration.
    pub retry: Retry,
    /// `trusted_client_ca`, or `None` if mTLS is off (`enable_agent_mtls`).
    pub client_cas: Option<Vec<PathBuf>>,
    /// `server_key` and its password.
    pub server_key: KeyFile,
    /// `server_cert`.
    pub server_cert: PathBuf,
    /// `payload_key` and its password.
    pub payload_key: KeyFile,
    /// `keylime_dir`.
    pub keylime_dir: PathBuf,
    /// `agent_data_path`.
    pub agent_data: PathBuf,
    /// TPM options.
    pub tpm: TpmOptions,
    /// IAK and IDevID, if they are used.
    pub device_identity: Option<DeviceIdentity>,
    /// `run_as`, if it is not empty.
    pub run_as: Option<RunAs>,
    /// `ima_ml_path`.
    pub ima_log: LogFile,
    /// `measuredboot_ml_path`.
    pub boot_log: LogFile,
    /// The Unix socket, if there is one.
    pub unix_socket: Option<UnixSocket>,
    /// `enable_insecure_payload`: whether payloads may be delivered with mTLS off, and stored on disk where no tmpfs can be
    /// mounted.
    pub insecure_payload: bool,
    /// Payload options.
    pub payload: Payload,
    /// Revocation options.
    pub revocation: Revocation,
    /// Where they are set.
    pub origins: Origins,
}

/// Something to log about the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Something the operator should look at.
    Warning(String),
    /// Something the operator may want to know.
    Info(String),
    /// How a value came about.
    Debug(String),
}

/// What the sources say.
#[derive(Debug)]
pub struct Inspection {
    /// The configuration; where there are problems, with defaults in the places of what is wrong.
    pub config: Config,
    /// All options, with the values that count and where they are from.
    pub options: Vec<Effective>,
    /// What to log.
    pub notices: Vec<Notice>,
    /// What is wrong with the options.
    pub problems: Option<Problems>,
}

impl Inspection {
    /// Whether the option is set to something wrong.
    #[must_use]
    pub fn is_wrong(&self, name: &str) -> bool {
        self.options.iter().any(|option| option.name == name && option.value == Shown::Wrong)
    }
}

impl fmt::Display for Inspection {
    /// The options as a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        effective::write(&self.options, f)
    }
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// The sources that cannot be read, all together. Nothing is said of options then: what they would be is not known.
    pub fn inspect(sources: &Sources) -> Result<Inspection, Problems> {
        let Read { layered, uuid_is_in_environment, problems: unreadable } = sources.read();
        let mut options = Options::new(&layered);
        unreadable.into_iter().for_each(|problem| options.general_problem(problem));
        options.finish()?;
        let mut notices = environment_notices(&layered);
        if let Some(path) = sources.only_file() {
            let text = format!("Configuration replaced by {CONFIG_FILE}: {}", path.display());
            notices.push(Notice::Info(text));
        }
        let is_snippet = |path: &Path| path.parent().is_some_and(|folder| folder.ends_with(sources::SNIPPETS));
        for path in layered.files().iter().filter(|path| is_snippet(path)) {
            if path.extension().is_none_or(|end| end != "conf") {
                let text = "counts, although its name does not end in .conf: move it away if it is an old copy";
                notices.push(Notice::Warning(format!("{} {text}", path.display())));
            }
        }
        let mut reader = Reader::new(&layered, notices);
        reader.uuid_is_in_environment = uuid_is_in_environment;
        let mut config = reader.config();
        deferred::check(&mut reader);
        for unknown in reader.options.unknown() {
            reader.warn(unknown.to_string());
        }
        let (options, notices, problems) = reader.finish();
        config.origins = Origins::new(layered.files(), &options);
        Ok(Inspection { config, options, notices, problems })
    }
}

fn environment_notices(layered: &Layered) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (name, setting) in layered.iter() {
        if let (Source::Environment(_), Some(value)) = (&setting.source, setting.value.as_str()) {
            let value = if name.ends_with("password") { "(hidden)" } else { value };
            notices.push(Notice::Debug(format!("Environment configuration {name}={value}")));
        }
    }
    notices
}

impl Reader<'_> {
    fn config(&mut self) -> Config {
        let keylime_dir = self.keylime_dir();
        let key_file = |reader: &mut Self, name, password, default| KeyFile {
            path: reader.file(&keylime_dir, name, default),
            password: reader.secret(password),
        };
        let client_cas = self.client_cas(&keylime_dir);
        let insecure_payload = self.boolean("enable_insecure_payload", false);
        let payload = self.payload();
        if client_cas.is_none() && payload.script.is_some() && !insecure_payload {
            self.options.general_problem(
                "Configuration error: The agent mTLS is disabled and 'payload_script' is not empty. To allow the agent \
                 to run, 'enable_insecure_payload' has to be set to 'True'",
            );
        }
        Config {
            api_versions: self.api_versions(),
            uuid: self.uuid(),
            listen: (self.host("ip"), self.port("port", 9002)),
            contact: self.contact(),
            registrar: self.registrar(&keylime_dir),
            retry: self.retry(),
            client_cas,
            server_key: key_file(self, "server_key", "server_key_password", "server-private.pem"),
            server_cert: self.file(&keylime_dir, "server_cert", "server-cert.crt"),
            payload_key: key_file(self, "payload_key", "payload_key_password", "payload-private.pem"),
            agent_data: self.file(&keylime_dir, "agent_data_path", "agent_data.json"),
            tpm: self.tpm(),
            device_identity: self.device_identity(&keylime_dir),
            run_as: self.run_as(),
            ima_log: self.log("ima_ml_path", "/sys/kernel/security/ima/ascii_runtime_measurements"),
            boot_log: self.log("measuredboot_ml_path", "/sys/kernel/security/tpm0/binary_bios_measurements"),
            unix_socket: self.unix_socket(),
            insecure_payload,
            payload,
            revocation: self.revocation(&keylime_dir),
            keylime_dir,
            // They are known once everything has been read.
            origins: Origins::default(),
        }
    }

    fn keylime_dir(&mut self) -> PathBuf {
        const DEFAULT: &str = "/var/lib/keylime";
        let mut path = PathBuf::from(self.options.text("keylime_dir").unwrap_or_else(|| DEFAULT.to_owned()));
        if path.as_os_str().is_empty() {
            path = PathBuf::from(DEFAULT);
            self.warn_of_empty("keylime_dir", &path);
        }
        // As programs are started in other folders.
        match std::path::absolute(&path) {
            Ok(absolute) => path = absolute,
            Err(error) => self.options.problem("keylime_dir", error),
        }
        self.note("keylime_dir", Shown::value(path.to_string_lossy()), true);
        if !path.is_dir() {
            let shown = path.display();
            let text = if path.exists() {
                format!("{shown} is not a folder")
            } else {
                format!("the folder {shown} does not exist: create it, owned by the user of run_as")
            };
            self.options.problem("keylime_dir", text);
        }
        path
    }

    fn api_versions(&mut self) -> Vec<ApiVersion> {
        let written = self.list("api_versions").unwrap_or_else(|| vec!["default".to_owned()]);
        let (versions, warnings) = api_versions::select(&written);
        let source = self.options.setting("api_versions").map(|setting| format!(" ({})", setting.source));
        for warning in warnings {
            self.warn(warning + source.as_deref().unwrap_or_default());
        }
        let shown: Vec<_> = versions.iter().map(ToString::to_string).collect();
        self.note("api_versions", Shown::list(&shown), true);
        versions
    }

    fn uuid(&mut self) -> UuidSource {
        let any_id = self.uuid_is_in_environment;
        let parse = |text: &str| UuidSource::parse(text, any_id);
        let source = self.parsed("uuid", UuidSource::HashEk, parse, UuidSource::to_string);
        if let Some(warning) = source.given().and_then(identity::shared) {
            self.warn_of("uuid", format_args!(": {warning}"));
        }
        source
    }

    fn contact(&mut self) -> (Host, u16) {
        let host = self.host("contact_ip");
        if matches!(host, Host::Address(address) if address.is_unspecified()) {
            let text =
                format!(" is {host}, where nobody can reach this host: set it to an address or name of the host");
            self.warn_of("contact_ip", text);
        }
        (host, self.port("contact_port", 9002))
    }

    fn registrar(&mut self, keylime_dir: &Path) -> Registrar {
        let host = self.host("registrar_ip");
        let port = self.port("registrar_port", 8890);
        let tls = self.boolean("registrar_tls_enabled", false);
        let tls_port = self.port("registrar_tls_port", 8891);
        let ca = self.file(keylime_dir, "registrar_tls_ca_cert", "cv_ca/cacert.crt");
        if !tls {
            self.warn_of(
                "registrar_tls_enabled",
                " is false: the registration goes over plain HTTP, where anyone on the way can read and change it: set \
                 it to true, with registrar_tls_port (8891) and registrar_tls_ca_cert",
            );
        }
        Registrar { host, port: if tls { tls_port } else { port }, tls_ca: tls.then_some(ca) }
    }

    fn retry(&mut self) -> Retry {
        const DAY: u64 = 24 * 3_600_000;
        const MAX_RETRIES: &str = "exponential_backoff_max_retries";
        let initial_delay = self.number("exponential_backoff_initial_delay", 1..=DAY, 10_000);
        let max_delay = self.number("exponential_backoff_max_delay", 1..=DAY, 300_000);
        let max_retries = self.options.number(MAX_RETRIES, 0, u64::MAX);
        let shown = match max_retries {
            Some(number) => Shown::value(number),
            None if self.options.setting(MAX_RETRIES).is_some() => Shown::Wrong,
            None => Shown::Nothing("no end"),
        };
        self.note(MAX_RETRIES, shown, true);
        Retry {
            initial_delay: Duration::from_millis(initial_delay),
            max_delay: Duration::from_millis(max_delay),
            max_retries,
        }
    }

    fn client_cas(&mut self, keylime_dir: &Path) -> Option<Vec<PathBuf>> {
        let mtls = self.boolean("enable_agent_mtls", true);
        let written = self.list("trusted_client_ca").unwrap_or_else(|| vec!["default".to_owned()]);
        if mtls && written.is_empty() {
            self.options.general_problem("Agent mTLS is enabled, but trusted_client_ca option was not provided");
        }
        let path = |text: &String| values::path_in(keylime_dir, text, "cv_ca/cacert.crt");
        let files: Vec<_> = written.iter().map(path).collect();
        let shown: Vec<_> = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
        self.note("trusted_client_ca", Shown::list(&shown), true);
        mtls.then_some(files)
    }

    fn tpm(&mut self) -> TpmOptions {
        let auth = self.secret("tpm_ownerpassword");
        let endorsement_auth = values::authorization(auth).unwrap_or_else(|problem| {
            self.options.problem("tpm_ownerpassword", problem);
            Secret::default()
        });
        // Of those that have a name, the ones that the check below takes.
        let hash = |text: &str| {
            text.parse().map_err(|_| format!("expected 'sha1', 'sha256', 'sha384' or 'sha512', found '{text}'"))
        };
        let hash = self.parsed("tpm_hash_alg", HashAlgorithm::Sha256, hash, |hash| hash.name().to_owned());
        let key = self.parsed("tpm_encryption_alg", KeyAlgorithm::Rsa2048, str::parse, |key| key.name().to_owned());
        let signing =
            self.parsed("tpm_signing_alg", SignatureScheme::RsaSsa, str::parse, |scheme| scheme.name().to_owned());
        for problem in tpm::check(hash, key, signing) {
            let option = match problem {
                TpmError::HashAlgorithm(_) => "tpm_hash_alg",
                TpmError::KeyAlgorithm(_) => "tpm_encryption_alg",
                _ => "tpm_signing_alg",
            };
            self.options.problem(option, problem);
        }
        let tcti = self.options.text("tcti").filter(|tcti| !tcti.is_empty());
        let shown = tcti.as_ref().map_or(Shown::Nothing("the kernel's resource manager"), Shown::value);
        self.note("tcti", shown, true);
        let ek_handle = self.parsed("ek_handle", None, values::persistent_handle, values::show_handle);
        TpmOptions { tcti, hash, key, signing, ek_handle, endorsement_auth }
    }

    fn run_as(&mut self) -> Option<RunAs> {
        let default = RunAs { user: "keylime".to_owned(), group: Some("tss".to_owned()) };
        let parse = |text: &str| if text.trim().is_empty() { Ok(None) } else { RunAs::parse(text).map(Some) };
        let show = |run_as: &Option<RunAs>| run_as.as_ref().map_or_else(String::new, RunAs::to_string);
        self.parsed("run_as", Some(default), parse, show)
    }

    fn unix_socket(&mut self) -> Option<UnixSocket> {
        let path = PathBuf::from(self.text("unix_socket_path", ""));
        let mode = self.parsed("unix_socket_mode", 0o660, values::mode, |mode| format!("{mode:04o}"));
        let allowed_users = self.list("unix_socket_allowed_users");
        let shown = allowed_users.as_deref().map_or(Shown::Nothing("root and the user of run_as"), Shown::list);
        self.note("unix_socket_allowed_users", shown, true);
        if path.as_os_str().is_empty() {
            return None;
        }
        // sockaddr_un takes 107 bytes, and the socket is first made under a longer name beside it.
        if !path.is_absolute() || path.as_os_str().len() > 95 {
            self.options.problem("unix_socket_path", "expected an absolute path of at most 95 bytes");
        } else if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            let text =
                format!("the folder {} does not exist: create it, owned by the user of run_as", folder.display());
            self.options.problem("unix_socket_path", text);
        }
        Some(UnixSocket { path, mode, allowed_users })
    }

    fn log(&mut self, name: &'static str, default: &str) -> LogFile {
        let path = self.file(Path::new("/"), name, default);
        LogFile { is_override: path != Path::new(default), path }
    }
}

#[cfg(test)]
mod tests;
