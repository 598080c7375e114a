// SPDX-License-Identifier: Apache-2.0
//! The gRPC services that every plugin has besides its own: broker, controller, stdio and health.

use std::pin::Pin;

use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, service::Routes};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, HealthCheckResponse,
        health_server::{Health, HealthServer},
    },
};

use crate::{
    Broker,
    broker::OUTGOING,
    proto::{
        ConnInfo, Empty, StdioData,
        grpc_broker_server::{GrpcBroker, GrpcBrokerServer},
        grpc_controller_server::{GrpcController, GrpcControllerServer},
        grpc_stdio_server::{GrpcStdio, GrpcStdioServer},
    },
};

/// Name under which hosts ask for the health of a plugin.
pub(crate) const HEALTH_NAME: &str = "plugin";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// State of the conversation with the host. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    broker: Broker,
    ended: watch::Sender<bool>,
}

impl Session {
    pub(crate) fn new(broker: Broker) -> Self {
        Self { broker, ended: watch::Sender::new(false) }
    }

    /// The application's services and those of this file.
    pub(crate) fn add_to(&self, routes: Routes) -> Routes {
        routes
            .add_service(GrpcBrokerServer::new(self.clone()))
            .add_service(GrpcControllerServer::new(self.clone()))
            .add_service(GrpcStdioServer::new(self.clone()))
            .add_service(HealthServer::new(self.clone()))
    }

    /// Begins the end: the endless streams of this file end, and [`Session::ended`] resolves.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Resolves when the host asked for the end, or it began for another reason.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.subscribe();
        async move {
            // An error means that the session is gone, which is the end too.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }
}

#[tonic::async_trait]
impl GrpcBroker for Session {
    type StartStreamStream = Answers<ConnInfo>;

    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let mut incoming = request.into_inner();
        let (outgoing, answers) = mpsc::channel(OUTGOING);
        let broker = self.broker.clone();
        let ended = self.ended();
        broker.attach(outgoing.clone());
        tokio::spawn(async move {
            let relay = async {
                // Ends with the host's half of the stream, also if that is reset.
                while let Ok(Some(info)) = incoming.message().await {
                    if let Some(answer) = broker.receive(info)
                        && outgoing.send(answer).await.is_err()
                    {
                        break;
                    }
                }
            };
            tokio::select! {
                () = relay => {}
                () = ended => {}
            }
            broker.detach(&outgoing);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers).map(Ok))))
    }
}

#[tonic::async_trait]
impl GrpcController for Session {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        tracing::debug!("the host asks the plugin to end");
        self.end();
        Ok(Response::new(Empty {}))
    }
}

#[tonic::async_trait]
impl GrpcStdio for Session {
    type StreamStdioStream = Answers<StdioData>;

    /// Open and silent: standard output leads nowhere, and logs go to the real standard error.
    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<Self::StreamStdioStream>, Status> {
        let ended = self.ended();
        let (sender, silence) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = ended => {}
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(silence))))
    }
}

#[tonic::async_trait]
impl Health for Session {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match request.into_inner().service.as_str() {
            "" | HEALTH_NAME => Ok(Response::new(health(ServingStatus::Serving))),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    /// One answer, and the end of the stream when the plugin ends.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = matches!(request.into_inner().service.as_str(), "" | HEALTH_NAME);
        let ended = self.ended();
        let (sender, answers) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut answer = health(ServingStatus::Serving);
            if !known {
                answer.status = tonic_health::pb::health_check_response::ServingStatus::ServiceUnknown.into();
            }
            if sender.send(Ok(answer)).await.is_ok() {
                tokio::select! {
                    () = ended => {}
                    () = sender.closed() => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn health(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}
