// SPDX-License-Identifier: Apache-2.0
//! A verifier and a registrar that are away, break off, or answer nonsense.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use test_support::keylime::fake::{FakeKeylime, FakeServer, Reply, Request};
use tonic::Code;

use crate::bench::{Bench, ID, LOCAL, Outcome, refused, spiffe_id};

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Verifier,
    Registrar,
}

impl Who {
    pub(crate) fn of(self, keylime: &FakeKeylime) -> &FakeServer {
        match self {
            Self::Verifier => &keylime.verifier,
            Self::Registrar => &keylime.registrar,
        }
    }

    pub(crate) fn unavailable(self) -> Outcome {
        refused(
            Code::Unavailable,
            match self {
                Self::Verifier => "the Keylime verifier is not available",
                Self::Registrar => "the Keylime registrar is not available",
            },
        )
    }

    fn unknown(self) -> Outcome {
        match self {
            Self::Verifier => refused(Code::FailedPrecondition, "the host is not known to the Keylime verifier"),
            Self::Registrar => refused(Code::Unavailable, "the host is not known to the Keylime registrar"),
        }
    }
}

pub(crate) const BOTH: [Who; 2] = [Who::Verifier, Who::Registrar];

/// Answers questions for an agent so.
pub(crate) fn for_agents(reply: Reply) -> impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static {
    move |request| request.path.contains("/agents/").then(|| reply.clone())
}

fn for_versions(reply: Reply) -> impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static {
    move |request| (request.path == "/version").then(|| reply.clone())
}

/// Bad answers that mean the same at either server.
fn bad_answers() -> Vec<(&'static str, Reply)> {
    let html = "<html><body>It works!</body></html>";
    let raw = |text: &str| Reply::Raw(text.as_bytes().to_vec());
    let location = |code| Reply::body(code, "text/html", "").with_header("Location: https://127.0.0.1:1/");
    vec![
        ("reset", Reply::Reset),
        ("closed", Reply::Close),
        ("no HTTP", raw("SSH-2.0-OpenSSH_9.9\r\n")),
        ("no status", raw("HTTP/1.1\r\n\r\n")),
        ("half a head", raw("HTTP/1.1 200 OK\r\nContent-Length: 4")),
        ("half a body", raw("HTTP/1.1 200 OK\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\nContent-Length: 4000\r\n\r\n{")),
        ("a length that is none", raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}")),
        ("two lengths", raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}")),
        ("chunks that are none", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")),
        ("a head of 1 MB", raw(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)))),
        ("HTML", Reply::body(200, "text/html", html)),
        ("404 of something else", Reply::body(404, "text/html", html)),
        ("no body", Reply::body(200, "application/json", "")),
        ("a list", Reply::body(200, "application/json", "[1]")),
        ("deep JSON", Reply::body(200, "application/json", "[".repeat(100_000))),
        ("half of an object", Reply::body(200, "application/json", "{\"results\": {\"operational_state\": 3,")),
        ("no results", Reply::body(200, "application/json", "{\"code\": 200, \"status\": \"Success\"}")),
        ("results that are text", Reply::results(200, "Success", &json!("fine")).with_header("Date: now")),
        ("no member that is needed", Reply::ok(&json!({}))),
        ("bytes that are no text", Reply::body(200, "application/json", b"{\"results\": {\"ip\": \"\xff\xfe\"}}")),
        ("10 MB announced", Reply::body(200, "application/json", vec![b' '; 10_000_000])),
        ("10 MB not announced", Reply::Flood(10_000_000)),
        ("10 MB of an error", Reply::body(500, "text/html", vec![b' '; 10_000_000])),
        ("a redirect", location(302)),
        ("a lasting redirect", location(308)),
        ("not modified", Reply::body(304, "text/html", "")),
        ("no content", Reply::body(204, "text/html", "")),
        ("part of the content", Reply::body(206, "application/json", "{}")),
        ("400", Reply::error(400, "invalid agent id")),
        ("401", Reply::error(401, "Unauthorized")),
        ("403", Reply::error(403, "Forbidden")),
        ("408", Reply::error(408, "Request Timeout")),
        ("429", Reply::error(429, "Too Many Requests").with_header("Retry-After: 3600")),
        ("500", Reply::error(500, "Internal Server Error")),
        ("502", Reply::body(502, "text/html", html)),
        ("503", Reply::error(503, "Service Unavailable")),
    ]
}

#[tokio::test]
async fn bad_answers_are_nobodys_fault_but_the_neighbours() {
    let bench = Bench::start(LOCAL).await;
    for who in BOTH {
        for (what, reply) in bad_answers() {
            let what = format!("{who:?}: {what}");
            let spoil = async |keylime: &FakeKeylime| who.of(keylime).conduct(for_agents(reply));
            bench.with_keylime(&what, spoil, who.unavailable()).await;
        }
    }
}

#[tokio::test]
async fn each_neighbour_may_be_away_or_be_something_else() {
    let bench = Bench::start(LOCAL).await;
    for who in BOTH {
        let away = async |keylime: &FakeKeylime| who.of(keylime).stop().unwrap();
        bench.with_keylime(&format!("{who:?}: away"), away, who.unavailable()).await;
        let unknown = async |keylime: &FakeKeylime| {
            keylime
                .change(ID, |agent| match who {
                    Who::Verifier => agent.state = None,
                    Who::Registrar => agent.aik_tpm = None,
                })
                .unwrap();
        };
        bench.with_keylime(&format!("{who:?}: agent unknown"), unknown, who.unknown()).await;
        for (what, reply, expected) in [
            ("push model", Reply::error(410, "Gone"), who.unavailable()),
            ("versions unknown", Reply::error(404, "Not Found"), who.unavailable()),
            ("no versions", Reply::ok(&json!({})), who.unavailable()),
            ("versions of another type", Reply::ok(&json!({"supported_versions": 3})), who.unavailable()),
            ("other versions", Reply::ok(&json!({"supported_versions": ["1.0", "3.0", "x"]})), who.unavailable()),
            ("an old version", Reply::ok(&json!({"current_version": "2.1"})), Ok(spiffe_id(ID))),
            ("versions in HTML", Reply::body(200, "text/html", "<html>"), who.unavailable()),
            ("an endless list of versions", Reply::Flood(10_000_000), who.unavailable()),
            ("reset at the first question", Reply::Reset, who.unavailable()),
        ] {
            let what = format!("{who:?}: {what}");
            bench.afresh().await;
            who.of(&bench.keylime).conduct(for_versions(reply));
            bench.configure(&format!("{}{LOCAL}", bench.keylime.plugin_data())).await;
            assert_eq!(bench.attest_well().await, expected, "{what}");
            bench.afresh().await;
            bench.still_works(&what).await;
        }
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_opened_again() {
    let bench = Bench::start(LOCAL).await;
    for who in BOTH {
        bench.still_works("the start").await;
        who.of(&bench.keylime).restart(None).unwrap();
        bench.still_works("a restart of Keylime").await;
    }
}

#[tokio::test]
async fn a_registrar_that_lies_gets_nobody_in() {
    let bench = Bench::start(LOCAL).await;
    let other = crate::soft_tpm::SoftTpm::new();
    let unusable = || refused(Code::PermissionDenied, "the host's registration at Keylime is not usable");
    let ak = bench.tpm.ak();
    let cut = ak[..ak.len() - 1].to_vec();
    let long = [ak.clone(), vec![0]].concat();
    for (what, aik_tpm, expected) in [
        ("another agent's record", other.ak(), refused(Code::PermissionDenied, "the TPM quote was refused")),
        ("an EK as AK", other.ek(), unusable()),
        ("an AK that is not restricted", bench.tpm.ak_with(0x0004_0072), unusable()),
        ("an AK that may leave its TPM", bench.tpm.ak_with(0x0005_0070), unusable()),
        ("an AK that decrypts", bench.tpm.ak_with(0x0007_0072), unusable()),
        ("half an AK", cut, unusable()),
        ("an AK and a byte", long, unusable()),
        ("no key", vec![0xff; 400], unusable()),
        ("an empty key", vec![0, 0], unusable()),
    ] {
        let spoil = async |keylime: &FakeKeylime| keylime.change(ID, |agent| agent.aik_tpm = Some(aik_tpm)).unwrap();
        bench.with_keylime(what, spoil, expected).await;
    }
    for (what, results) in [
        ("AK of another type", json!({"aik_tpm": 7})),
        ("AK not in base64", json!({"aik_tpm": "%%"})),
        ("AK null", json!({"aik_tpm": null})),
        ("EK of another type", json!({"aik_tpm": "ARg=", "ek_tpm": {}})),
    ] {
        let reply = Reply::ok(&results);
        let spoil = async |keylime: &FakeKeylime| keylime.registrar.conduct(for_agents(reply));
        bench.with_keylime(what, spoil, Who::Registrar.unavailable()).await;
    }
    let reply = Reply::ok(&json!({"agent_id": ID.to_uppercase(), "aik_tpm": STANDARD.encode(&ak)}));
    let spoil = async |keylime: &FakeKeylime| keylime.registrar.conduct(for_agents(reply));
    bench.with_keylime("id in other letters", spoil, unusable()).await;
}
