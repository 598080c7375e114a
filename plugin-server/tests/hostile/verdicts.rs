// SPDX-License-Identifier: Apache-2.0
//! What the verifier says of a host: before the quote, after it, and of the quote.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use test_support::keylime::fake::{FakeAgent, FakeKeylime, Gate, Reply, Request};
use tonic::Code;

use crate::bench::{Bench, ID, LOCAL, Outcome, no_proof, payload, refused, response, spiffe_id};
use crate::neighbours::{Who, for_agents};
use crate::soft_tpm::SoftTpm;

fn verified() -> Outcome {
    Ok(spiffe_id(ID))
}

fn not_yet() -> Outcome {
    refused(Code::FailedPrecondition, "the host has not been verified by Keylime yet")
}

fn too_old() -> Outcome {
    refused(Code::FailedPrecondition, "the host was last verified by Keylime too long ago")
}

fn failed() -> Outcome {
    refused(Code::PermissionDenied, "the host failed its verification by Keylime")
}

fn unknown() -> Outcome {
    refused(Code::FailedPrecondition, "the host is not known to the Keylime verifier")
}

fn other_bank() -> Outcome {
    refused(Code::InvalidArgument, "the hash algorithm is not allowed for this host")
}

#[tokio::test]
async fn each_operational_state() {
    let bench = Bench::start(LOCAL).await;
    for (state, expected) in [
        (0, not_yet()),
        (1, not_yet()),
        (2, not_yet()),
        (3, verified()),
        (4, not_yet()),
        (5, verified()),
        (6, not_yet()),
        (7, failed()),
        (8, failed()),
        (9, failed()),
        (10, failed()),
        (11, not_yet()),
        (-1, not_yet()),
        (i64::MAX, not_yet()),
    ] {
        let spoil = async |keylime: &FakeKeylime| keylime.change(ID, |agent| agent.state = Some(state)).unwrap();
        bench.with_keylime(&format!("state {state}"), spoil, expected).await;
    }
}

type Change = fn(&mut FakeAgent);

fn more(agent: &mut FakeAgent, member: &'static str, value: Value) {
    agent.more.push((member, value));
}

#[tokio::test]
async fn each_thing_a_record_may_say() {
    let bench = Bench::start(LOCAL).await;
    let unavailable = || Who::Verifier.unavailable();
    let rows: Vec<(&str, Change, Outcome)> = vec![
        ("never quoted", |agent| agent.attestation_count = 0, not_yet()),
        ("never quoted, of another enrolment", |agent| more(agent, "last_successful_attestation", json!(0)), not_yet()),
        ("just now", |agent| agent.age = Duration::ZERO, verified()),
        ("a minute ago", |agent| agent.age = Duration::from_secs(60), too_old()),
        ("a year ago", |agent| agent.age = Duration::from_secs(365 * 24 * 3600), too_old()),
        ("in the future", |agent| more(agent, "last_successful_attestation", json!(i64::MAX)), not_yet()),
        ("before the epoch", |agent| more(agent, "last_successful_attestation", json!(-5)), unavailable()),
        ("no success", |agent| more(agent, "last_successful_attestation", Value::Null), not_yet()),
        ("a time in text", |agent| more(agent, "last_successful_attestation", json!("now")), unavailable()),
        ("a state in text", |agent| more(agent, "operational_state", json!("3")), unavailable()),
        ("half a state", |agent| more(agent, "operational_state", json!(3.5)), unavailable()),
        ("a state that is a list", |agent| more(agent, "operational_state", json!([3])), unavailable()),
        ("push model", |agent| more(agent, "operational_state", Value::Null), not_yet()),
        ("push model, with a state", |agent| agent.more = vec![("ip", Value::Null), ("port", Value::Null)], not_yet()),
        ("a count in text", |agent| more(agent, "attestation_count", json!("27")), unavailable()),
        ("a negative count", |agent| more(agent, "attestation_count", json!(-27)), unavailable()),
        ("another bank", |agent| agent.hash_alg = "sha384".to_owned(), other_bank()),
        ("a bank that is none", |agent| agent.hash_alg = "md5".to_owned(), unavailable()),
        ("no bank yet", |agent| agent.hash_alg = String::new(), verified()),
        (
            "an interval of a year",
            |agent| {
                agent.age = Duration::from_secs(30 * 24 * 3600);
                more(agent, "maximum_attestation_interval", json!("31536000s"));
            },
            too_old(),
        ),
        (
            "an interval that is none",
            |agent| {
                agent.age = Duration::from_secs(20);
                more(agent, "maximum_attestation_interval", json!("infs"));
            },
            too_old(),
        ),
        ("what decides nothing", |agent| agent.more = vec![("ip", json!(7)), ("port", json!("x"))], verified()),
        ("policies that are none", |agent| more(agent, "tpm_policy", json!("{\"16\": 7}")), verified()),
    ];
    for (what, change, expected) in rows {
        let spoil = async |keylime: &FakeKeylime| keylime.change(ID, change).unwrap();
        bench.with_keylime(what, spoil, expected).await;
    }
}

#[tokio::test]
async fn an_answer_without_a_time_of_its_own_counts_for_nothing() {
    let bench = Bench::start(LOCAL).await;
    let record = json!({
        "operational_state": 3, "ip": "127.0.0.1", "port": 9002, "attestation_count": 27, "hash_alg": "sha256",
        "last_successful_attestation": 1_800_000_000
    });
    let dated = |date: &str| Reply::results(200, "Success", &record).with_header(date);
    for (what, reply, expected) in [
        ("at its time", dated("Date: Fri, 15 Jan 2027 08:00:00 GMT"), verified()),
        ("a minute later", dated("Date: Fri, 15 Jan 2027 08:01:00 GMT"), too_old()),
        ("a minute earlier", dated("Date: Fri, 15 Jan 2027 07:59:00 GMT"), not_yet()),
        ("no date", Reply::results(200, "Success", &record), Who::Verifier.unavailable()),
        ("a date that is none", dated("Date: yesterday"), Who::Verifier.unavailable()),
        (
            "out of a cache",
            dated("Date: Fri, 15 Jan 2027 08:00:00 GMT").with_header("Age: 3600"),
            Who::Verifier.unavailable(),
        ),
    ] {
        let spoil = async |keylime: &FakeKeylime| keylime.verifier.conduct(for_agents(reply));
        bench.with_keylime(what, spoil, expected).await;
    }
}

#[tokio::test]
async fn what_changes_between_challenge_and_quote_counts() {
    let bench = Bench::start(LOCAL).await;
    let rows: Vec<(&str, Change, Outcome)> = vec![
        ("nothing", |_| {}, verified()),
        ("failed", |agent| agent.state = Some(9), failed()),
        ("stopped", |agent| agent.state = Some(10), failed()),
        ("being deleted", |agent| agent.state = Some(8), failed()),
        ("gone", |agent| agent.state = None, unknown()),
        ("silent", |agent| agent.age = Duration::from_secs(60), too_old()),
        (
            "enrolled anew",
            |agent| {
                agent.state = Some(1);
                agent.attestation_count = 0;
            },
            not_yet(),
        ),
        ("enrolled anew and verified", |agent| agent.attestation_count = 1, not_yet()),
        ("another bank", |agent| agent.hash_alg = "sha512".to_owned(), other_bank()),
    ];
    for (what, change, expected) in rows {
        bench.afresh().await;
        let asked = count_agent_requests(&bench);
        let outcome = bench
            .attest(payload(ID, "sha256"), async |nonce| {
                until(|| asked.load(Ordering::SeqCst) == 1).await;
                bench.keylime.change(ID, change).unwrap();
                response(&bench.tpm.quote(&nonce).text())
            })
            .await;
        assert_eq!(outcome, expected, "{what}");
        bench.afresh().await;
        bench.still_works(what).await;
    }
}

/// Counts what the verifier is asked about agents.
fn count_agent_requests(bench: &Bench) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    bench.keylime.verifier.conduct(move |request| {
        if request.path.contains("/agents/") {
            count.fetch_add(1, Ordering::SeqCst);
        }
        None
    });
    asked
}

async fn until(so: impl Fn() -> bool) {
    let poll = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), poll).await.expect("it becomes so");
}

#[tokio::test]
async fn a_verifier_that_goes_away_between_challenge_and_quote() {
    let bench = Bench::start(LOCAL).await;
    let asked = count_agent_requests(&bench);
    let outcome = bench
        .attest(payload(ID, "sha256"), async |nonce| {
            until(|| asked.load(Ordering::SeqCst) == 1).await;
            bench.keylime.verifier.stop().unwrap();
            response(&bench.tpm.quote(&nonce).text())
        })
        .await;
    assert_eq!(outcome, Who::Verifier.unavailable());
    bench.afresh().await;
    bench.still_works("an absence").await;
}

/// What the verifier thinks of a host is for that host alone.
#[tokio::test]
async fn nobody_without_a_good_quote_learns_the_verdict() {
    let bench = Bench::start(LOCAL).await;
    for state in [None, Some(1), Some(3), Some(9)] {
        bench.keylime.change(ID, |agent| agent.state = state).unwrap();
        let outcome = bench.attest_with(|_| bench.tpm.quote("ANOTHERNONCE").text()).await;
        assert_eq!(outcome, no_proof(), "{state:?}");
    }
    // Nor whether there is such a host.
    let outcome = bench
        .attest(payload("f00dfeed-0000-4000-8000-000000000000", "sha256"), async |_| response("rAA==:AA==:AA=="))
        .await;
    assert_eq!(outcome, refused(Code::Unavailable, "the host is not known to the Keylime registrar"));
}

/// Answers the verifier's identity check so.
fn for_checks(reply: Reply) -> impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static {
    move |request| request.path.ends_with("/verify/identity").then(|| reply.clone())
}

#[tokio::test]
async fn the_verifiers_own_check_of_the_quote_can_only_refuse() {
    for (options, checks) in [("", true), (LOCAL, false)] {
        let bench = Bench::start(options).await;
        let unavailable = || Who::Verifier.unavailable();
        for (what, reply, expected) in [
            ("valid", Reply::ok(&json!({"valid": 1})), verified()),
            ("not valid", Reply::ok(&json!({"valid": 0, "reason": "quote is old"})), no_proof()),
            ("not valid without a reason", Reply::ok(&json!({"valid": 0})), no_proof()),
            ("true", Reply::ok(&json!({"valid": true})), unavailable()),
            ("valid in text", Reply::ok(&json!({"valid": "1"})), unavailable()),
            ("valid twice over", Reply::ok(&json!({"valid": 2})), unavailable()),
            ("no word about it", Reply::ok(&json!({})), unavailable()),
            ("HTML", Reply::body(200, "text/html", "<html>"), unavailable()),
            ("10 MB", Reply::Flood(10_000_000), unavailable()),
            ("400", Reply::error(400, "missing query parameter 'nonce'"), unavailable()),
            ("not enrolled", Reply::error(404, "agent id not found"), unknown()),
            ("500", Reply::error(500, "Internal Server Error"), unavailable()),
            ("reset", Reply::Reset, unavailable()),
        ] {
            let expected = if checks { expected } else { verified() };
            let spoil = async |keylime: &FakeKeylime| keylime.verifier.conduct(for_checks(reply));
            bench.with_keylime(&format!("{options}{what}"), spoil, expected).await;
        }
        // Keylime's own answer to a quote with a bad signature is that it is valid.
        bench.keylime.verifier.conduct(for_checks(Reply::ok(&json!({"valid": 1}))));
        let other = crate::soft_tpm::SoftTpm::new();
        assert_eq!(bench.attest_with(|nonce| other.quote(&nonce).text()).await, no_proof());
    }
}

#[tokio::test]
async fn where_the_verifier_alone_checks_the_quote_it_has_to() {
    let bench = Bench::start("insecure_verifier_only_quote_verification = true\n").await;
    for (what, valid, state, expected) in [
        ("valid", json!(1), Some(3), verified()),
        ("not valid", json!(0), Some(3), no_proof()),
        ("nonsense", json!("yes"), Some(3), Who::Verifier.unavailable()),
        ("valid of a failed host", json!(1), Some(9), failed()),
        ("not valid of a failed host", json!(0), Some(9), no_proof()),
        ("valid of a host not verified yet", json!(1), Some(1), not_yet()),
        ("an unknown host", json!(1), None, unknown()),
    ] {
        bench.afresh().await;
        // Nobody needs it.
        bench.keylime.registrar.stop().unwrap();
        bench
            .keylime
            .change(ID, |agent| {
                agent.valid = (valid, None);
                agent.state = state;
            })
            .unwrap();
        assert_eq!(bench.attest_well().await, expected, "{what}");
    }
    bench.afresh().await;
    bench.still_works("all of them").await;
}

#[tokio::test]
async fn of_two_verifiers_one_may_be_away_and_none_may_object() {
    let bench = Bench::start(LOCAL).await;
    let second = bench.keylime.another_verifier().unwrap();
    let data = format!(
        "keylime_verifiers = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\nkeylime_registrar_port = \"{}\"\n{}{LOCAL}",
        bench.keylime.verifier.port(),
        second.port(),
        bench.keylime.registrar.port(),
        bench.keylime.tls_data()
    );
    let state = |state: Value| {
        for_agents(Reply::ok(&json!({
            "operational_state": state, "ip": "127.0.0.1", "port": 9002, "attestation_count": 0,
            "last_successful_attestation": 0
        })))
    };
    for (what, spoil, expected) in [
        ("both fine", Box::new(|| {}) as Box<dyn Fn()>, verified()),
        ("the first is away", Box::new(|| bench.keylime.verifier.stop().unwrap()), verified()),
        ("the second is away", Box::new(|| second.stop().unwrap()), verified()),
        (
            "the first does not know it",
            Box::new(|| bench.keylime.verifier.conduct(for_agents(Reply::error(404, "no")))),
            verified(),
        ),
        ("the second does not know it", Box::new(|| second.conduct(for_agents(Reply::error(404, "no")))), verified()),
        ("the first has failed it", Box::new(|| bench.keylime.verifier.conduct(state(json!(9)))), failed()),
        ("the second has failed it", Box::new(|| second.conduct(state(json!(9)))), failed()),
        ("the first has not begun", Box::new(|| bench.keylime.verifier.conduct(state(json!(1)))), verified()),
        (
            "the first talks nonsense",
            Box::new(|| bench.keylime.verifier.conduct(for_agents(Reply::ok(&json!({}))))),
            verified(),
        ),
        (
            "the first does not know it and the second is away",
            Box::new(|| {
                bench.keylime.verifier.conduct(for_agents(Reply::error(404, "no")));
                second.stop().unwrap();
            }),
            Who::Verifier.unavailable(),
        ),
        (
            "neither knows it",
            Box::new(|| {
                bench.keylime.verifier.conduct(for_agents(Reply::error(404, "no")));
                second.conduct(for_agents(Reply::error(404, "no")));
            }),
            unknown(),
        ),
    ] {
        bench.keylime.behave().unwrap();
        second.behave();
        second.restart(None).unwrap();
        bench.configure(&data).await;
        spoil();
        assert_eq!(bench.attest_well().await, expected, "{what}");
        assert_eq!(bench.plugin.healthy().await.ok(), Some(true), "{what}");
    }
}

#[tokio::test]
async fn a_host_may_be_waited_for_and_fail_meanwhile() {
    let bench = Bench::start(&format!("{LOCAL}wait_for_verification = \"60s\"\n")).await;
    for (what, change, expected) in [
        ("verified meanwhile", (|agent| agent.state = Some(3)) as Change, verified()),
        ("failed meanwhile", |agent| agent.state = Some(9), failed()),
        ("gone meanwhile", |agent| agent.state = None, unknown()),
        // The quote was made by the AK from before.
        (
            "registered anew and verified meanwhile",
            |agent| {
                agent.state = Some(3);
                agent.aik_tpm = Some(SoftTpm::new().ak());
            },
            not_yet(),
        ),
        (
            "enrolled anew meanwhile, with the same keys",
            |agent| {
                agent.state = Some(3);
                agent.attestation_count = 1;
            },
            not_yet(),
        ),
    ] {
        bench.afresh().await;
        bench.keylime.change(ID, |agent| agent.state = Some(1)).unwrap();
        let asked = count_agent_requests(&bench);
        let mut call = bench.open().await;
        let nonce = call.challenge(payload(ID, "sha256")).await.unwrap();
        let quote = response(&bench.tpm.quote(&nonce).text());
        let changes = async {
            until(|| asked.load(Ordering::SeqCst) >= 2).await;
            bench.keylime.change(ID, change).unwrap();
        };
        let (outcome, ()) = tokio::join!(call.outcome(quote), changes);
        assert_eq!(outcome, expected, "{what}");
    }
}

/// A host that boots together with its verifier: the first questions find nobody.
#[tokio::test]
async fn a_verifier_that_restarts_is_waited_for() {
    let bench = Bench::start(&format!("{LOCAL}wait_for_verification = \"60s\"\n")).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    bench.keylime.verifier.conduct(move |request: &Request| {
        (request.path.contains("/agents/") && counted.fetch_add(1, Ordering::SeqCst) < 3).then_some(Reply::Close)
    });
    assert_eq!(bench.attest_well().await, verified());
    assert!(asked.load(Ordering::SeqCst) > 3);
    bench.configure(&format!("{}wait_for_verification = \"1s\"\n", bench.keylime.plugin_data())).await;
    bench.keylime.verifier.stop().unwrap();
    assert_eq!(bench.attest_well().await, Who::Verifier.unavailable());
}

/// The verifier is the only one to look at the quote then, so nobody is waited for whose quote it has not seen.
#[tokio::test]
async fn a_quote_that_the_verifier_alone_checks_is_checked_before_any_wait() {
    let bench =
        Bench::start("insecure_verifier_only_quote_verification = true\nwait_for_verification = \"60s\"\n").await;
    bench.keylime.change(ID, |agent| agent.valid = (json!(0), Some("not by this AK".to_owned()))).unwrap();
    assert_eq!(bench.attest_well().await, no_proof());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    bench.keylime.verifier.conduct(move |request: &Request| {
        (request.path.contains("/agents/") && counted.fetch_add(1, Ordering::SeqCst) < 3).then_some(Reply::Close)
    });
    assert_eq!(bench.attest_well().await, Who::Verifier.unavailable());
}

/// A node that gives up while the verifier is asked leaves nothing behind.
#[tokio::test]
async fn a_node_that_goes_away_leaves_its_place_to_others() {
    let bench = Bench::start(LOCAL).await;
    let gate = Gate::closed();
    bench.keylime.verifier.conduct(for_agents(Reply::Gated(gate.clone(), Box::new(Reply::Close))));
    for _ in 0..600 {
        let mut call = bench.open().await;
        call.challenge(payload(ID, "sha256")).await.unwrap();
    }
    bench.keylime.behave().unwrap();
    gate.open();
    bench.still_works("600 nodes that went away").await;
}
