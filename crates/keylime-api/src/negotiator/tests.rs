// SPDX-License-Identifier: Apache-2.0
//! How many requests a version costs, and what happens when the peer changes

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::http::Transport;
use crate::testing::{PATIENT, Reply, Server, at, ok, versions};
use crate::version::SUPPORTED;

fn thing(version: ApiVersion) -> Target {
    Target::from(format!("/v{version}/thing"))
}

async fn with(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (Server, Http, Negotiator) {
    let server = Server::start(None, answer).await;
    let http = Http::new("the peer", Transport::Plain(&at(&server)), PATIENT).unwrap();
    (server, http, Negotiator::new(SUPPORTED.to_vec()))
}

#[tokio::test]
async fn the_first_call_costs_two_requests_and_the_next_one() {
    let (server, http, versions) = with(|request| match request {
        "GET /version" => versions(&["1.0", "2.0", "2.4", "2.5", "3.0"]),
        _ => ok("{}"),
    })
    .await;
    for _ in 0..2 {
        versions.get(&http, thing).await.unwrap();
    }
    assert_eq!(server.seen(), ["GET /version", "GET /v2.5/thing", "GET /v2.5/thing"]);
}

#[tokio::test]
async fn many_first_calls_ask_once() {
    let (server, http, versions) = with(|request| match request {
        "GET /version" => versions(&["2.6"]),
        _ => ok("{}"),
    })
    .await;
    let both = [Arc::new((http, versions))].map(|shared| {
        (0..8)
            .map(|_| {
                let shared = shared.clone();
                tokio::spawn(async move { shared.1.get(&shared.0, thing).await.map(|_| ()) })
            })
            .collect::<Vec<_>>()
    });
    for call in both.into_iter().flatten() {
        call.await.unwrap().unwrap();
    }
    let asked = server.seen().iter().filter(|r| *r == "GET /version").count();
    assert_eq!((asked, server.seen().len()), (1, 9));
}

/// A peer that has version 2.6 until it is asked for the thing, and 2.4 from then on.
fn downgraded(refusal: fn() -> Reply) -> impl Fn(&str) -> Reply {
    let refused = AtomicUsize::new(0);
    move |request| match request {
        "GET /version" if refused.load(Ordering::Relaxed) == 0 => versions(&["2.5", "2.6"]),
        "GET /version" => versions(&["2.3", "2.4"]),
        "GET /v2.4/thing" => ok("{}"),
        _ => {
            refused.fetch_add(1, Ordering::Relaxed);
            refusal()
        }
    }
}

#[tokio::test]
async fn a_peer_that_lost_the_version_is_asked_anew() {
    for refusal in [
        (|| Reply::error(400, "API version not supported: v2.6")) as fn() -> Reply,
        || Reply::error(400, "API Version not supported"),
        || Reply::error(404, "Not Found"),
    ] {
        let (server, http, versions) = with(downgraded(refusal)).await;
        versions.get(&http, thing).await.unwrap();
        assert_eq!(server.seen(), ["GET /version", "GET /v2.6/thing", "GET /version", "GET /v2.4/thing"]);
        versions.get(&http, thing).await.unwrap();
        assert_eq!(server.seen().len(), 5);
    }
}

#[tokio::test]
async fn a_peer_that_keeps_refusing_is_not_asked_for_ever() {
    let (server, http, versions) = with(|request| match request {
        "GET /version" => versions(&["2.6"]),
        _ => Reply::error(400, "API version not supported: v2.6"),
    })
    .await;
    let error = versions.get(&http, thing).await.err().unwrap();
    assert!(error.to_string().ends_with("answered GET /v2.6/thing with 400: API version not supported: v2.6"));
    assert_eq!(server.seen(), ["GET /version", "GET /v2.6/thing", "GET /version"]);
}

#[tokio::test]
async fn other_refusals_cost_nothing_more() {
    for (code, text) in [(404, "agent id not found"), (400, "bad id"), (500, "API version not supported")] {
        let (server, http, versions) = with(move |request| match request {
            "GET /version" => versions(&["2.6"]),
            _ => Reply::error(code, text),
        })
        .await;
        versions.get(&http, thing).await.err().unwrap();
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn answers_about_versions() {
    for (results, outcome) in [
        (r#"{"supported_version": "2.3"}"#, Ok("2.3")),
        (r#"{"current_version": "2.2"}"#, Ok("2.2")),
        (r#"{"supported_versions": ["2.1", "new", "2.3"]}"#, Ok("2.3")),
        (
            r#"{"supported_versions": ["1.0", "3.0"]}"#,
            Err("no API version in common with the peer at http://HOST: it speaks 1.0, 3.0, this side 2.1, 2.2, 2.3, \
                 2.4, 2.5, 2.6"),
        ),
        (
            r#"{"supported_versions": []}"#,
            Err(
                "no API version in common with the peer at http://HOST: it speaks none, this side 2.1, 2.2, 2.3, 2.4, \
                 2.5, 2.6",
            ),
        ),
        (
            "{}",
            Err("the peer at http://HOST answered GET /version with an unusable body: it has no \
                 \"supported_versions\""),
        ),
        (
            r#"{"supported_versions": "2.1"}"#,
            Err("the peer at http://HOST answered GET /version with an unusable body: its \"supported_versions\" is \
                 text, not a list of texts"),
        ),
        (
            r#"{"supported_version": "newest"}"#,
            Err("the peer at http://HOST answered GET /version with an unusable body: its \"supported_version\" is \
                 unusable: \"newest\" is not an API version such as 2.5"),
        ),
    ] {
        let (server, http, versions) = with(move |_| ok(results)).await;
        let version = versions.version(&http).await;
        let version = version.map(|v| v.to_string()).map_err(|e| e.to_string().replace(&server.at.to_string(), "HOST"));
        assert_eq!(version.as_deref().map_err(String::as_str), outcome);
    }
}

#[tokio::test]
async fn the_push_model_is_recognised_and_a_failure_is_not_kept() {
    let calls = AtomicUsize::new(0);
    let (server, http, versions) = with(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::error(410, "Gone"),
        _ => versions(&["2.6"]),
    })
    .await;
    let says = versions.version(&http).await.unwrap_err().to_string();
    assert_eq!(
        says.replace(&server.at.to_string(), "HOST"),
        "the peer at http://HOST runs Keylime's push model (410 to GET /version), and the pull model is needed"
    );
    assert_eq!(versions.version(&http).await.unwrap(), ApiVersion::new(2, 6));
}

#[tokio::test]
async fn a_version_route_that_is_not_there_is_no_unknown_thing() {
    let not_found = || Reply::error(404, "Not Found");
    let page = || Reply::answer(404, "", "<html>");
    for reply in [not_found as fn() -> Reply, page] {
        let (server, http, versions) = with(move |_| reply()).await;
        let error = versions.get(&http, thing).await.err().unwrap();
        assert!(!error.is_not_found() && matches!(error, ClientError::Status { code: 404, .. }));
        assert_eq!(
            error.to_string(),
            format!("the peer at http://{} answered GET /version with 404: Not Found", server.at)
        );
    }
}

#[tokio::test]
async fn waiting_calls_take_over_a_failed_ask() {
    let (server, http, versions) = with(|_| Reply::error(503, "busy")).await;
    let shared = Arc::new((http, versions));
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let shared = shared.clone();
            tokio::spawn(async move { shared.1.version(&shared.0).await })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, ClientError::Status { code: 503, .. }), "{error}");
    }
    assert_eq!(server.seen(), ["GET /version"]);
    // The failure is not kept for a call that did not wait.
    shared.1.version(&shared.0).await.unwrap_err();
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn waiting_calls_take_over_that_nothing_changed() {
    let (server, http, versions) = with(|request| match request {
        "GET /version" => versions(&["2.6"]),
        _ => Reply::error(400, "API version not supported: v2.6"),
    })
    .await;
    let shared = Arc::new((http, versions));
    shared.1.version(&shared.0).await.unwrap();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let shared = shared.clone();
            tokio::spawn(async move { shared.1.agreed(&shared.0, Some(ApiVersion::new(2, 6))).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), ApiVersion::new(2, 6));
    }
    assert_eq!(server.seen(), ["GET /version", "GET /version"]);
}
