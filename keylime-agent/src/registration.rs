// SPDX-License-Identifier: Apache-2.0
//! Registration with the registrar and activation of its credential, tried until they succeed.

use std::sync::Arc;
use std::time::Duration;

use keylime_api::client::{ClientError, HttpSettings};
use keylime_api::credential::auth_tag;
use keylime_api::registration::{Registration, RegistrationClient};
use keylime_api::version::ApiVersion;
use keylime_api::{AgentId, HostPort};
use ring::rand::SecureRandom as _;
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

/// Why the agent is not registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrationError {
    #[error("{0}")]
    Address(#[from] keylime_api::InvalidHostPort),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("Failed to register agent: Registration forbidden - {0}")]
    Forbidden(String),
    #[error("Failed to register agent: {0}")]
    Final(#[source] ClientError),
    #[error("Failed to register agent after retrying: {0}")]
    Exhausted(#[source] Failure),
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
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The registrar has an active record.
    Registered,
    /// A signal came while waiting for the next try.
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
}

impl Registrar<'_> {
    /// Registers and activates. While the registrar cannot be reached this goes on, by default without end; what a retry
    /// cannot change is an error at once.
    ///
    /// A registration makes the record inactive until the activation, so the two are never separated by a signal.
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
        };
        let mut backoff = Backoff::new(self.retry);
        loop {
            let reachable = tokio::select! {
                reachable = call.is_reachable() => reachable,
                () = shutdown.wait() => return Ok(Outcome::Interrupted),
            };
            let result = match reachable {
                Ok(()) => call.register_and_activate().await,
                Err(error) => Err(error),
            };
            let failure = match result {
                Ok(()) => return Ok(Outcome::Registered),
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Failure(failure)) => failure,
            };
            report(&failure);
            let asked = match &failure {
                Failure::Client(error) | Failure::Activation(error) => error.retry_after(),
            };
            let Some(delay) = backoff.next(asked) else {
                return Err(RegistrationError::Exhausted(failure));
            };
            tracing::info!("Trying to register again in {:.1} s", delay.as_secs_f32());
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
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
}

impl Call<'_> {
    /// Asks for the API versions, which the first try needs and every further one uses to see whether the registrar is
    /// there before its record is touched.
    async fn is_reachable(&self) -> Result<(), Stop> {
        tracing::info!("Requesting registrar API version to {}/version", self.url);
        tracing::debug!("connecting to {}", self.address);
        self.client.version().await.map(|_| ()).map_err(classify)
    }

    async fn register_and_activate(&self) -> Result<(), Stop> {
        let (id, url) = (self.id, &self.url);
        tracing::info!("Requesting agent registration from {url} for {id}");
        let registered = self.client.register(id, self.registration).await;
        let blob = registered.map_err(classify)?;
        tracing::info!("SUCCESS: Agent {id} registered");
        let credential = ParsedCredential { id_object: blob.id_object, encrypted_secret: blob.encrypted_secret };
        let secret = self.tpm.activate_credential(credential).await.map_err(|error| Stop::Final(error.into()))?;
        tracing::info!("Requesting agent activation from {url} for {id}");
        let activated = self.client.activate(id, &auth_tag(&secret, id)).await;
        activated.map_err(|error| match &error {
            ClientError::Status { code: 400, .. } | ClientError::NotFound { .. } => {
                Stop::Failure(Failure::Activation(error))
            }
            _ => classify(error),
        })?;
        tracing::info!("SUCCESS: Agent {id} activated");
        Ok(())
    }
}

fn classify(error: ClientError) -> Stop {
    match error {
        ClientError::Forbidden { text, .. } => Stop::Final(RegistrationError::Forbidden(text)),
        // A registrar that is being set up may show a certificate that will be replaced, and a host that has just been
        // started a clock that will be set.
        error if error.is_transient() || matches!(error, ClientError::Tls { .. }) => {
            Stop::Failure(Failure::Client(error))
        }
        error => Stop::Final(RegistrationError::Final(error)),
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
        other => tracing::warn!("Network error: {other}"),
    }
}

/// Waits that double up to a cap and are spread by a quarter, so that hosts that were started together do not come back
/// together.
struct Backoff<'a> {
    retry: &'a Retry,
    tries: u64,
}

impl<'a> Backoff<'a> {
    fn new(retry: &'a Retry) -> Self {
        Self { retry, tries: 0 }
    }

    /// The next wait, or `None` if there were enough tries. What the registrar asks for counts, up to the cap.
    fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if self.retry.max_retries.is_some_and(|max| self.tries >= max) {
            return None;
        }
        let doublings = u32::try_from(self.tries.min(31)).unwrap_or(31);
        self.tries += 1;
        let computed = self.retry.initial_delay.saturating_mul(1 << doublings);
        let delay = asked.unwrap_or(computed).min(self.retry.max_delay);
        Some(match asked {
            Some(_) => delay,
            None => delay.mul_f64(0.75 + 0.25 * random()),
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
    }
}
