// SPDX-License-Identifier: Apache-2.0
//! One call: request, bounded answer, errors told apart

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{AGE, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use serde_json::Value;
use tls::rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::client::{ClientError, HttpSettings};
use crate::host_port::HostPort;
use crate::members::{BodyError, Members, clean};

/// Longest status text kept for messages, in characters.
const MAX_TEXT: usize = 300;

/// How long the text behind an error status is waited for.
const ERROR_TEXT_LIMIT: Duration = Duration::from_secs(2);

/// Idle connections are kept this long. SPIRE agents re-attest about every half hour.
const POOL_IDLE: Duration = Duration::from_secs(40 * 60);

/// Calls to the peer at once, thus connections too; the others wait.
const MAX_IN_FLIGHT: usize = 32;

/// Idle connections kept: all of a burst, for if some were closed when their call ends, the next call of the same burst
/// would pay for a TLS handshake, as would the peer. The one used last is taken first, so those that no
/// later burst needs stay idle and are closed after [`POOL_IDLE`] to twice that.
const MAX_IDLE: usize = MAX_IN_FLIGHT;

/// How a peer is reached.
pub(crate) enum Transport<'a> {
    Tls(&'a HostPort, Arc<ClientConfig>),
    Plain(&'a HostPort),
    Unix(&'a Path),
}

/// A connection pool to one peer.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    base: String,
    peer: String,
    settings: HttpSettings,
    /// One permit per call.
    slots: Semaphore,
}

/// A 200 answer.
pub(crate) struct Answer {
    pub(crate) date: Option<SystemTime>,
    /// It comes from a cache, so `date` is when the cache got it.
    pub(crate) cached: bool,
    content_type: String,
    body: Vec<u8>,
}

/// The path of a request, with and without what must not be logged.
pub(crate) struct Target {
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    /// Largest body accepted, in bytes, where it is not the client's usual one.
    pub(crate) max_body: Option<usize>,
}

impl From<String> for Target {
    fn from(path: String) -> Self {
        Self { path, query: None, max_body: None }
    }
}

impl Http {
    /// `role` names the peer in messages, such as `the Keylime verifier`.
    pub(crate) fn new(role: &str, transport: Transport<'_>, settings: HttpSettings) -> Result<Self, ClientError> {
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .connect_timeout(settings.connect_timeout);
        // The library builds TLS settings of its own unless it is given some, plain HTTP or not.
        let (builder, tls, base, peer) = match transport {
            Transport::Tls(at, config) => {
                let base = format!("https://{at}");
                (builder.https_only(true), config, base.clone(), format!("{role} at {base}"))
            }
            Transport::Plain(at) => {
                let base = format!("http://{at}");
                (builder, tls::trust_nobody(), base.clone(), format!("{role} at {base}"))
            }
            Transport::Unix(path) => (
                builder.unix_socket(path),
                tls::trust_nobody(),
                "http://localhost".to_owned(),
                format!("{role} at the Unix socket {}", path.display()),
            ),
        };
        let client = builder
            .tls_backend_preconfigured(ClientConfig::clone(&tls))
            .build()
            .map_err(|source| ClientError::Setup { source: Arc::new(source) })?;
        Ok(Self { client, base, peer, settings, slots: Semaphore::new(MAX_IN_FLIGHT) })
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// The longest time for a whole call.
    pub(crate) fn limit(&self) -> Duration {
        self.settings.total_timeout
    }

    /// Runs one call of a client, which `name` names, when it is its turn, and within the one limit for
    /// all that it does: waiting for its turn, negotiating, asking once more. Nothing below this has a
    /// limit of its own but connecting.
    pub(crate) async fn within<T>(
        &self,
        name: impl FnOnce() -> String,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        self.before(Instant::now() + self.limit(), name, call).await
    }

    /// The same where the limit ends at `end`, or as ever if that is sooner. An end after the peer had
    /// less than half of the usual time says nothing about the peer.
    pub(crate) async fn before<T>(
        &self,
        end: Instant,
        name: impl FnOnce() -> String,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let limit = self.limit();
        let end = end.min(Instant::now() + limit);
        let slot = timeout_at(end, self.slots.acquire()).await;
        let begun = Instant::now();
        if slot.is_ok()
            && begun < end
            && let Ok(result) = timeout_at(end, call).await
        {
            return result;
        }
        let (peer, call) = (self.peer.clone(), name());
        if end.saturating_duration_since(begun) < limit / 2 {
            Err(ClientError::Busy { peer, call, limit })
        } else {
            Err(ClientError::Timeout { peer, call, limit })
        }
    }

    /// GET. Tried once more at once if the connection breaks: a connection kept for long may have
    /// been closed by the peer just now, and asking twice does no harm.
    pub(crate) async fn get(&self, target: &Target) -> Result<Answer, ClientError> {
        match self.send(Method::GET, target, None).await {
            Err(ClientError::Interrupted { .. }) => self.send(Method::GET, target, None).await,
            result => result,
        }
    }

    /// A request with a JSON body.
    pub(crate) async fn send_json(
        &self,
        method: Method,
        target: &Target,
        json: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        self.send(method, target, Some(json)).await
    }

    async fn send(&self, method: Method, target: &Target, json: Option<Vec<u8>>) -> Result<Answer, ClientError> {
        let call = format!("{method} {}", target.path);
        let query = target.query.as_ref().map(|q| format!("?{q}")).unwrap_or_default();
        let url = format!("{}{}{query}", self.base, target.path);
        let mut request = self.client.request(method, url);
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json);
        }
        let limit = target.max_body.unwrap_or(self.settings.max_body);
        let response = request.send().await.map_err(|e| self.failed(&call, e))?;
        let status = response.status();
        if status.is_redirection() {
            let code = status.as_u16();
            return Err(ClientError::Redirect { peer: self.peer.clone(), call, code });
        }
        let headers = response.headers().clone();
        let content_type = header(&headers, CONTENT_TYPE.as_str()).unwrap_or("none");
        let content_type = clean(content_type, 60);
        if status != StatusCode::OK {
            // The status decides; a body that cannot be had, or not soon, only leaves the message without text.
            let body = tokio::time::timeout(ERROR_TEXT_LIMIT, self.body(&call, response, limit)).await;
            let body = body.ok().and_then(Result::ok);
            let body = body.and_then(|body| serde_json::from_slice(&body).ok());
            return Err(self.refused(call, status, body, &headers));
        }
        let date = header(&headers, DATE.as_str()).and_then(|d| httpdate::parse_http_date(d).ok());
        let cached = headers.contains_key(AGE);
        let body = self.body(&call, response, limit).await?;
        Ok(Answer { date, cached, content_type, body })
    }

    async fn body(&self, call: &str, mut response: Response, limit: usize) -> Result<Vec<u8>, ClientError> {
        let too_large = || ClientError::TooLarge { peer: self.peer.clone(), call: call.to_owned(), limit };
        let announced = header(response.headers(), CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<usize>().ok());
        if announced.is_some_and(|n| n > limit) {
            return Err(too_large());
        }
        let mut body = Vec::with_capacity(announced.unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(|e| self.failed(call, e))? {
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn refused(&self, call: String, status: StatusCode, body: Option<Value>, headers: &HeaderMap) -> ClientError {
        let peer = self.peer.clone();
        let from_keylime = body.as_ref().is_some_and(is_envelope);
        let text = body.as_ref().and_then(status_text);
        let text = text.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
        match status {
            StatusCode::NOT_FOUND if from_keylime => ClientError::NotFound { peer, call, text },
            StatusCode::FORBIDDEN => ClientError::Forbidden { peer, call, text },
            _ => {
                let retry_after = header(headers, RETRY_AFTER.as_str()).and_then(retry_after);
                ClientError::Status { peer, call, code: status.as_u16(), text, retry_after }
            }
        }
    }

    /// Tells the ways apart in which no answer comes.
    fn failed(&self, call: &str, error: reqwest::Error) -> ClientError {
        // The URL may hold a nonce.
        let source = error.without_url();
        let (peer, call) = (self.peer.clone(), call.to_owned());
        if let Some(explanation) = tls::explain_source(&source) {
            ClientError::Tls { peer, explanation, source: Arc::new(source) }
        } else if source.is_timeout() && source.is_connect() {
            ClientError::ConnectTimeout { peer, limit: self.settings.connect_timeout }
        } else if source.is_timeout() {
            ClientError::Timeout { peer, call, limit: self.settings.total_timeout }
        } else if source.is_connect() {
            ClientError::Connect { peer, detail: innermost(&source), source: Arc::new(source) }
        } else {
            let mut detail = innermost(&source);
            let is_answer_of_tls =
                || detail.starts_with("invalid HTTP version") || (call == "GET /version" && is_reset(&source));
            if self.peer.contains(" at http://") && is_answer_of_tls() {
                // What a TLS port answers plain HTTP with is an alert, or nothing.
                detail.push_str(": does that port speak TLS?");
            }
            ClientError::Interrupted { peer, call, detail, source: Arc::new(source) }
        }
    }

    /// The members of an answer's `results`, read by `read`; a failure names peer and call.
    pub(crate) fn decode<T>(
        &self,
        call: impl FnOnce() -> String,
        answer: &Answer,
        read: impl FnOnce(&Members) -> Result<T, BodyError>,
    ) -> Result<T, ClientError> {
        Members::from_body(&answer.body, &answer.content_type)
            .and_then(|members| read(&members))
            .map_err(|source| ClientError::Body { peer: self.peer.clone(), call: call(), source })
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// RFC 9110 10.2.3: seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()
}

/// The 2.x envelope, which no other service uses: `code` is a number, `status` a text.
fn is_envelope(body: &Value) -> bool {
    let member = |name| body.get(name);
    member("code").is_some_and(Value::is_u64) && member("status").is_some_and(Value::is_string)
}

/// The message of an error answer: `status` of the 2.x envelope, or the first `title` and `detail`
/// of the 3.x form, which access checks use for every version.
fn status_text(body: &Value) -> Option<String> {
    let text = |v: &Value, name: &str| v.get(name)?.as_str().map(str::to_owned);
    let text = text(body, "status").or_else(|| {
        let first = body.get("errors")?.get(0)?;
        let parts: Vec<_> = ["title", "detail"].iter().filter_map(|n| text(first, n)).collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    })?;
    let text = clean(&text, MAX_TEXT);
    (!text.is_empty()).then_some(text)
}

fn is_reset(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(current) = next {
        if current.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
            return true;
        }
        next = current.source();
    }
    false
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests;
