// SPDX-License-Identifier: Apache-2.0
//! Every way in which a peer can fail to answer

use test_support::ca::{Issued, LeafSpec, TestCa, self_signed};
use tls::{ClientTls, Identity, Trust};

use super::*;
use crate::testing::{
    ABOUT_ONE_LIMIT, Gate, PATIENT, Reply, SHORT_CALL, SHORT_CONNECT, Server, Site, at, greet_with, host_port, nobody,
    ok, pass, until,
};

fn target() -> Target {
    Target { path: "/v2.5/thing".to_owned(), query: Some("nonce=SECRETNONCE".to_owned()), max_body: None }
}

/// Asks a server over plain HTTP once; the text of the failure, with the address taken out.
async fn failure(settings: HttpSettings, reply: impl Fn() -> Reply + Send + Sync + 'static) -> String {
    let server = Server::start(None, move |_| reply()).await;
    let http = Http::new("the peer", Transport::Plain(&at(&server)), settings).unwrap();
    let error = match http.within(|| "GET /v2.5/thing".to_owned(), http.get(&target())).await {
        Ok(answer) => http.decode(|| "GET /v2.5/thing".to_owned(), &answer, |_| Ok(())).unwrap_err(),
        Err(error) => error,
    };
    // Nonces stay out of every message.
    assert!(!format!("{error:?} {error}").contains("SECRETNONCE"));
    without_address(error, &at(&server))
}

fn without_address(error: ClientError, at: &HostPort) -> String {
    error.to_string().replace(&at.to_string(), "HOST")
}

#[tokio::test]
async fn statuses_are_told_apart() {
    for (code, status, text) in [
        (500, "Unable to retrieve quote", "answered GET /v2.5/thing with 500: Unable to retrieve quote"),
        (400, "", "answered GET /v2.5/thing with 400: Bad Request"),
        (403, "no", "forbids GET /v2.5/thing: no"),
        (404, "agent id not found", "does not know what GET /v2.5/thing asks for: agent id not found"),
        (204, "", "answered GET /v2.5/thing with 204: No Content"),
        (599, "", "answered GET /v2.5/thing with 599: no reason given"),
        (503, "a\u{1b}[31m\nb", "answered GET /v2.5/thing with 503: a[31mb"),
    ] {
        let says = failure(PATIENT, move || Reply::error(code, status)).await;
        assert_eq!(says, format!("the peer at http://HOST {text}"));
    }
}

#[tokio::test]
async fn the_newer_form_of_errors_is_read() {
    let body = r#"{"errors": [{"status": "403", "title": "Forbidden", "detail": "admin only"}]}"#;
    assert_eq!(
        failure(PATIENT, move || Reply::answer(403, "", body)).await,
        "the peer at http://HOST forbids GET /v2.5/thing: Forbidden: admin only"
    );
}

#[tokio::test]
async fn web_pages_are_no_answers() {
    let page = || "<html>busy</html>".to_owned();
    assert_eq!(
        failure(PATIENT, move || Reply::answer(502, "Content-Type: text/html\r\n", page())).await,
        "the peer at http://HOST answered GET /v2.5/thing with 502: Bad Gateway"
    );
    assert_eq!(
        failure(PATIENT, move || Reply::answer(200, "Content-Type: text/html\r\n", page())).await,
        "the peer at http://HOST answered GET /v2.5/thing with an unusable body: it is not JSON (content type \
         text/html)"
    );
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let redirect = || Reply::answer(302, "Location: http://127.0.0.1:1/\r\n", "");
    assert_eq!(
        failure(PATIENT, redirect).await,
        "the peer at http://HOST answered GET /v2.5/thing with a redirect (302), which is not followed: check host and \
         port"
    );
}

#[tokio::test]
async fn large_bodies_are_refused_announced_or_not() {
    let text = "the peer at http://HOST answered GET /v2.5/thing with more than 100000 bytes";
    assert_eq!(failure(PATIENT, || Reply::answer(200, "", "x".repeat(10_000_000))).await, text);
    assert_eq!(failure(PATIENT, || Reply::Flood(10_000_000)).await, text);
    // A status counts even if what comes with it is too large to read.
    let large = || Reply::answer(500, "", "x".repeat(10_000_000));
    assert_eq!(
        failure(PATIENT, large).await,
        "the peer at http://HOST answered GET /v2.5/thing with 500: Internal Server Error"
    );
}

#[tokio::test]
async fn silence_ends_at_the_limit() {
    let text = "the peer at http://HOST did not answer GET /v2.5/thing within 1 s";
    assert_eq!(failure(SHORT_CALL, || Reply::Hang).await, text);
    assert_eq!(failure(SHORT_CALL, || Reply::Drip).await, text);
}

#[tokio::test]
async fn only_keylime_can_say_that_something_is_unknown() {
    for body in [
        "",
        "<html>",
        "[404]",
        r#"{"detail": "Not Found"}"#,
        r#"{"code": "404", "status": "Not Found"}"#,
        r#"{"status": "Not Found"}"#,
        r#"{"errors": [{"status": "404", "title": "Not Found"}]}"#,
    ] {
        assert_eq!(
            failure(PATIENT, move || Reply::answer(404, "", body)).await,
            "the peer at http://HOST answered GET /v2.5/thing with 404: Not Found"
        );
    }
}

#[tokio::test]
async fn many_calls_share_few_connections() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let server = Server::start(None, move |_| Reply::Gated(closed.clone(), Box::new(ok("{}")))).await;
    let http = Arc::new(Http::new("the peer", Transport::Plain(&at(&server)), PATIENT).unwrap());
    let call = || {
        let http = http.clone();
        tokio::spawn(async move { http.within(|| "GET /v2.5/thing".to_owned(), http.get(&target())).await.map(|_| ()) })
    };
    let calls: Vec<_> = (0..100).map(|_| call()).collect();
    until(|| server.seen().len() >= MAX_IN_FLIGHT).await;
    gate.open();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((server.seen().len(), server.most_busy()), (100, MAX_IN_FLIGHT));
    // All are kept for the rest of the burst and the next one, which needs no other.
    assert_eq!((server.open(), server.accepted()), (MAX_IN_FLIGHT, MAX_IN_FLIGHT));
    let calls: Vec<_> = (0..100).map(|_| call()).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.accepted(), MAX_IN_FLIGHT);
    // Those that one call at a time does not need are closed for having been idle; it uses the same one every time.
    for _ in 0..5 {
        pass(POOL_IDLE / 2).await;
        call().await.unwrap().unwrap();
    }
    until(|| server.open() == 1).await;
    assert_eq!(server.accepted(), MAX_IN_FLIGHT);
}

#[tokio::test]
async fn waiting_for_a_turn_counts() {
    let server = Server::start(None, |_| Reply::Hang).await;
    let http = Arc::new(Http::new("the peer", Transport::Plain(&at(&server)), SHORT_CALL).unwrap());
    let call = || {
        let http = http.clone();
        tokio::spawn(async move { http.within(|| "GET /v2.5/thing".to_owned(), http.get(&target())).await.map(|_| ()) })
    };
    let begin = std::time::Instant::now();
    let mut waited = Vec::new();
    let calls: Vec<_> = (0..=MAX_IN_FLIGHT).map(|_| call()).collect();
    for call in calls {
        match call.await.unwrap().unwrap_err() {
            ClientError::Timeout { .. } => {}
            error => waited.push(error),
        }
    }
    assert!(begin.elapsed() < ABOUT_ONE_LIMIT, "{:?}", begin.elapsed());
    // The peer never heard of the one that waited, so it cannot be blamed for that one.
    let [error] = &waited[..] else { panic!("{waited:?}") };
    assert!(error.is_timeout() && error.is_transient());
    assert_eq!(
        without_address(error.clone(), &at(&server)),
        "GET /v2.5/thing did not get its turn at the peer at http://HOST within 1 s"
    );
}

#[tokio::test]
async fn broken_connections_are_named() {
    let begin = "the connection to the peer at http://HOST broke during GET /v2.5/thing: ";
    for (reply, detail) in [
        ((|| Reply::Close) as fn() -> Reply, "connection closed before message completed"),
        (|| Reply::Reset, "Connection reset by peer (os error 104)"),
        (|| Reply::Raw(b"SSH-2.0\r\n\r\n".to_vec()), "invalid HTTP version parsed: does that port speak TLS?"),
        (
            || Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab".to_vec()),
            "end of file before message length reached",
        ),
    ] {
        assert_eq!(failure(PATIENT, reply).await, format!("{begin}{detail}"));
    }
}

#[tokio::test]
async fn a_broken_connection_is_tried_once_more_for_get_only() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let server = Server::start(None, move |_| {
        if first.swap(false, std::sync::atomic::Ordering::Relaxed) { Reply::Close } else { ok("{}") }
    })
    .await;
    let http = Http::new("the peer", Transport::Plain(&at(&server)), PATIENT).unwrap();
    http.get(&target()).await.unwrap();
    assert_eq!(server.seen().len(), 2);

    let server = Server::start(None, |_| Reply::Close).await;
    let http = Http::new("the peer", Transport::Plain(&at(&server)), PATIENT).unwrap();
    assert!(matches!(
        http.send_json(Method::POST, &target(), b"{}".to_vec()).await,
        Err(ClientError::Interrupted { .. })
    ));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn connections_are_kept() {
    let site = Site::new();
    let server = Server::start(Some(site.server()), |_| ok("{}")).await;
    let http = Http::new("the peer", Transport::Tls(&at(&server), site.client()), PATIENT).unwrap();
    for _ in 0..3 {
        http.get(&target()).await.unwrap();
    }
    let before = server.seen();
    assert_eq!(before, vec!["GET /v2.5/thing?nonce=SECRETNONCE"; 3]);
}

#[tokio::test]
async fn nobody_listening_is_named() {
    let at = nobody().await;
    let http = Http::new("the peer", Transport::Plain(&at), PATIENT).unwrap();
    let error = http.get(&target()).await.err().unwrap();
    assert!(error.is_transient());
    assert_eq!(
        without_address(error, &at),
        "cannot connect to the peer at http://HOST: Connection refused (os error 111)"
    );
    let missing = Path::new("/nonexistent/agent.sock");
    let http = Http::new("the peer", Transport::Unix(missing), PATIENT).unwrap();
    assert_eq!(
        http.get(&target()).await.err().unwrap().to_string(),
        "cannot connect to the peer at the Unix socket /nonexistent/agent.sock: No such file or directory (os error 2)"
    );
}

#[test]
fn retry_after_is_read_in_both_forms() {
    assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
    let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
    let wait = retry_after(&later).unwrap();
    assert!(wait > Duration::from_secs(60) && wait <= Duration::from_secs(100));
    for text in ["-1", "soon", "Fri, 15 Jan 2010 08:00:00 GMT"] {
        assert_eq!(retry_after(text), None);
    }
}

#[tokio::test]
async fn retry_after_and_transience_come_with_the_error() {
    for (code, transient) in [(500, true), (503, true), (408, true), (429, true), (400, false), (409, false)] {
        let server = Server::start(None, move |_| Reply::answer(code, "Retry-After: 7\r\n", "")).await;
        let http = Http::new("the peer", Transport::Plain(&at(&server)), PATIENT).unwrap();
        let error = http.get(&target()).await.err().unwrap();
        assert_eq!(error.is_transient(), transient, "{code}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    }
}

/// Asks a server over TLS; the text of the failure.
async fn tls_failure(site: &Site, client: Arc<ClientConfig>, server: Arc<tls::rustls::ServerConfig>) -> String {
    let server = Server::start(Some(server), |_| ok("{}")).await;
    let http = Http::new("the peer", Transport::Tls(&at(&server), client), PATIENT).unwrap();
    let error = http.get(&target()).await.err().expect("the call must fail");
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    assert!(!error.is_transient());
    assert!(server.seen().is_empty());
    without_address(error, &at(&server)).replace(site.ca_file.to_str().unwrap(), "FILE")
}

#[tokio::test]
async fn bad_server_certificates_are_explained() {
    let site = Site::new();
    let other = TestCa::root("Other Root").unwrap();
    let begin = "no TLS connection to the peer at https://HOST: ";
    let missing = |issuer: &str| {
        format!(
            "{begin}the certificate \"CN=s\" was issued by \"CN={issuer}\", which is not in the CA file FILE and was not \
             sent by the peer: add the certificate of that issuer to one of the two"
        )
    };
    let says = |identity: Identity| tls_failure(&site, site.client(), site.server_as(identity));

    assert_eq!(says(site.issue(&other, &LeafSpec::new("s"))).await, missing("Other Root"));
    assert_eq!(
        says(site.issue(&site.ca, &LeafSpec::new("s").only_dns(&["other.example"]))).await,
        format!("{begin}the peer's certificate is for other.example, not for 127.0.0.1")
    );
    let expired = says(site.issue(&site.ca, &LeafSpec::new("s").expired())).await;
    assert!(expired.starts_with(&format!("{begin}the peer's certificate expired on 20")), "{expired}");
    let mut early = LeafSpec::new("s");
    early.not_before = SystemTime::now() + Duration::from_secs(3600);
    let early = says(site.issue(&site.ca, &early)).await;
    assert!(early.starts_with(&format!("{begin}the peer's certificate is valid from 20")), "{early}");

    let whole = site.ca.intermediate("Issuing").unwrap().issue(&LeafSpec::new("s")).unwrap();
    let alone = Issued { chain_pem: whole.cert_pem.clone(), ..whole };
    let (cert, key) = alone.write(site.scratch.path(), "alone").unwrap();
    assert_eq!(says(Identity { cert, key, password: None }).await, missing("Issuing"));
}

#[tokio::test]
async fn refused_client_certificates_are_explained() {
    let site = Site::new();
    let other = TestCa::root("Other Root").unwrap();
    let begin = "no TLS connection to the peer at https://HOST: ";
    for (identity, text) in [
        (None, "the peer requires a client certificate, and none is configured here"),
        (
            Some(site.issue(&other, &LeafSpec::new("c"))),
            "the peer refused our certificate (TLS alert CertificateUnknown)",
        ),
        (
            Some(site.issue(&site.ca, &LeafSpec::new("old").expired())),
            "the peer refused our certificate: it is expired or not valid yet by the peer's clock",
        ),
    ] {
        let says = tls_failure(&site, site.client_as(identity), site.server()).await;
        assert_eq!(says, format!("{begin}{text}"));
    }
}

#[tokio::test]
async fn a_pinned_self_made_certificate_is_reached() {
    let site = Site::new();
    let mut made = self_signed(&LeafSpec::new("agent").only_dns(&[])).unwrap();
    // A stock Keylime agent changes its certificate after signing it.
    *made.cert_der.last_mut().unwrap() ^= 1;
    made.chain_pem = pem(&made.cert_der);
    let (cert, key) = made.write(site.scratch.path(), "agent").unwrap();
    let identity = Some(site.issue(&site.ca, &LeafSpec::new("client")));
    let ca = Trust::Files(vec![cert.clone()]);
    let client = ClientTls { ca, identity, server_name: None }.build().unwrap();
    let server = Server::start(Some(site.server_as(Identity { cert, key, password: None })), |_| ok("{}")).await;
    let http = Http::new("the peer", Transport::Tls(&at(&server), client), PATIENT).unwrap();
    http.get(&target()).await.unwrap();
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[tokio::test]
async fn tls_and_plain_ports_are_told_apart() {
    let site = Site::new();
    // The system accepts the connection; nobody speaks.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = host_port(listener.local_addr().unwrap());
    let http = Http::new("the peer", Transport::Tls(&silent, site.client()), SHORT_CONNECT).unwrap();
    let error = http.get(&target()).await.err().unwrap();
    assert!(error.is_transient());
    assert_eq!(
        without_address(error, &silent),
        "cannot connect to the peer at https://HOST within 0.2 s, TLS included: does that port speak TLS at all?"
    );

    let speaks_http = greet_with("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let http = Http::new("the peer", Transport::Tls(&speaks_http, site.client()), PATIENT).unwrap();
    assert_eq!(
        without_address(http.get(&target()).await.err().unwrap(), &speaks_http),
        "no TLS connection to the peer at https://HOST: the peer does not speak TLS on this port (plain HTTP?)"
    );
}
