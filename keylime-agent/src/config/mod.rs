// SPDX-License-Identifier: Apache-2.0
//! The configuration: the stock agent's options under their names and defaults, and a few of our own.
//!
//! [`Config::load`] reads all sources, checks everything and reports all problems together; what is odd but no reason to
//! refuse is returned as [`Notice`]s, for the log.

mod api_versions;
mod deferred;
mod sources;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use keylime_api::AgentId;
use keylime_api::version::ApiVersion;
use service::Secret;
use service::layered::{Layered, Source};
use service::options::{Options, Problems};
use tpm::TpmError;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};

pub use sources::Sources;
pub use values::{Host, RunAs};

/// Agent ids of distributed samples. Hosts that keep one claim to be the same host.
const SAMPLE_IDS: &[&str] = &[
    "d432fbb3-d2f1-4a97-9ef7-75bd81c00000",
    "c432fbb3-d2f1-4a97-9ef7-75bd81c00000",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
];

/// Where the agent id comes from (`uuid`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UuidSource {
    /// SHA-256 over the public EK in PEM form, 64 hexadecimal digits.
    HashEk,
    /// A random UUID, a new one at each start.
    Generate,
    /// This UUID, in lower case with hyphens.
    Fixed(AgentId),
}

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
    /// `agent_data_path`.
    pub agent_data: PathBuf,
    /// TPM options.
    pub tpm: TpmOptions,
    /// `run_as`, if it is not empty.
    pub run_as: Option<RunAs>,
    /// `ima_ml_path`.
    pub ima_log: LogFile,
    /// `measuredboot_ml_path`.
    pub boot_log: LogFile,
    /// The Unix socket, if there is one.
    pub unix_socket: Option<UnixSocket>,
    /// `enable_insecure_payload`: whether payloads may be delivered with mTLS off.
    pub insecure_payload: bool,
}

/// Something to log about the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Something the operator should look at.
    Warning(String),
    /// How a value came about.
    Debug(String),
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// All problems of all sources and options.
    pub fn load(sources: &Sources) -> Result<(Self, Vec<Notice>), Problems> {
        let (layered, unreadable) = sources.read();
        // Where a source cannot be read, what the options would be is not known, and nothing is said of their defaults.
        let mut options = Options::new(&layered);
        unreadable.into_iter().for_each(|problem| options.general_problem(problem));
        options.finish()?;
        let mut reader = Reader { options: Options::new(&layered), notices: environment_notices(&layered) };
        let config = reader.config();
        for warning in deferred::check(&mut reader.options) {
            reader.warn(warning);
        }
        for unknown in reader.options.unknown() {
            reader.warn(unknown.to_string());
        }
        let Reader { options, notices } = reader;
        options.finish()?;
        Ok((config, notices))
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

struct Reader<'a> {
    options: Options<'a>,
    notices: Vec<Notice>,
}

impl Reader<'_> {
    fn warn(&mut self, text: String) {
        self.notices.push(Notice::Warning(text));
    }

    fn config(&mut self) -> Config {
        let keylime_dir = PathBuf::from(self.text("keylime_dir", "/var/lib/keylime"));
        if !keylime_dir.is_dir() {
            let shown = keylime_dir.display();
            let text = if keylime_dir.exists() {
                format!("{shown} is not a folder")
            } else {
                format!("the folder {shown} does not exist: create it, owned by the user of run_as")
            };
            self.options.problem("keylime_dir", text);
        }
        let file = |reader: &mut Self, name, default| reader.file(&keylime_dir, name, default);
        let client_cas = self.client_cas(&keylime_dir);
        let insecure_payload = self.options.boolean("enable_insecure_payload") == Some(true);
        let payload_script = self.text("payload_script", "autorun.sh");
        if client_cas.is_none() && !payload_script.is_empty() && !insecure_payload {
            self.options.general_problem(
                "Configuration error: The agent mTLS is disabled and 'payload_script' is not empty. To allow the agent \
                 to run, 'enable_insecure_payload' has to be set to 'True'",
            );
        } else if !["", "autorun.sh"].contains(&payload_script.as_str()) {
            self.warn("option 'payload_script' has no effect: payloads are not deployed by this version".to_owned());
        }
        Config {
            api_versions: self.api_versions(),
            uuid: self.uuid(),
            listen: (self.host("ip"), self.port("port", 9002)),
            contact: (self.host("contact_ip"), self.port("contact_port", 9002)),
            registrar: self.registrar(&keylime_dir),
            retry: self.retry(),
            client_cas,
            server_key: KeyFile {
                path: file(self, "server_key", "server-private.pem"),
                password: self.secret("server_key_password"),
            },
            server_cert: file(self, "server_cert", "server-cert.crt"),
            payload_key: KeyFile {
                path: file(self, "payload_key", "payload-private.pem"),
                password: self.secret("payload_key_password"),
            },
            agent_data: file(self, "agent_data_path", "agent_data.json"),
            tpm: self.tpm(),
            run_as: self.run_as(),
            ima_log: self.log("ima_ml_path", "/sys/kernel/security/ima/ascii_runtime_measurements"),
            boot_log: self.log("measuredboot_ml_path", "/sys/kernel/security/tpm0/binary_bios_measurements"),
            unix_socket: self.unix_socket(),
            insecure_payload,
        }
    }

    fn api_versions(&mut self) -> Vec<ApiVersion> {
        let written = self.options.list("api_versions").unwrap_or_else(|| vec!["default".to_owned()]);
        let (versions, warnings) = api_versions::select(&written);
        for warning in warnings {
            self.warn(warning);
        }
        versions
    }

    fn uuid(&mut self) -> UuidSource {
        let source = self.options.parsed("uuid", |text| match text.trim() {
            "hash_ek" => Ok(UuidSource::HashEk),
            "generate" => Ok(UuidSource::Generate),
            other => uuid::Uuid::parse_str(other)
                .ok()
                .and_then(|uuid| uuid.hyphenated().to_string().parse().ok())
                .map(UuidSource::Fixed)
                .ok_or_else(|| format!("expected 'hash_ek', 'generate' or a UUID, found '{other}'")),
        });
        if let Some(UuidSource::Fixed(id)) = &source
            && SAMPLE_IDS.contains(&id.as_str())
        {
            self.warn(format!(
                "option 'uuid': {id} is a sample that every host with an unchanged configuration claims, so hosts may \
                 be taken for one another: set uuid = \"hash_ek\""
            ));
        }
        source.unwrap_or(UuidSource::HashEk)
    }

    fn registrar(&mut self, keylime_dir: &std::path::Path) -> Registrar {
        let tls = self.options.boolean("registrar_tls_enabled") == Some(true);
        let port = self.port("registrar_port", 8890);
        let tls_port = self.port("registrar_tls_port", 8891);
        let ca = self.file(keylime_dir, "registrar_tls_ca_cert", "cv_ca/cacert.crt");
        if !tls {
            self.warn(
                "option 'registrar_tls_enabled' is false: the registration goes over plain HTTP, where anyone on the \
                 way can read and change it"
                    .to_owned(),
            );
        }
        Registrar {
            host: self.host("registrar_ip"),
            port: if tls { tls_port } else { port },
            tls_ca: tls.then_some(ca),
        }
    }

    fn retry(&mut self) -> Retry {
        const HOUR: u64 = 3_600_000;
        let mut milliseconds = |name, default| {
            let value = self.options.number(name, 1, 24 * HOUR);
            Duration::from_millis(value.unwrap_or(default))
        };
        Retry {
            initial_delay: milliseconds("exponential_backoff_initial_delay", 10_000),
            max_delay: milliseconds("exponential_backoff_max_delay", 300_000),
            max_retries: self.options.number("exponential_backoff_max_retries", 0, u64::MAX),
        }
    }

    fn client_cas(&mut self, keylime_dir: &std::path::Path) -> Option<Vec<PathBuf>> {
        let mtls = self.options.boolean("enable_agent_mtls").unwrap_or(true);
        let written = self.options.list("trusted_client_ca").unwrap_or_else(|| vec!["default".to_owned()]);
        if mtls && written.is_empty() {
            self.options.general_problem("Agent mTLS is enabled, but trusted_client_ca option was not provided");
        }
        let path = |text: &String| values::path_in(keylime_dir, text, "cv_ca/cacert.crt");
        mtls.then(|| written.iter().map(path).collect())
    }

    fn tpm(&mut self) -> TpmOptions {
        let auth = self.secret("tpm_ownerpassword");
        let endorsement_auth = values::authorization(auth).unwrap_or_else(|problem| {
            self.options.problem("tpm_ownerpassword", problem);
            Secret::default()
        });
        let hash = self.options.parsed("tpm_hash_alg", str::parse).unwrap_or(HashAlgorithm::Sha256);
        let key = self.options.parsed("tpm_encryption_alg", str::parse).unwrap_or(KeyAlgorithm::Rsa2048);
        let signing = self.options.parsed("tpm_signing_alg", str::parse).unwrap_or(SignatureScheme::RsaSsa);
        for problem in tpm::check(hash, key, signing) {
            let option = match problem {
                TpmError::HashAlgorithm(_) => "tpm_hash_alg",
                TpmError::KeyAlgorithm(_) => "tpm_encryption_alg",
                _ => "tpm_signing_alg",
            };
            self.options.problem(option, problem);
        }
        TpmOptions {
            tcti: self.options.text("tcti").filter(|tcti| !tcti.is_empty()),
            hash,
            key,
            signing,
            ek_handle: self.options.parsed("ek_handle", values::persistent_handle).flatten(),
            endorsement_auth,
        }
    }

    fn run_as(&mut self) -> Option<RunAs> {
        let text = self.text("run_as", "keylime:tss");
        if text.trim().is_empty() {
            return None;
        }
        match RunAs::parse(&text) {
            Ok(run_as) => Some(run_as),
            Err(problem) => {
                self.options.problem("run_as", problem);
                None
            }
        }
    }

    fn unix_socket(&mut self) -> Option<UnixSocket> {
        let path = PathBuf::from(self.text("unix_socket_path", ""));
        let mode = self.options.parsed("unix_socket_mode", values::mode).unwrap_or(0o660);
        let allowed_users = self.options.list("unix_socket_allowed_users");
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

    fn log(&mut self, name: &str, default: &str) -> LogFile {
        let text = self.text(name, "default");
        let path = values::path_in(std::path::Path::new("/"), &text, default);
        LogFile { is_override: path != std::path::Path::new(default), path }
    }

    fn file(&mut self, keylime_dir: &std::path::Path, name: &str, default: &str) -> PathBuf {
        let text = self.text(name, "default");
        let path = values::path_in(keylime_dir, &text, default);
        if text.is_empty() {
            self.warn(format!("option '{name}' is empty: using {}", path.display()));
        }
        path
    }

    fn host(&mut self, name: &str) -> Host {
        self.options.parsed(name, Host::parse).unwrap_or(Host::Address(std::net::Ipv4Addr::LOCALHOST.into()))
    }

    fn port(&mut self, name: &str, default: u16) -> u16 {
        self.options.port(name).unwrap_or(default)
    }

    fn text(&mut self, name: &str, default: &str) -> String {
        self.options.text(name).unwrap_or_else(|| default.to_owned())
    }

    fn secret(&mut self, name: &str) -> Secret {
        self.options.secret(name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
