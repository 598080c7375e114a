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
    /// The status of a broken stream; `OutOfRange` for a message that is too long.
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
/// await. Its log lines carry `span`. If it panics, the call ends with `on_panic`.
pub fn serve<In, Out, Work, Outcome>(
    requests: Streaming<In>,
    span: Span,
    on_panic: Status,
    work: Work,
) -> Response<Answers<Out>>
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
            Err(_) => on_panic,
        };
        // A refused send means that SPIRE has gone, so nobody is left to be told.
        let _gone = answers.send(Err(failed)).await;
    });
    Response::new(ReceiverStream::new(stream))
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use spire_proto::agent_nodeattestor::{
        Challenge, PayloadOrChallengeResponse,
        node_attestor_client::NodeAttestorClient,
        node_attestor_server::{NodeAttestor, NodeAttestorServer},
        payload_or_challenge_response::Data,
    };
    use tokio::sync::oneshot;
    use tonic::{Code, Request, service::Routes};

    use super::*;
    use crate::test_support::channel;

    /// What the plugin does after its payload, one for each call.
    enum Then {
        Echo,
        Fail,
        Panic,
        Hang(oneshot::Sender<()>),
    }

    struct Plugin(Mutex<Option<Then>>);

    fn say(data: Vec<u8>) -> PayloadOrChallengeResponse {
        PayloadOrChallengeResponse { data: Some(Data::Payload(data)) }
    }

    #[tonic::async_trait]
    impl NodeAttestor for Plugin {
        type AidAttestationStream = Answers<PayloadOrChallengeResponse>;

        async fn aid_attestation(
            &self,
            request: Request<Streaming<Challenge>>,
        ) -> Result<Response<Self::AidAttestationStream>, Status> {
            let then = self.0.lock().unwrap().take().unwrap();
            let on_panic = Status::internal("internal error in the plugin, see its log");
            Ok(serve(
                request.into_inner(),
                Span::none(),
                on_panic,
                move |mut exchange: Exchange<Challenge, _>| async move {
                    exchange.send(say(b"P".to_vec())).await?;
                    match then {
                        Then::Echo => {
                            while let Some(Challenge { challenge }) = exchange.receive().await? {
                                exchange.send(say(challenge)).await?;
                            }
                            Ok(())
                        }
                        Then::Fail => Err(Status::unavailable("no TPM")),
                        Then::Panic => panic!("on purpose"),
                        // The sender goes when the work is dropped.
                        Then::Hang(_dropped) => std::future::pending().await,
                    }
                },
            ))
        }
    }

    type Responses = Streaming<PayloadOrChallengeResponse>;

    /// Opens a call without a message, as SPIRE does, and reads the payload.
    async fn call(then: Then) -> (mpsc::Sender<Challenge>, Responses) {
        let plugin = channel(Routes::new(NodeAttestorServer::new(Plugin(Mutex::new(Some(then))))));
        let (requests, stream) = mpsc::channel(1);
        let mut client = NodeAttestorClient::new(plugin);
        let mut responses = client.aid_attestation(ReceiverStream::new(stream)).await.unwrap().into_inner();
        assert_eq!(responses.message().await.unwrap(), Some(say(b"P".to_vec())));
        (requests, responses)
    }

    #[tokio::test]
    async fn messages_go_both_ways_until_the_work_ends() {
        let (requests, mut responses) = call(Then::Echo).await;
        requests.send(Challenge { challenge: b"C".to_vec() }).await.unwrap();
        assert_eq!(responses.message().await.unwrap(), Some(say(b"C".to_vec())));
        drop(requests);
        assert_eq!(responses.message().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_failure_and_a_panic_end_their_own_call() {
        for (then, code, text) in [
            (Then::Fail, Code::Unavailable, "no TPM"),
            (Then::Panic, Code::Internal, "internal error in the plugin, see its log"),
        ] {
            let (_requests, mut responses) = call(then).await;
            let status = responses.message().await.unwrap_err();
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }

    #[tokio::test]
    async fn a_cancelled_call_drops_its_work() {
        let (sender, dropped) = oneshot::channel();
        let (requests, responses) = call(Then::Hang(sender)).await;
        drop((responses, requests));
        let result = tokio::time::timeout(Duration::from_secs(60), dropped).await;
        assert!(result.expect("the work is dropped").is_err());
    }
}
