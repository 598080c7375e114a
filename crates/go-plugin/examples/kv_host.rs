// SPDX-License-Identifier: Apache-2.0
//! A host of the key-value plugin: starts it, stores and reads a value, offers it a service, ends it.
//!
//! `cargo run --example kv_host -- target/debug/examples/kv_plugin [SHA-256 of the plugin]`

mod kv;

use std::{
    env,
    error::Error,
    sync::atomic::{AtomicU64, Ordering},
};

use go_plugin::host::Launch;
use kv::proto::{
    GetRequest, PutRequest, RecordRequest, RecordResponse,
    audit_server::{Audit, AuditServer},
    kv_client::KvClient,
};
use tonic::{Request, Response, Status, service::Routes};

/// The service that the plugin calls back; counts what it is told.
#[derive(Default)]
struct Counter(AtomicU64);

#[tonic::async_trait]
impl Audit for Counter {
    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        println!("record {count}: {}", request.into_inner().key);
        Ok(Response::new(RecordResponse { count }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // The plugin's log comes out here, beside the host's own.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();

    let mut arguments = env::args().skip(1);
    let program = arguments.next().ok_or("usage: kv_host PLUGIN [SHA256]")?;
    let mut launch = Launch::new(program)
        .handshake(kv::handshake())
        .host_services(kv::AUDIT_SERVICE, Routes::new(AuditServer::new(Counter::default())));
    if let Some(checksum) = arguments.next() {
        launch = launch.checksum(checksum.parse()?);
    }
    let plugin = launch.start().await?;
    println!("plugin {} is healthy: {}", plugin.pid(), plugin.healthy().await?);

    let mut kv = KvClient::new(plugin.channel());
    kv.put(PutRequest { key: "greeting".into(), value: "hello".into(), audit: true }).await?;
    let answer = kv.get(GetRequest { key: "greeting".into() }).await?;
    println!("greeting: {}", String::from_utf8(answer.into_inner().value)?);

    println!("plugin ended: {}", plugin.shutdown().await);
    Ok(())
}
