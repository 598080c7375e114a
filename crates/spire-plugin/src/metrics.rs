// SPDX-License-Identifier: Apache-2.0
//! The plugin's metrics, which SPIRE shows among its own.
//!
//! SPIRE offers a service over the broker that takes metrics; a Prometheus exporter of SPIRE shows the counter
//! `heartbeat` of a server plugin as `spire_server_keylime_attestor_heartbeat`, of an agent plugin with `spire_agent`
//! before it. Metrics must not cost an attestation anything: recording puts into a bounded queue, or nowhere, and
//! returns; one task in the background sends.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use go_plugin::{Broker, BrokerError};
use spire_proto::metrics::{
    IncrCounterRequest, Label, MeasureSinceRequest, SetGaugeRequest, metrics_client::MetricsClient, metrics_server,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Status, transport::Channel};

/// gRPC name of SPIRE's metrics service.
pub const SERVICE: &str = metrics_server::SERVICE_NAME;

/// First part of every key. Nothing else in SPIRE tells a plugin's metrics from its own.
const PREFIX: &str = "keylime_attestor";

/// Broker number of all of SPIRE's host services.
const HOST_SERVICES: u32 = 1;

/// Metrics that may wait to be sent. One takes SPIRE about a millisecond, an attestation makes a few.
const QUEUE: usize = 256;

/// Longest time for one metric; SPIRE takes it without waiting for anything.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Pause after a failure. Metrics of that time are dropped.
const PAUSE: Duration = Duration::from_secs(30);

/// Names and values of labels. They are written in the program, so that nothing a node says becomes a label: each
/// new value is one more time series for good.
pub type Labels<'a> = &'a [(&'static str, &'static str)];

/// Where the plugin's metrics go. Clones share everything.
///
/// Until SPIRE has said in `Init` that it offers its metrics service, and if it does not, all calls do nothing.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    queue: mpsc::Sender<Sample>,
    /// What the sending task takes when it starts.
    idle: Mutex<Option<Sending>>,
    started: AtomicBool,
    dropped: Arc<AtomicU64>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("started", &self.started).field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics for the host behind `broker`. Nothing is dialled before the first metric.
    pub fn new(broker: &Broker) -> Self {
        let broker = broker.clone();
        Self::over(move || {
            let broker = broker.clone();
            Box::pin(async move { broker.dial(HOST_SERVICES).await })
        })
    }

    pub(crate) fn over(dial: impl Fn() -> Dialling + Send + 'static) -> Self {
        let (queue, samples) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let sending = Sending {
            samples,
            dropped: Arc::clone(&dropped),
            dial: Box::new(dial),
            client: None,
            paused: None,
            failing: false,
        };
        let idle = Mutex::new(Some(sending));
        Self { inner: Arc::new(Inner { queue, idle, started: AtomicBool::new(false), dropped }) }
    }

    /// Adds one to the counter `key`.
    pub fn count(&self, key: &'static str, labels: Labels<'_>) {
        self.record(key, Value::Count, labels);
    }

    /// Sets the gauge `key`.
    pub fn gauge(&self, key: &'static str, value: f32, labels: Labels<'_>) {
        self.record(key, Value::Gauge(value), labels);
    }

    /// Adds `time` to the distribution `key`, which Prometheus shows in milliseconds, as it does SPIRE's own times:
    /// quantiles of the last minute or so, `_sum` and `_count`.
    pub fn measure(&self, key: &'static str, time: Duration, labels: Labels<'_>) {
        self.record(key, Value::Time(time), labels);
    }

    /// Takes note of what the host said it offers, and starts the sending task if that includes [`SERVICE`].
    pub(crate) fn offered(&self, host_services: &[String]) {
        if !host_services.iter().any(|service| service == SERVICE) {
            return;
        }
        let idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sending) = idle {
            tokio::spawn(sending.run());
            self.inner.started.store(true, Ordering::Release);
        }
    }

    fn record(&self, key: &'static str, value: Value, labels: Labels<'_>) {
        if !self.inner.started.load(Ordering::Acquire) {
            return;
        }
        if self.inner.queue.try_send(Sample { key, value, labels: labels.to_vec() }).is_err() {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One metric to be sent.
#[derive(Debug)]
struct Sample {
    key: &'static str,
    value: Value,
    labels: Vec<(&'static str, &'static str)>,
}

#[derive(Debug)]
enum Value {
    Count,
    Gauge(f32),
    Time(Duration),
}

/// A connection on its way.
pub(crate) type Dialling = Pin<Box<dyn Future<Output = Result<Channel, BrokerError>> + Send>>;

/// Why a metric did not arrive.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{0}")]
    Dial(#[from] BrokerError),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(#[from] Status),
    #[error("no answer within {} s", CALL_LIMIT.as_secs())]
    TooSlow,
}

/// The sending task.
struct Sending {
    samples: mpsc::Receiver<Sample>,
    dropped: Arc<AtomicU64>,
    dial: Box<dyn Fn() -> Dialling + Send>,
    client: Option<MetricsClient<Channel>>,
    /// Until when nothing is tried, after a failure.
    paused: Option<Instant>,
    failing: bool,
}

impl Sending {
    /// Sends until all [`Metrics`] are gone.
    async fn run(mut self) {
        while let Some(sample) = self.samples.recv().await {
            if self.paused.is_some_and(|until| Instant::now() < until) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            match self.send(&sample).await {
                Ok(()) => {
                    if self.failing {
                        tracing::debug!("SPIRE takes metrics again");
                    }
                    (self.paused, self.failing) = (None, false);
                }
                Err(error) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    // Once for each time that it breaks. Attestations go on without.
                    if !self.failing {
                        tracing::warn!(%error, "Metrics do not reach SPIRE; they are tried again now and then");
                    }
                    (self.paused, self.failing) = (Some(Instant::now() + PAUSE), true);
                }
            }
        }
    }

    async fn send(&mut self, sample: &Sample) -> Result<(), SendError> {
        let mut client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(MetricsClient::new((self.dial)().await?)).clone(),
        };
        let key = key(sample.key);
        let labels = labels(&sample.labels);
        match sample.value {
            Value::Count => {
                within(client.incr_counter(IncrCounterRequest { key, val: 1.0, labels })).await?;
            }
            Value::Gauge(val) => within(client.set_gauge(SetGaugeRequest { key, val, labels })).await?,
            // Not AddSample, which Prometheus shows in the same way: other exporters tell times from plain numbers.
            Value::Time(elapsed) => {
                within(client.measure_since(MeasureSinceRequest { key, time: start(elapsed), labels })).await?;
            }
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            // Beyond 2^24 the sum is not exact, and need not be.
            #[allow(clippy::cast_precision_loss, reason = "the wire has single precision")]
            let request = IncrCounterRequest { key: self::key("metrics_dropped"), val: dropped as f32, labels: vec![] };
            if let Err(error) = within(client.incr_counter(request)).await {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }
}

fn key(name: &str) -> Vec<String> {
    vec![PREFIX.to_owned(), name.to_owned()]
}

fn labels(labels: &[(&'static str, &'static str)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label { name: (*name).to_owned(), value: (*value).to_owned() }).collect()
}

/// The start of a span of time that ends now, in nanoseconds since the Unix epoch. Taken when the metric is sent, so
/// that its time in the queue does not count.
fn start(elapsed: Duration) -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.saturating_sub(elapsed).as_nanos()).unwrap_or(i64::MAX)
}

async fn within(call: impl Future<Output = Result<tonic::Response<()>, Status>>) -> Result<(), SendError> {
    match timeout(CALL_LIMIT, call).await {
        Ok(answer) => Ok(answer.map(tonic::Response::into_inner)?),
        Err(_) => Err(SendError::TooSlow),
    }
}

#[cfg(test)]
mod tests;
