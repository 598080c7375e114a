// SPDX-License-Identifier: Apache-2.0
//! Which path leads where, with the exact answers of those that lead nowhere.

use axum::body::{Body, to_bytes};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{Request, Uri};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use keylime_api::version::SUPPORTED;
use service::Secret;
use test_support::{Swtpm, SwtpmOptions};
use tpm::{Tpm, TpmSettings};

use super::*;
use crate::config::KeyFile;
use crate::payload::Place;
use crate::payload::store::Store;
use crate::payload_key::PayloadKey;

/// The API of an agent that has a TPM but no AK.
struct Lab {
    routes: TowerToHyperService<Router>,
    agent: Arc<Agent>,
    _tpm: Swtpm,
}

/// What an answer has of status, `Allow`, content type and text: the envelope's status, or the body where it is none.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    allow: Option<String>,
    json: bool,
    text: String,
}

impl Lab {
    async fn new(api_versions: &[ApiVersion]) -> Self {
        let tpm = Swtpm::start(SwtpmOptions { ek_certificate: false, ..SwtpmOptions::default() }).unwrap();
        let settings = TpmSettings { tcti: Some(tpm.tcti.clone()), ..TpmSettings::default() };
        let dir = tempfile::tempdir().unwrap();
        let file = |name| KeyFile { path: dir.path().join(name), password: Secret::from("") };
        let store = Store::Missing("not in this test".to_owned());
        let (payload_key, _) = PayloadKey::load_or_create(&file("payload.pem"), &file("server.pem")).unwrap();
        let agent = Agent {
            id: "d432fbb3-d2f1-4a97-9ef7-75bd81c00000".parse().unwrap(),
            api_versions: api_versions.to_vec(),
            hash: settings.hash,
            key: settings.key_alg,
            signing: settings.scheme,
            ak_handle: 0,
            tpm: Tpm::open(settings).await.unwrap(),
            turns: Default::default(),
            payload_key,
            node_key_digest: Vec::new(),
            ima_list: None,
            boot_log: None,
            boottime: None,
            payloads_forbidden: false,
            payloads: tokio::sync::mpsc::channel(1).0,
            revocations: crate::revocation::Inbox::new(dir.path().join("certificate"), Place::new(store)).0,
            bootstrap_keys: Default::default(),
            bodies: Agent::body_limit(),
        };
        let agent = Arc::new(agent);
        Self { routes: TowerToHyperService::new(router(agent.clone())), agent, _tpm: tpm }
    }

    async fn at(&self, method: &str, uri: &str) -> Seen {
        let uri = match uri {
            // A request target without a path.
            "" => Uri::from_static("localhost:1"),
            uri => uri.parse().unwrap(),
        };
        let request = Request::builder().method(method).uri(uri).extension(crate::turns::Source::User(0));
        let request = request.body(Body::empty()).unwrap();
        let answer = self.routes.call(request).await.unwrap();
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (status, allow, content_type) = (answer.status().as_u16(), header(ALLOW), header(CONTENT_TYPE));
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let json = content_type.as_deref() == Some("application/json");
        let text = if json && !body.is_empty() {
            let envelope: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(envelope["code"], status);
            let text = envelope["status"].as_str().unwrap();
            if status == 200 { envelope["results"].to_string() } else { text.to_owned() }
        } else {
            body
        };
        Seen { status, allow, json, text }
    }

    async fn success(&self, method: &str, uri: &str) -> String {
        let seen = self.at(method, uri).await;
        assert_eq!((seen.status, seen.json), (200, true), "{method} {uri}: {seen:?}");
        seen.text
    }

    async fn bad(&self, method: &str, uri: &str, text: &str) {
        self.refused(method, uri, 400, None, text).await;
    }

    async fn not_allowed(&self, method: &str, uri: &str, allow: &str, text: &str) {
        self.refused(method, uri, 405, Some(allow), text).await;
    }

    async fn refused(&self, method: &str, uri: &str, status: u16, allow: Option<&str>, text: &str) {
        // An answer to HEAD has no body.
        let text = if method == "HEAD" { String::new() } else { text.to_owned() };
        let expected = Seen { status, allow: allow.map(str::to_owned), json: true, text };
        assert_eq!(self.at(method, uri).await, expected, "{method} {uri}");
    }
}

const OTHER_METHODS: [&str; 5] = ["PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"];

#[tokio::test(flavor = "current_thread")]
async fn every_version_has_every_resource() {
    let lab = Lab::new(&SUPPORTED).await;
    for version in SUPPORTED {
        let at = |path| format!("/v{version}{path}");
        // Successes, or what only this resource refuses.
        assert!(lab.success("GET", &at("/keys/pubkey")).await.starts_with(r#"{"pubkey":"-----BEGIN PUBLIC KEY"#));
        let no_body = "Json deserialize error: EOF while parsing a value at line 1 column 0";
        lab.bad("POST", &at("/keys/ukey"), no_body).await;
        lab.bad("POST", &at("/keys/vkey"), no_body).await;
        lab.bad("GET", &at("/keys/verify"), "Query deserialize error: missing field `challenge`").await;
        lab.bad("GET", &at("/quotes/identity?nonce="), "The nonce must not be empty").await;
        lab.bad("GET", &at("/quotes/integrity?nonce=a"), "Query deserialize error: missing field `mask`").await;
        let info = at("/agent/info");
        if version == ApiVersion::new(2, 1) {
            lab.bad("GET", &info, "Not Implemented: Use /agent, /keys, or /quotes interfaces").await;
        } else {
            let results = lab.success("GET", &info).await;
            let key = if version.names_key_lengths() { "rsa2048" } else { "rsa" };
            assert!(results.contains(&format!(r#""tpm_enc_alg":"{key}""#)), "{version}: {results}");
        }
    }
    let versions = lab.success("GET", "/version").await;
    assert_eq!(versions, r#"{"supported_version":"2.6","supported_versions":["2.1","2.2","2.3","2.4","2.5","2.6"]}"#);
}

#[tokio::test(flavor = "current_thread")]
async fn a_version_that_is_not_enabled() {
    let lab = Lab::new(&SUPPORTED).await;
    for (path, version) in [
        ("/v3.0/agents", "3.0"),
        ("/v2.0/quotes/identity", "2.0"),
        ("/v2.7", "2.7"),
        ("/v1.0/", "1.0"),
        ("/v2.55/keys/pubkey", "2.55"),
        ("/v2.5x", "2.5"),
        ("/v02.5/keys/pubkey", "02.5"),
    ] {
        for method in ["GET", "POST", "PUT", "HEAD"] {
            lab.bad(method, path, &format!("API version not supported: v{version}")).await;
        }
    }
    // One version alone.
    let lab = Lab::new(&[ApiVersion::new(2, 6)]).await;
    lab.bad("GET", "/v2.5/agent/info", "API version not supported: v2.5").await;
    lab.bad("GET", "/", "Not Implemented: Use /2.6 or /version interfaces").await;
}

#[tokio::test(flavor = "current_thread")]
async fn other_root_paths() {
    let lab = Lab::new(&SUPPORTED).await;
    let text = "Not Implemented: Use /2.1, /2.2, /2.3, /2.4, /2.5, /2.6 or /version interfaces";
    for path in [
        "/",
        "/version/",
        "/versions",
        "/v2",
        "/v2.",
        "/v.5",
        "/vx.y/keys",
        "/v12345.1/keys",
        "/keys/pubkey",
        "//version",
        "/%76ersion",
        "/v%32.5/keys/pubkey",
        "/%ff",
        "*",
        "",
    ] {
        lab.bad("GET", path, text).await;
        lab.bad("POST", path, text).await;
        for method in OTHER_METHODS.iter().chain(&["CONNECT", "TRACE", "FROB"]) {
            lab.not_allowed(method, path, "GET, POST", "Method is not supported").await;
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn unknown_interfaces() {
    let lab = Lab::new(&SUPPORTED).await;
    for path in [
        "/v2.5",
        "/v2.5/",
        "/v2.5/nothing",
        "/v2.5/keysx/pubkey",
        "/v2.1/agent/info",
        "/v2.1/agent",
        "/v2.1/agent/",
        "/v2.5//keys",
        "/v2.5/%ff",
    ] {
        lab.bad("GET", path, "Not Implemented: Use /agent, /keys, or /quotes interfaces").await;
        lab.bad("POST", path, "Not Implemented: Use /keys or /notifications interfaces").await;
        for method in OTHER_METHODS {
            lab.not_allowed(method, path, "GET, POST", "Method is not supported").await;
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn unknown_resources() {
    let lab = Lab::new(&SUPPORTED).await;
    let keys_get = "URI not supported, only /pubkey and /verify are supported for GET in /keys interface";
    let keys_post = "URI not supported, only /ukey and /vkey are supported for POST in /keys interface";
    for path in [
        "/v2.5/keys",
        "/v2.5/keys/",
        "/v2.5/keys/x",
        "/v2.5/keys/pubkey/",
        "/v2.5/keys/a/b",
        "/v2.5/keys//pubkey",
        "/v2.5/keys/%70ubkey",
    ] {
        lab.bad("GET", path, keys_get).await;
        lab.bad("POST", path, keys_post).await;
        for method in OTHER_METHODS {
            lab.not_allowed(method, path, "GET, POST", "Method is not supported in /keys interface").await;
        }
    }
    let quotes = "URI not supported, only /identity and /integrity are supported for GET in /quotes/ interface";
    for path in ["/v2.5/quotes", "/v2.5/quotes/", "/v2.5/quotes/x"] {
        lab.bad("GET", path, quotes).await;
        for method in ["POST"].iter().chain(&OTHER_METHODS) {
            lab.not_allowed(method, path, "GET", "Method is not supported in /quotes/ interface").await;
        }
    }
    let agent = "URI not supported, only /info is supported for GET in /agent interface";
    for path in ["/v2.5/agent", "/v2.5/agent/", "/v2.5/agent/x", "/v2.5/agent/info/"] {
        lab.bad("GET", path, agent).await;
        for method in ["POST"].iter().chain(&OTHER_METHODS) {
            lab.not_allowed(method, path, "GET", "Method is not supported in /agent interface").await;
        }
    }
    let notifications = "URI not supported, only /revocation is supported for POST in /notifications/ interface";
    for path in ["/v2.5/notifications", "/v2.5/notifications/", "/v2.5/notifications/x"] {
        lab.bad("POST", path, notifications).await;
        for method in ["GET"].iter().chain(&OTHER_METHODS) {
            lab.not_allowed(method, path, "POST", "Method is not supported in /notifications/ interface").await;
        }
    }
    let text = "Json deserialize error: EOF while parsing a value at line 1 column 0";
    lab.refused("POST", "/v2.5/notifications/revocation", 400, None, text).await;
}

#[tokio::test(flavor = "current_thread")]
async fn existing_paths_with_another_method() {
    let lab = Lab::new(&SUPPORTED).await;
    for (path, allow) in [
        ("/version", "GET"),
        ("/v2.5/agent/info", "GET"),
        ("/v2.5/keys/pubkey", "GET"),
        ("/v2.5/keys/verify", "GET"),
        ("/v2.5/keys/ukey", "POST"),
        ("/v2.5/keys/vkey", "POST"),
        ("/v2.5/quotes/identity", "GET"),
        ("/v2.5/quotes/integrity", "GET"),
        ("/v2.5/notifications/revocation", "POST"),
    ] {
        let other = if allow == "GET" { "POST" } else { "GET" };
        for method in [other].iter().chain(&OTHER_METHODS) {
            // No body and no content type.
            let expected = Seen { status: 405, allow: Some(allow.to_owned()), json: false, text: String::new() };
            assert_eq!(lab.at(method, path).await, expected, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_unix_socket_takes_nothing() {
    let mut lab = Lab::new(&SUPPORTED).await;
    lab.routes = TowerToHyperService::new(questions_only(router(lab.agent.clone())));
    let text = "Keys, payloads and revocation messages are not taken on the Unix socket";
    for path in ["/v2.5/keys/ukey", "/v2.5/keys/vkey", "/v2.5/notifications/revocation", "/v2.1/keys/ukey", "/x"] {
        lab.refused("POST", path, 403, None, text).await;
    }
    lab.success("GET", "/version").await;
    lab.success("GET", "/v2.5/agent/info").await;
    lab.success("GET", "/v2.5/keys/pubkey").await;
    lab.bad("GET", "/v2.5/quotes/identity?nonce=", "The nonce must not be empty").await;
}

/// A body that begins and never ends.
struct Endless(Option<axum::body::Bytes>);

impl hyper::body::Body for Endless {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        match self.0.take() {
            Some(data) => std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(data)))),
            None => std::task::Poll::Pending,
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn small_bodies_do_not_wait_for_large_ones() {
    let lab = Lab::new(&SUPPORTED).await;
    let post = |body| Request::builder().method("POST").uri("/v2.5/keys/vkey").body(body).unwrap();
    let routes = &lab.routes;
    // More than are read at a time, and some that are small but as slow.
    let mut slow: Vec<_> = (0..40)
        .map(|number| {
            let begun = vec![b' '; if number % 2 == 0 { 20 << 10 } else { 10 }];
            Box::pin(routes.call(post(Body::new(Endless(Some(begun.into()))))))
        })
        .collect();
    for request in &mut slow {
        let waker = std::task::Waker::noop();
        assert!(request.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    }
    assert_eq!(lab.agent.bodies.available_permits(), 0);
    for length in [0, 10_000, 16 << 10] {
        let answer = routes.call(post(Body::from(vec![b' '; length]))).await.unwrap();
        assert_eq!(answer.status(), 400, "{length}");
    }
    drop(slow);
    let answer = routes.call(post(Body::from(vec![b' '; 1 << 20]))).await.unwrap();
    assert_eq!(answer.status(), 400);
    let answer = routes.call(post(Body::from(vec![b' '; MAX_BODY + 1]))).await.unwrap();
    assert_eq!(answer.status(), 413);
}
