// SPDX-License-Identifier: Apache-2.0
//! What takes too long, or is too much at once. Run within the test's own process, where the limits can be short.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use keylime_api::HttpSettings;
use keylime_attestor_server::attestation::AwaitPayload;
use keylime_attestor_server::config::ServerConfig;
use keylime_attestor_server::error::Refusal;
use keylime_attestor_server::service::{Limits, ServerAttestor};
use keylime_attestor_server::waiting::Waiting;
use spire_plugin::service::server_routes;
use spire_plugin::{AttemptId, ConfigStore, CoreConfig, Metrics, Options, hcl};
use test_support::keylime::fake::{Gate, Reply};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Server};

use crate::bench::{
    Bench, Call, ID, LOCAL, Outcome, TRUST_DOMAIN, configure, member, payload, refusal, refused, response, spiffe_id,
};
use crate::neighbours::{BOTH, Who};

/// Long enough for a busy machine to connect, short enough to wait for.
const SHORT: HttpSettings =
    HttpSettings { connect_timeout: Duration::from_secs(2), total_timeout: Duration::from_secs(2), max_body: 1 << 20 };

fn too_late(who: Who) -> Outcome {
    refused(
        Code::DeadlineExceeded,
        match who {
            Who::Verifier => "the Keylime verifier did not answer in time",
            Who::Registrar => "the Keylime registrar did not answer in time",
        },
    )
}

/// Attests the good node with limits of two seconds.
async fn attest_impatiently(bench: &Bench, data: &str) -> Outcome {
    let mut options = Options::new(hcl::parse(data).unwrap());
    let core = CoreConfig::new(TRUST_DOMAIN.parse().unwrap());
    let config = Arc::new(ServerConfig::build_within(&core, &mut options, SHORT).expect("the options are fine"));
    let metrics = Metrics::new(bench.plugin.broker());
    let told = |error: Refusal| refusal(&error.status(AttemptId::new(7)));
    let start = AwaitPayload::new(config, metrics, Waiting::default());
    let (challenge, waiting) = start.payload(&payload(ID, "sha256")).map_err(told)?;
    let nonce = member(&serde_json::from_slice(&challenge).unwrap(), "Nonce").unwrap();
    let records = waiting.records().await;
    let quote = response(&bench.tpm.quote(&nonce).text());
    waiting.quote(records, &quote).await.map(|identity| identity.spiffe_id.to_string()).map_err(told)
}

fn data(bench: &Bench) -> String {
    format!("{}{LOCAL}", bench.keylime.plugin_data())
}

#[tokio::test]
async fn neighbours_that_are_too_slow() {
    let never = Reply::Gated(Gate::closed(), Box::new(Reply::Close));
    let rows = [("no answer", "/agents/", Reply::Hang), ("no end", "/agents/", Reply::Drip)];
    let rows = [rows.as_slice(), &[("held up", "/agents/", never), ("no versions", "/version", Reply::Hang)]].concat();
    let rows = BOTH.into_iter().flat_map(|who| rows.iter().map(move |row| (who, row.clone())));
    // All at once, each with servers of its own: each takes as long as the limit.
    let rows = rows.map(async |(who, (what, path, reply))| {
        let bench = Bench::start(LOCAL).await;
        assert_eq!(attest_impatiently(&bench, &data(&bench)).await, Ok(spiffe_id(ID)));
        who.of(&bench.keylime).conduct(move |request| request.path.contains(path).then(|| reply.clone()));
        assert_eq!(attest_impatiently(&bench, &data(&bench)).await, too_late(who), "{who:?}: {what}");
        bench.keylime.behave().unwrap();
        assert_eq!(attest_impatiently(&bench, &data(&bench)).await, Ok(spiffe_id(ID)), "after {who:?}: {what}");
    });
    futures_util::future::join_all(rows).await;
}

#[tokio::test]
async fn a_neighbour_that_takes_connections_and_says_nothing() {
    let bench = Bench::start(LOCAL).await;
    // Connections are made by the system; nobody accepts them.
    let silent = StdListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = silent.local_addr().unwrap().port();
    let (verifier, registrar) = (bench.keylime.verifier.port(), bench.keylime.registrar.port());
    for (who, verifier, registrar) in [(Who::Verifier, silent, registrar), (Who::Registrar, verifier, silent)] {
        let data = format!(
            "keylime_verifier_port = \"{verifier}\"\nkeylime_registrar_port = \"{registrar}\"\n{}{LOCAL}",
            bench.keylime.tls_data()
        );
        assert_eq!(attest_impatiently(&bench, &data).await, too_late(who), "{who:?}");
    }
}

/// The service in this process, with these limits.
async fn serve(bench: &Bench, limits: Limits) -> Channel {
    let metrics = Metrics::new(bench.plugin.broker());
    let store = ConfigStore::new();
    let routes = server_routes(store.clone(), ServerAttestor::new(store, metrics.clone(), limits), &metrics);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener)));
    Endpoint::from_shared(url).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn nothing_is_attested_before_the_configuration() {
    let bench = Bench::start(LOCAL).await;
    let channel = serve(&bench, Limits::default()).await;
    let status = Call::try_open(channel).await.err().unwrap();
    assert_eq!(refusal(&status), (Code::FailedPrecondition, "not configured".to_owned()));
}

#[tokio::test]
async fn a_node_that_is_too_slow() {
    let bench = Bench::start(LOCAL).await;
    let short = Duration::from_millis(100);
    let channel = serve(&bench, Limits { payload: short, ..Limits::default() }).await;
    configure(channel.clone(), &data(&bench)).await;
    let mut call = Call::open(channel).await;
    assert_eq!(call.ends().await, refused(Code::DeadlineExceeded, "no attestation payload came in time"));

    let channel = serve(&bench, Limits { quote: short, ..Limits::default() }).await;
    configure(channel.clone(), &data(&bench)).await;
    // Whatever the verifier thinks of it.
    for state in [Some(3), Some(9), None] {
        bench.keylime.change(ID, |agent| agent.state = state).unwrap();
        let mut call = Call::open(channel.clone()).await;
        call.challenge(payload(ID, "sha256")).await.unwrap();
        assert_eq!(call.ends().await, refused(Code::DeadlineExceeded, "the node sent no TPM quote in time"));
    }
}

#[tokio::test]
async fn more_at_once_than_are_taken() {
    let bench = Bench::start(LOCAL).await;
    let limits = Limits { attestations: 2, ..Limits::default() };
    let channel = serve(&bench, limits).await;
    configure(channel.clone(), &data(&bench)).await;
    let mut first = Call::open(channel.clone()).await;
    let nonce = first.challenge(payload(ID, "sha256")).await.unwrap();
    let second = Call::open(channel.clone()).await;
    let busy = Call::try_open(channel.clone()).await.err().unwrap();
    assert_eq!(refusal(&busy), (Code::ResourceExhausted, "too many attestations are under way".to_owned()));
    // Those under way are not held up, and each leaves its place to another.
    assert_eq!(first.outcome(response(&bench.tpm.quote(&nonce).text())).await, Ok(spiffe_id(ID)));
    drop((first, second));
    for _ in 0..10 {
        let mut call = loop {
            // The plugin learns of the end of a call a moment later.
            match Call::try_open(channel.clone()).await {
                Ok(call) => break call,
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
            }
        };
        let nonce = call.challenge(payload(ID, "sha256")).await.unwrap();
        assert_eq!(call.outcome(response(&bench.tpm.quote(&nonce).text())).await, Ok(spiffe_id(ID)));
    }
}

#[tokio::test]
async fn more_from_one_address_than_are_taken() {
    let bench = Bench::start(&format!("{LOCAL}maximum_attestations_per_source = 2\n")).await;
    let from = async |address| Call::try_open_from(bench.plugin.channel(), address).await;
    let refusal = async |address| from(address).await.err().map(|status| refusal(&status));
    let busy = "too many attestations from this address are under way".to_owned();
    let _first = from(Some("192.0.2.1")).await.unwrap();
    let second = from(Some("192.0.2.1")).await.unwrap();
    assert_eq!(refusal(Some("192.0.2.1")).await, Some((Code::ResourceExhausted, busy.clone())));
    // The same address in IPv6's notation is no other; another is, and what is none is nobody's.
    assert_eq!(refusal(Some("::ffff:192.0.2.1")).await, Some((Code::ResourceExhausted, busy)));
    for address in [Some("192.0.2.2"), Some("2001:db8::1"), Some("nonsense"), Some(""), None] {
        assert_eq!(refusal(address).await, None, "{address:?}");
    }
    drop(second);
    while refusal(Some("192.0.2.1")).await.is_some() {
        // The plugin learns of the end of a call a moment later.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
