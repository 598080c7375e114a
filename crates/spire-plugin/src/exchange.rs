// SPDX-License-Identifier: Apache-2.0
//! One bidirectional attestation call: a task of its own, that ends when SPIRE cancels, and whose
//! panic is an error of this call and nothing more.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use tracing::{Instrument, Span};

/// The response stream of a call that [`serve`] answers.
pub type Answers<Out> = ReceiverStream<Result<Out, Status>>;

/// The two directions of a running call.
#[derive(Debug)]
pub struct Exchange<In, Out> {
    requests: Streaming<In>,
    answers: mpsc::Sender<Result<Out, Status>>,
}

impl<In, Out> Exchange<In, Out> {
    /// Waits for the next message; `None` once the other side has said its last.
    ///
    /// # Errors
    /// The status of a broken stream.
    pub async fn receive(&mut self) -> Result<Option<In>, Status> {
        self.requests.message().await
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `Cancelled` when SPIRE has gone.
    pub async fn send(&self, message: Out) -> Result<(), Status> {
        self.answers.send(Ok(message)).await.map_err(|_| Status::cancelled("the call was cancelled"))
    }
}

/// Answers a call with what `work` sends, and ends it with what `work` returns.
///
/// The response starts at once: SPIRE's agent waits for the first message without having sent one.
/// When SPIRE cancels, as it does at the end of every attestation, `work` is dropped at its next
/// await. Its log lines carry `span`.
pub fn serve<In, Out, Work, Outcome>(requests: Streaming<In>, span: Span, work: Work) -> Response<Answers<Out>>
where
    In: Send + 'static,
    Out: Send + 'static,
    Work: FnOnce(Exchange<In, Out>) -> Outcome,
    Outcome: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (answers, stream) = mpsc::channel(1);
    let exchange = Exchange { requests, answers: answers.clone() };
    let mut running = tokio::spawn(work(exchange).instrument(span.clone()));
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = answers.closed() => {
                running.abort();
                return;
            }
        };
        let failed = match ended {
            Ok(Ok(())) => return,
            Ok(Err(status)) => status,
            // The panic hook has logged what happened.
            Err(_) => Status::internal("internal error in the plugin, see its log"),
        };
        // A refused send means that SPIRE has gone, so nobody is left to be told.
        let _gone = answers.send(Err(failed)).await;
    });
    Response::new(ReceiverStream::new(stream))
}
