// SPDX-License-Identifier: Apache-2.0
//! Registration with the registrar and activation of its credential, tried until they succeed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keylime_api::client::{ClientError, HttpSettings};
use keylime_api::credential::auth_tag;
use keylime_api::registration::{Registration, RegistrationClient};
use keylime_api::version::ApiVersion;
use keylime_api::{AgentId, HostPort};
use ring::rand::SecureRandom as _;
use service::Report;
use service::signals::Shutdown;
use tls::rustls::ClientConfig;
use tpm::{ParsedCredential, Tpm, TpmError};

use crate::config::{Host, Retry};

/// Limits of one call.
const LIMITS: HttpSettings = HttpSettings {
    connect_timeout: Duration::from_secs(5),
    total_timeout: Duration::from_secs(15),
    max_body: 64 << 10,
};

/// Shortest wait before another try, whatever the registrar asks for.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Once the agent has been asked to end, how long registrar and TPM have to finish a registration that has begun.
const LAST_REGISTRATION: Duration = Duration::from_secs(6);

/// How Keylime's registrar says that it knows the agent id with another TPM or AK
/// (keylime/web/registrar/agents_controller.py).
const OTHER_IDENTITY: &str = "re-registration with different TPM identity";

/// Why the agent is not registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrationError {
    #[error("{0}")]
    Address(#[from] keylime_api::InvalidHostPort),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(
        "Failed to register agent: Registration forbidden - {text}. The existing agent record must be deleted before \
         re-registering with a different TPM or AK. Restore the former AK ({}), if this is the same TPM. Or run \
         `keylime_tenant -c regdelete -u {id}`, start the agent again, and have the verifier forget the former AK, too: \
         `keylime_tenant -c delete -u {id}`, then `-c add`",
        agent_data.display()
    )]
    OtherIdentity { text: String, id: AgentId, agent_data: PathBuf },
    #[error(
        "Failed to register agent: Registration forbidden - {text}: is {url} the registrar (option '{option}', usually \
         {usual}), and not the verifier?"
    )]
    Forbidden { text: String, url: String, option: &'static str, usual: u16 },
    #[error(
        "Failed to register agent: {error}: the registrar's log has the reason{}",
        if *device_identity {
            " (option 'enable_iak_idevid' is on: it takes IAK and IDevID only with both certificates, and only if the \
             tenant's 'tpm_cert_store' holds the CA that has issued them)"
        } else {
            ""
        }
    )]
    Invalid { error: ClientError, device_identity: bool },
    // What is behind these two is said in their texts, in plainer words.
    #[error("Failed to register agent: {0}")]
    Final(ClientError),
    #[error("Failed to register agent after retrying: {0}")]
    Exhausted(Failure),
    #[error("Failed to activate the registrar's credential: {0}")]
    Tpm(#[from] TpmError),
}

/// Why one try failed, where another one may succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(ClientError),
    #[error("the registrar did not accept the activation and has deleted the record: {0}")]
    Activation(ClientError),
    #[error("the TPM did not activate the registrar's credential: {0}")]
    Tpm(#[source] TpmError),
}

impl Failure {
    /// The wait that the registrar asks for.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Client(error) | Self::Activation(error) => error.retry_after(),
            Self::Tpm(_) => None,
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The registrar has an active record.
    Registered,
    /// A signal came before that.
    Interrupted,
}

/// One registrar and what is registered there.
pub(crate) struct Registrar<'a> {
    /// Where it is.
    pub(crate) host: &'a Host,
    pub(crate) port: u16,
    /// `None` for plain HTTP.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// When to try again.
    pub(crate) retry: &'a Retry,
    /// Enabled API versions.
    pub(crate) api_versions: &'a [ApiVersion],
    /// The file with the AK.
    pub(crate) agent_data: &'a Path,
}

impl Registrar<'_> {
    /// Registers and activates. While the registrar cannot be reached this goes on, by default without end; what a retry
    /// cannot change is an error at once.
    ///
    /// A registration makes the record inactive until the activation, so a signal does not come between the two unless
    /// the registrar or the TPM stalls. While waiting for another try the EK is not kept in the TPM.
    pub(crate) async fn register(
        &self,
        id: &AgentId,
        registration: &Registration,
        tpm: &Tpm,
        shutdown: &Shutdown,
    ) -> Result<Outcome, RegistrationError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        tracing::info!("Building Registrar client: scheme={scheme}, registrar={}, port={}", self.host, self.port);
        let base = HostPort::new(&self.host.to_string(), self.port)?;
        let call = Call {
            client: RegistrationClient::new(base, self.tls.clone(), LIMITS, self.api_versions)
                .map_err(RegistrationError::Final)?,
            url: format!("{scheme}://{}", self.host.with_port(self.port)),
            address: self.host.with_port(self.port),
            id,
            registration,
            tpm,
            agent_data: self.agent_data,
        };
        let mut backoff = Backoff::new(self.retry);
        let mut first = true;
        loop {
            let ready = tokio::select! {
                ready = call.is_ready() => ready,
                () = shutdown.wait() => return Ok(Outcome::Interrupted),
            };
            let result = match ready {
                Ok(()) => {
                    let stalled = async {
                        shutdown.wait().await;
                        tokio::time::sleep(LAST_REGISTRATION).await;
                    };
                    tokio::select! {
                        result = call.register_and_activate() => result,
                        () = stalled => {
                            tracing::warn!(
                                "registrar and TPM take too long to finish the registration: ending without it, so the \
                                 host may not be registered until the next start"
                            );
                            return Ok(Outcome::Interrupted);
                        }
                    }
                }
                Err(error) => Err(error),
            };
            let failure = match result {
                Ok(()) => return Ok(Outcome::Registered),
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Failure(failure)) => failure,
            };
            report(&failure);
            let Some(delay) = backoff.next(failure.retry_after()) else {
                return Err(RegistrationError::Exhausted(failure));
            };
            if first {
                tracing::warn!("The host is not registered yet: verifier and tenant cannot connect until it is");
                first = false;
            }
            tracing::info!("Trying to register again in {:.1} s", delay.as_secs_f32());
            let wait = async {
                // A kill while waiting would leave it in a TPM without resource manager.
                if let Err(error) = tpm.flush_ek().await {
                    tracing::debug!("the EK may still be in the TPM: {error}");
                }
                tokio::time::sleep(delay).await;
            };
            tokio::select! {
                () = wait => {}
                () = shutdown.wait() => return Ok(Outcome::Interrupted),
            }
        }
    }
}

/// Why a try ended.
enum Stop {
    Final(RegistrationError),
    Failure(Failure),
}

struct Call<'a> {
    client: RegistrationClient,
    url: String,
    address: String,
    id: &'a AgentId,
    registration: &'a Registration,
    tpm: &'a Tpm,
    agent_data: &'a Path,
}

impl Call<'_> {
    /// Sees to what the activation needs before the registrar's record is touched. The API versions are asked for at
    /// every try, for the registrar may have been replaced by another version meanwhile; the EK is made again if it was
    /// flushed while waiting.
    async fn is_ready(&self) -> Result<(), Stop> {
        tracing::info!("Requesting registrar API version to {}/version", self.url);
        tracing::debug!("connecting to {}", self.address);
        self.client.ask_version().await.map_err(|error| self.classify(error))?;
        self.tpm.ensure_ek().await.map_err(classify_tpm)
    }

    async fn register_and_activate(&self) -> Result<(), Stop> {
        let (id, url) = (self.id, &self.url);
        tracing::info!("Requesting agent registration from {url} for {id}");
        let registered = self.client.register(id, self.registration).await;
        let blob = registered.map_err(|error| match error {
            ClientError::Status { code: 400, .. } => Stop::Final(RegistrationError::Invalid {
                error,
                device_identity: self.registration.device_identity.is_some(),
            }),
            error => self.classify(error),
        })?;
        tracing::info!("SUCCESS: Agent {id} registered");
        let credential = ParsedCredential { id_object: blob.id_object, encrypted_secret: blob.encrypted_secret };
        let secret = self.tpm.activate_credential(credential).await.map_err(classify_tpm)?;
        tracing::info!("Requesting agent activation from {url} for {id}");
        let activated = self.client.activate(id, &auth_tag(&secret, id)).await;
        activated.map_err(|error| match &error {
            ClientError::Status { code: 400, .. } | ClientError::NotFound { .. } => {
                Stop::Failure(Failure::Activation(error))
            }
            _ => self.classify(error),
        })?;
        tracing::info!("SUCCESS: Agent {id} activated");
        Ok(())
    }

    fn classify(&self, error: ClientError) -> Stop {
        match error {
            ClientError::Forbidden { text, .. } => Stop::Final(self.forbidden(text)),
            // A registrar that is being set up may show a certificate that will be replaced, and a host that has just been
            // started a clock that will be set.
            error if error.is_transient() || matches!(error, ClientError::Tls { .. }) => {
                Stop::Failure(Failure::Client(error))
            }
            error => Stop::Final(RegistrationError::Final(error)),
        }
    }

    /// Only the registrar's own words may lead to advice that deletes a record: a verifier answers with 403, too.
    fn forbidden(&self, text: String) -> RegistrationError {
        if text.contains(OTHER_IDENTITY) {
            return RegistrationError::OtherIdentity {
                text,
                id: self.id.clone(),
                agent_data: self.agent_data.to_owned(),
            };
        }
        let (option, usual) = match self.url.starts_with("https:") {
            true => ("registrar_tls_port", 8891),
            false => ("registrar_port", 8890),
        };
        RegistrationError::Forbidden { text, url: self.url.clone(), option, usual }
    }
}

fn classify_tpm(error: TpmError) -> Stop {
    // Somebody else's keys may fill the TPM right now.
    if error.is_retryable() || matches!(error, TpmError::NoRoom { .. }) {
        Stop::Failure(Failure::Tpm(error))
    } else {
        Stop::Final(error.into())
    }
}

fn report(failure: &Failure) {
    match failure {
        Failure::Client(error @ (ClientError::Connect { .. } | ClientError::ConnectTimeout { .. })) => {
            tracing::warn!("Network error (connection failed): {error}");
        }
        Failure::Client(error @ ClientError::Status { code, .. }) => {
            tracing::warn!("Received non-success status code {code}: {error}");
        }
        Failure::Tpm(_) => tracing::warn!("TPM error: {}", Report(failure)),
        other => tracing::warn!("Network error: {other}"),
    }
}

/// Waits that double up to a cap and are spread by a quarter, so that hosts that were started together do not come back
/// together.
pub(crate) struct Backoff<'a> {
    retry: &'a Retry,
    tries: u64,
}

impl<'a> Backoff<'a> {
    pub(crate) fn new(retry: &'a Retry) -> Self {
        Self { retry, tries: 0 }
    }

    /// The next wait, or `None` if there were enough tries. What the registrar asks for counts, up to the cap and not
    /// below a second (or the first wait, if a shorter one is configured).
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if self.retry.max_retries.is_some_and(|max| self.tries >= max) {
            return None;
        }
        let doublings = u32::try_from(self.tries.min(31)).unwrap_or(31);
        self.tries += 1;
        let computed = self.retry.initial_delay.saturating_mul(1 << doublings);
        let shortest = SHORTEST_WAIT.min(self.retry.initial_delay);
        Some(match asked {
            Some(asked) => asked.max(shortest).min(self.retry.max_delay),
            None => computed.min(self.retry.max_delay).mul_f64(0.75 + 0.25 * random()),
        })
    }
}

/// A random number from 0 to 1.
fn random() -> f64 {
    let mut byte = [0; 1];
    // Without randomness the waits are merely not spread.
    let _ = ring::rand::SystemRandom::new().fill(&mut byte);
    f64::from(byte.first().copied().unwrap_or_default()) / 255.0
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use keylime_api::registration::MtlsCert;
    use test_support::{Swtpm, SwtpmOptions};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tpm::TpmSettings;

    use super::*;

    fn retry(max_retries: Option<u64>) -> Retry {
        Retry { initial_delay: Duration::from_secs(10), max_delay: Duration::from_secs(300), max_retries }
    }

    #[test]
    fn waits_double_up_to_the_cap_without_end() {
        let retry = retry(None);
        let mut backoff = Backoff::new(&retry);
        for expected in [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0] {
            let delay = backoff.next(None).unwrap().as_secs_f64();
            assert!((0.75 * expected..=expected).contains(&delay), "{delay}");
        }
        for _ in 0..100 {
            assert!(backoff.next(None).unwrap() <= Duration::from_secs(300));
        }
    }

    #[test]
    fn a_configured_number_of_retries_is_kept() {
        let retry = retry(Some(2));
        let mut backoff = Backoff::new(&retry);
        assert!(backoff.next(None).is_some() && backoff.next(None).is_some());
        assert_eq!(backoff.next(None), None);
    }

    #[test]
    fn the_registrars_wish_counts_up_to_the_cap() {
        let retry = retry(None);
        let mut backoff = Backoff::new(&retry);
        let seconds = Duration::from_secs;
        assert_eq!(backoff.next(Some(seconds(7))), Some(seconds(7)));
        assert_eq!(backoff.next(Some(seconds(9999))), Some(seconds(300)));
        assert_eq!(backoff.next(Some(seconds(0))), Some(seconds(1)));
        let short = Retry { initial_delay: Duration::from_millis(20), ..retry };
        assert_eq!(Backoff::new(&short).next(Some(seconds(0))), Some(Duration::from_millis(20)));
    }

    /// Answers one request after the other by `answer`, which gets the request line; returns the request lines.
    async fn registrar(mut answer: impl FnMut(&str) -> (u16, String)) -> (u16, impl Future<Output = ()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let whole = |request: &[u8]| {
                    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
                    let (head, body) = text.split_once("\r\n\r\n")?;
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    (body.len() >= length.map_or(0, |length| length.parse().unwrap())).then_some(())
                };
                while whole(&request).is_none() {
                    assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
                }
                let line = String::from_utf8_lossy(&request).lines().next().unwrap().to_owned();
                let (status, results) = answer(&line);
                let body = format!(r#"{{"code":{status},"status":"text","results":{results}}}"#);
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        (port, serve)
    }

    /// A credential of the right form for nobody.
    fn blob() -> String {
        let mut blob = hex::decode("badcc0de00000001").unwrap();
        for part in [&[1; 52][..], &[2; 256]] {
            blob.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend(part);
        }
        format!(r#"{{"blob":"{}"}}"#, STANDARD.encode(blob))
    }

    /// TPM2_StartAuthSession for a policy session (SHA-256, 16 zeros as nonce).
    const SESSION: &str = "80010000002b0000017640000007400000070010000000000000000000000000000000000000010010000b";

    /// With a failing registrar first, then a TPM that between registration and activation is full, then one that is lost
    /// there, then a refusal.
    #[tokio::test(flavor = "current_thread")]
    async fn a_passing_failure_of_the_tpm_leads_to_another_registration() {
        let Some(()) = test_support::require::swtpm() else { return };
        let mut swtpm = Swtpm::start(SwtpmOptions { ek_certificate: false, ..SwtpmOptions::default() }).unwrap();
        let settings = TpmSettings { tcti: Some(swtpm.tcti.clone()), ..TpmSettings::default() };
        let tpm = Tpm::open(settings).await.unwrap();
        let ek = tpm.create_ek().await.unwrap();
        let ak = tpm.load_or_create_ak(None).await.unwrap();
        let registration = Registration {
            aik_tpm: ak.public_2b,
            ek_tpm: ek.public_2b,
            ekcert: None,
            ip: "127.0.0.1".to_owned(),
            port: 9002,
            mtls_cert: MtlsCert::Disabled,
            device_identity: None,
        };
        let seen = std::cell::RefCell::new(Vec::new());
        let (port, serve) = registrar(|line| {
            let mut seen = seen.borrow_mut();
            seen.push(line.trim_end_matches(" HTTP/1.1").to_owned());
            let versions = |version| (200, format!(r#"{{"supported_versions":["{version}"]}}"#));
            match seen.len() {
                1 => (500, "{}".to_owned()),
                2 => {
                    // The EK was flushed before the wait, the AK is still there.
                    assert_eq!(swtpm.transient_handles().unwrap(), [ak.handle]);
                    versions("2.5")
                }
                3 => {
                    swtpm.scratch().write("session", hex::decode(SESSION).unwrap()).unwrap();
                    (0..3).for_each(|_| drop(swtpm.tool("tpm2_send", &["-o", "answer", "session"]).unwrap()));
                    (200, blob())
                }
                4 => {
                    swtpm.tool("tpm2_flushcontext", &["--loaded-session"]).unwrap();
                    versions("2.5")
                }
                5 => {
                    swtpm.power_off();
                    (200, blob())
                }
                // Another version after an update. The record is not touched again before the EK is there.
                _ if line.starts_with("GET") => {
                    swtpm.power_on().unwrap();
                    versions("2.6")
                }
                _ => (403, "{}".to_owned()),
            }
        })
        .await;
        let retry =
            Retry { initial_delay: Duration::from_millis(20), max_delay: Duration::from_millis(20), max_retries: None };
        let host = Host::Address("127.0.0.1".parse().unwrap());
        let registrar = Registrar {
            host: &host,
            port,
            tls: None,
            retry: &retry,
            api_versions: &keylime_api::version::SUPPORTED,
            agent_data: Path::new("agent_data.json"),
        };
        let id = "a".parse().unwrap();
        let shutdown = service::signals::shutdown().unwrap();
        let outcome = tokio::select! {
            outcome = registrar.register(&id, &registration, &tpm, &shutdown) => outcome,
            () = serve => unreachable!("it serves for ever"),
        };
        let text = format!(
            "Failed to register agent: Registration forbidden - text: is http://127.0.0.1:{port} the registrar (option \
             'registrar_port', usually 8890), and not the verifier?"
        );
        assert_eq!(outcome.unwrap_err().to_string(), text);
        let mut seen = seen.into_inner();
        // How often the registrar is asked while the TPM comes back is a matter of time.
        seen.dedup();
        let (get, post) = ("GET /version", "POST /v2.5/agents/a");
        assert_eq!(seen, [get, post, get, post, get, "POST /v2.6/agents/a"]);
        tpm.shutdown().await.unwrap();
    }
}
