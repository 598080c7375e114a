// SPDX-License-Identifier: Apache-2.0
//! The plugin's metrics, which SPIRE shows among its own.
//!
//! SPIRE offers a service over the broker that takes metrics; a Prometheus exporter of SPIRE shows the counter
//! `heartbeat` of a server plugin as `spire_server_keylime_attestor_heartbeat`, of an agent plugin with `spire_agent`
//! before it. Metrics must not cost an attestation anything: recording adds to a sum or puts into a bounded queue, and
//! returns; one task in the background sends. While SPIRE takes none, what was counted is kept, and the rest dropped.

mod outcome;

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use go_plugin::{Broker, BrokerError};
pub use outcome::Outcome;
use spire_proto::metrics::{
    IncrCounterRequest, Label, MeasureSinceRequest, SetGaugeRequest, metrics_client::MetricsClient, metrics_server,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Status, transport::Channel};

/// gRPC name of SPIRE's metrics service.
pub const SERVICE: &str = metrics_server::SERVICE_NAME;

/// First part of every key. Nothing else in SPIRE tells a plugin's metrics from its own.
const PREFIX: &str = "keylime_attestor";

/// Broker number of all of SPIRE's host services.
const HOST_SERVICES: u32 = 1;

/// Gauges and times that may wait to be sent. One takes SPIRE about a millisecond, an attestation makes a few.
const QUEUE: usize = 256;

/// Most that is added to a counter at once. Single precision, which the wire has, is exact up to here.
const MAX_SUM: u32 = 1 << 24;

/// Counter of the gauges and times that were dropped.
const DROPPED: &str = "metrics_dropped";

/// Longest time for one metric; SPIRE takes it without waiting for anything.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Pause after a failure. Gauges and times of that pause are dropped.
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
    counts: Arc<Counts>,
    /// What the sending task takes when it starts.
    idle: Mutex<Option<Sending>>,
    started: AtomicBool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("started", &self.started).finish_non_exhaustive()
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
        let counts = Arc::new(Counts::default());
        let sending = Sending {
            samples,
            counts: Arc::clone(&counts),
            dial: Box::new(dial),
            client: None,
            paused: None,
            failing: false,
        };
        let idle = Mutex::new(Some(sending));
        Self { inner: Arc::new(Inner { queue, counts, idle, started: AtomicBool::new(false) }) }
    }

    /// Adds one to the counter `key`. It arrives however long SPIRE takes no metrics; where an answer of SPIRE was
    /// lost, perhaps twice.
    pub fn count(&self, key: &'static str, labels: Labels<'_>) {
        if self.inner.started.load(Ordering::Acquire) {
            self.inner.counts.add(key, labels);
        }
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

    /// Runs `work` and adds the time it took, whatever came of it, to the distribution `latency` of this `hop`.
    pub async fn latency<T>(&self, hop: &'static str, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let done = work.await;
        self.measure("latency", start.elapsed(), &[("hop", hop)]);
        done
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
            self.inner.counts.add(DROPPED, &[]);
        }
    }
}

/// The label that stands for how something ended: gRPC's name of the code, as far as the plugins use it.
pub fn result(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::InvalidArgument => "InvalidArgument",
        Code::PermissionDenied => "PermissionDenied",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Unavailable => "Unavailable",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::ResourceExhausted => "ResourceExhausted",
        _ => "Internal",
    }
}

/// What has been counted and is not with SPIRE yet. Keys and labels are written in the program, so the list is short.
#[derive(Default)]
struct Counts {
    sums: Mutex<Vec<Sum>>,
    added: Notify,
}

struct Sum {
    key: &'static str,
    labels: Vec<(&'static str, &'static str)>,
    pending: u64,
}

impl Counts {
    fn add(&self, key: &'static str, labels: Labels<'_>) {
        let mut sums = self.sums();
        match sums.iter_mut().find(|sum| sum.key == key && sum.labels == labels) {
            Some(sum) => sum.pending += 1,
            None => sums.push(Sum { key, labels: labels.to_vec(), pending: 1 }),
        }
        self.added.notify_one();
    }

    /// The first counter at or after `index` that waits, and how much of it to send.
    fn pending(&self, index: usize) -> Option<(usize, IncrCounterRequest, u32)> {
        let sums = self.sums();
        let (index, sum) = sums.iter().enumerate().skip(index).find(|(_, sum)| sum.pending > 0)?;
        let part = u32::try_from(sum.pending).unwrap_or(MAX_SUM).min(MAX_SUM);
        #[allow(clippy::cast_precision_loss, reason = "bounded by what is exact")]
        let val = part as f32;
        Some((index, IncrCounterRequest { key: key(sum.key), val, labels: labels(&sum.labels) }, part))
    }

    /// `part` of the counter has arrived.
    fn sent(&self, index: usize, part: u32) {
        if let Some(sum) = self.sums().get_mut(index) {
            sum.pending = sum.pending.saturating_sub(part.into());
        }
    }

    fn sums(&self) -> MutexGuard<'_, Vec<Sum>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A gauge or time to be sent.
#[derive(Debug)]
struct Sample {
    key: &'static str,
    value: Value,
    labels: Vec<(&'static str, &'static str)>,
}

#[derive(Debug)]
enum Value {
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
    counts: Arc<Counts>,
    dial: Box<dyn Fn() -> Dialling + Send>,
    client: Option<MetricsClient<Channel>>,
    /// Until when nothing is tried, after a failure.
    paused: Option<Instant>,
    failing: bool,
}

impl Sending {
    /// Sends until all [`Metrics`] are gone.
    async fn run(mut self) {
        let counts = Arc::clone(&self.counts);
        loop {
            tokio::select! {
                () = sleep_until(self.paused.unwrap_or_else(Instant::now)), if self.paused.is_some() => {
                    self.paused = None;
                    let sent = self.send_counts().await;
                    self.note(sent);
                }
                () = counts.added.notified(), if self.paused.is_none() => {
                    let sent = self.send_counts().await;
                    self.note(sent);
                }
                sample = self.samples.recv() => {
                    let Some(sample) = sample else { return };
                    if self.paused.is_some() {
                        counts.add(DROPPED, &[]);
                        continue;
                    }
                    let sent = self.send(&sample).await;
                    if sent.is_err() {
                        counts.add(DROPPED, &[]);
                    }
                    self.note(sent);
                }
            }
        }
    }

    fn note(&mut self, sent: Result<(), SendError>) {
        let Err(error) = sent else {
            if self.failing {
                tracing::debug!("SPIRE takes metrics again");
            }
            self.failing = false;
            return;
        };
        // Once for each time that it breaks. Attestations go on without.
        if !self.failing {
            tracing::warn!(%error, "Metrics do not reach SPIRE; they are tried again now and then");
        }
        (self.paused, self.failing) = (Some(Instant::now() + PAUSE), true);
    }

    async fn client(&mut self) -> Result<MetricsClient<Channel>, SendError> {
        match &self.client {
            Some(client) => Ok(client.clone()),
            None => Ok(self.client.insert(MetricsClient::new((self.dial)().await?)).clone()),
        }
    }

    /// Sends each sum once. What is added meanwhile wakes the task again.
    async fn send_counts(&mut self) -> Result<(), SendError> {
        let mut next = 0;
        while let Some((index, request, part)) = self.counts.pending(next) {
            let mut client = self.client().await?;
            within(client.incr_counter(request)).await?;
            self.counts.sent(index, part);
            // Once more if the sum was too much for one call.
            next = if part == MAX_SUM { index } else { index + 1 };
        }
        Ok(())
    }

    async fn send(&mut self, sample: &Sample) -> Result<(), SendError> {
        let mut client = self.client().await?;
        let key = key(sample.key);
        let labels = labels(&sample.labels);
        match sample.value {
            Value::Gauge(val) => within(client.set_gauge(SetGaugeRequest { key, val, labels })).await,
            // Not AddSample, which Prometheus shows in the same way: other exporters tell times from plain numbers.
            Value::Time(elapsed) => {
                within(client.measure_since(MeasureSinceRequest { key, time: start(elapsed), labels })).await
            }
        }
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
