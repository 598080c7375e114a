// SPDX-License-Identifier: Apache-2.0
//! A key-value store as a go-plugin plugin.
//!
//! Run it by hand to see what a person is told, and through `kv_host` to see it work:
//! `cargo run --example kv_host -- target/debug/examples/kv_plugin`

mod kv;

use std::{collections::HashMap, pin::Pin, process::ExitCode};

use go_plugin::{
    Broker,
    plugin::{self, About},
};
use kv::proto::{
    GetRequest, GetResponse, PutRequest, PutResponse, RecordRequest, WatchRequest, WatchResponse,
    audit_client::AuditClient,
    kv_server::{Kv, KvServer},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, service::Routes};

/// The store. A request larger than tonic's limit of 4 MiB is refused before it gets here.
struct Store {
    values: watch::Sender<HashMap<String, Vec<u8>>>,
    broker: Broker,
}

#[tonic::async_trait]
impl Kv for Store {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let PutRequest { key, value, audit } = request.into_inner();
        if audit {
            let channel =
                self.broker.dial(kv::AUDIT_SERVICE).await.map_err(|error| Status::unavailable(error.to_string()))?;
            let record = RecordRequest { key: key.clone() };
            let count = AuditClient::new(channel).record(record).await?.into_inner().count;
            tracing::info!(key, count, "the host keeps a record");
        }
        self.values.send_modify(|values| {
            values.insert(key, value);
        });
        Ok(Response::new(PutResponse {}))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let key = request.into_inner().key;
        tracing::debug!(key, "get");
        match self.values.borrow().get(&key) {
            Some(value) => Ok(Response::new(GetResponse { value: value.clone() })),
            None => Err(Status::not_found("no such key")),
        }
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let key = request.into_inner().key;
        let mut values = self.values.subscribe();
        let mut last = values.borrow_and_update().get(&key).cloned();
        let (sender, changes) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    changed = values.changed() => if changed.is_err() { return },
                }
                let value = values.borrow_and_update().get(&key).cloned();
                if value != last {
                    last.clone_from(&value);
                    let value = value.unwrap_or_default();
                    if sender.send(Ok(WatchResponse { value })).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(changes))))
    }
}

fn main() -> ExitCode {
    let about = About {
        name: "kv_plugin",
        version: env!("CARGO_PKG_VERSION"),
        summary: "A key-value store in memory, an example of a go-plugin plugin.",
        usage: "Usage: give its path to a host, as in\n  kv_host target/debug/examples/kv_plugin",
    };
    plugin::run(kv::handshake(), about, |broker| {
        let store = Store { values: watch::Sender::default(), broker: broker.clone() };
        Routes::new(KvServer::new(store))
    })
}
