// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::AtomicUsize;

use spire_proto::metrics::{
    AddSampleRequest, EmitKeyRequest,
    metrics_server::{Metrics as Service, MetricsServer},
};
use tokio::sync::{Notify, Semaphore};
use tonic::{Request, Response, service::Routes};

use super::*;
use crate::test_support::Log;

/// SPIRE's side: writes down what it gets, when it is let.
#[derive(Default)]
struct Spire {
    seen: Mutex<Vec<String>>,
    came: Notify,
    /// Calls that are answered, all if `None`.
    slots: Option<Semaphore>,
    failures: AtomicUsize,
}

impl Spire {
    async fn take(&self, key: &[String], value: String, labels: &[Label]) -> Result<Response<()>, Status> {
        if let Some(slots) = &self.slots {
            slots.acquire().await.unwrap().forget();
        }
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(Status::internal("on purpose"));
        }
        let labels: String = labels.iter().map(|label| format!(" {}={}", label.name, label.value)).collect();
        self.seen.lock().unwrap().push(format!("{} {value}{labels}", key.join("_")));
        self.came.notify_one();
        Ok(Response::new(()))
    }

    /// Waits for `count` metrics; sorted.
    async fn wait(&self, count: usize) -> Vec<String> {
        while self.seen.lock().unwrap().len() < count {
            self.came.notified().await;
        }
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.sort();
        seen
    }
}

#[tonic::async_trait]
impl Service for Spire {
    async fn set_gauge(&self, request: Request<SetGaugeRequest>) -> Result<Response<()>, Status> {
        let SetGaugeRequest { key, val, labels } = request.into_inner();
        self.take(&key, format!("= {val}"), &labels).await
    }
    async fn emit_key(&self, _: Request<EmitKeyRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn incr_counter(&self, request: Request<IncrCounterRequest>) -> Result<Response<()>, Status> {
        let IncrCounterRequest { key, val, labels } = request.into_inner();
        self.take(&key, format!("+ {val}"), &labels).await
    }
    async fn add_sample(&self, _: Request<AddSampleRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn measure_since(&self, request: Request<MeasureSinceRequest>) -> Result<Response<()>, Status> {
        let MeasureSinceRequest { key, time, labels } = request.into_inner();
        let start = UNIX_EPOCH + Duration::from_nanos(time.try_into().unwrap());
        let seconds = SystemTime::now().duration_since(start).unwrap().as_secs();
        self.take(&key, format!("took {seconds} s"), &labels).await
    }
}

fn metrics(spire: &Arc<Spire>) -> Metrics {
    let metrics = Metrics::to(Routes::new(MetricsServer::from_arc(Arc::clone(spire))));
    metrics.offered(&[SERVICE.to_owned()]);
    metrics
}

#[tokio::test]
async fn each_kind_arrives_with_its_key_and_labels() {
    let spire = Arc::new(Spire::default());
    let metrics = metrics(&spire);
    metrics.count("attestations", &[("outcome", "refused"), ("code", "Unavailable")]);
    metrics.gauge("slots", 2.5, &[]);
    metrics.clone().measure("quote", Duration::from_secs(3600), &[]);
    assert_eq!(
        spire.wait(3).await,
        [
            "keylime_attestor_attestations + 1 outcome=refused code=Unavailable",
            "keylime_attestor_quote took 3600 s",
            "keylime_attestor_slots = 2.5",
        ]
    );
}

#[tokio::test]
async fn counts_of_one_key_and_its_labels_go_together() {
    let spire = Arc::new(Spire::default());
    let metrics = metrics(&spire);
    for _ in 0..3 {
        metrics.count("attestation", &[("result", result(Code::Ok))]);
        metrics.count("attestation", &[("result", result(Code::Unavailable))]);
        metrics.count("heartbeat", &[]);
    }
    metrics.count("heartbeat", &[]);
    assert_eq!(
        spire.wait(3).await,
        [
            "keylime_attestor_attestation + 3 result=Ok",
            "keylime_attestor_attestation + 3 result=Unavailable",
            "keylime_attestor_heartbeat + 4",
        ]
    );
    metrics.count("heartbeat", &[]);
    assert_eq!(spire.wait(1).await, ["keylime_attestor_heartbeat + 1"]);
}

#[tokio::test]
async fn an_attestation_is_counted_once_however_it_ends() {
    let spire = Arc::new(Spire::default());
    let metrics = metrics(&spire);
    let begin = || Outcome::begin(metrics.clone());
    drop(begin());
    let mut refused = begin();
    refused.is(Code::PermissionDenied);
    drop(refused);
    // A later fault of our own counts for more than what was reached before.
    let mut answered = begin();
    answered.is(Code::Ok);
    let panicked = tokio::spawn(async move {
        let _answered = answered;
        panic!("on purpose")
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(
        spire.wait(3).await,
        [
            "keylime_attestor_attestation + 1 result=Cancelled",
            "keylime_attestor_attestation + 1 result=Internal",
            "keylime_attestor_attestation + 1 result=PermissionDenied",
        ]
    );
}

#[tokio::test]
async fn a_sum_beyond_what_the_wire_has_exactly_goes_in_parts() {
    let spire = Arc::new(Spire::default());
    let metrics = metrics(&spire);
    metrics.count("many", &[]);
    metrics.inner.counts.sums().first_mut().unwrap().pending = u64::from(MAX_SUM) + 5;
    assert_eq!(spire.wait(2).await, ["keylime_attestor_many + 16777216", "keylime_attestor_many + 5"]);
}

#[tokio::test]
async fn without_the_offer_nothing_is_dialled_and_nothing_kept() {
    let dialled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dialled);
    let metrics = Metrics::over(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    });
    metrics.count("before", &[]);
    metrics.offered(&["spire.hostservice.server.agentstore.v1.AgentStore".to_owned()]);
    for _ in 0..2 * QUEUE {
        metrics.count("after", &[]);
    }
    tokio::task::yield_now().await;
    assert_eq!(dialled.load(Ordering::Relaxed), 0);
    assert!(metrics.inner.counts.sums().is_empty());
    assert_eq!(metrics.inner.queue.capacity(), QUEUE);
}

#[tokio::test]
async fn a_full_queue_drops_samples_counts_them_and_keeps_every_count() {
    let spire = Arc::new(Spire::default());
    let metrics = metrics(&spire);
    // The runtime has one thread, so nothing is taken out meanwhile.
    for _ in 0..QUEUE + 7 {
        metrics.gauge("many", 1.0, &[]);
        metrics.count("counted", &[]);
    }
    let seen = spire.wait(QUEUE + 2).await;
    assert_eq!(seen.first().unwrap(), &format!("keylime_attestor_counted + {}", QUEUE + 7));
    assert_eq!(seen.last().unwrap(), "keylime_attestor_metrics_dropped + 7");
    assert_eq!(seen.iter().filter(|line| *line == "keylime_attestor_many = 1").count(), QUEUE);
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_once_and_no_count_is_lost_by_them() {
    let log = Log::default();
    let _guard = log.listen();
    let spire = Arc::new(Spire { failures: AtomicUsize::new(5), ..Spire::default() });
    let metrics = metrics(&spire);
    for _ in 0..4 {
        for _ in 0..3 {
            metrics.count("heartbeat", &[]);
            metrics.gauge("lost", 1.0, &[]);
        }
        tokio::time::sleep(PAUSE + Duration::from_secs(1)).await;
    }
    assert_eq!(spire.wait(0).await, [""; 0]);
    // Nothing more is recorded: what waits is sent by itself.
    assert_eq!(spire.wait(2).await, ["keylime_attestor_heartbeat + 12", "keylime_attestor_metrics_dropped + 12"]);
    assert_eq!(
        log.take(),
        ["WARN Metrics do not reach SPIRE; they are tried again now and then error=Internal: on purpose"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_answer_is_given_up() {
    let log = Log::default();
    let _guard = log.listen();
    let spire = Arc::new(Spire { slots: Some(Semaphore::new(0)), ..Spire::default() });
    let metrics = metrics(&spire);
    metrics.count("lost", &[]);
    tokio::time::sleep(CALL_LIMIT + PAUSE).await;
    assert_eq!(
        log.take(),
        ["WARN Metrics do not reach SPIRE; they are tried again now and then error=no answer within 5 s"]
    );
}
