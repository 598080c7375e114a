// SPDX-License-Identifier: Apache-2.0
//! Which of several verifiers' records counts, and which verifiers are asked at all

use tpm_wire::pcr::PcrValues;

use super::*;
use crate::pool::testing::Conduct::{self, Answers, Down, Hangs, Odd, Status, Unknown, Waits};
use crate::pool::testing::{Side, asked, numbered, sides};
use crate::testing::{Gate, PATIENT, Site, at, nobody, pass, until};

/// The date of every answer.
const NOW: u64 = 1_800_000_000;

/// Longer than a first rest, and than any.
const A_SECOND: Duration = Duration::from_secs(1);
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

fn record(state: u8, last: u64) -> Conduct {
    Answers(format!(
        r#"{{"operational_state": {state}, "ip": "127.0.0.1", "port": 9002, "attestation_count": 7,
             "last_successful_attestation": {last}, "hash_alg": "sha256", "maximum_attestation_interval": "10s"}}"#
    ))
}

fn good() -> Conduct {
    record(3, NOW)
}

fn stale() -> Conduct {
    record(3, NOW - 60)
}

fn not_yet() -> Conduct {
    record(1, 0)
}

fn failed() -> Conduct {
    record(9, NOW)
}

const VERIFIED: &str = "verified";
const STALE: &str = "the last successful attestation is 60 s old, the limit is 10 s";
const NOT_YET: &str = "not verified yet: the verifier has the host in state 1 (Start)";
const FAILED: &str = "the verifier has the host in state 9 (Invalid Quote)";

fn id() -> AgentId {
    "host".parse().unwrap()
}

struct Pool {
    pool: Arc<VerifierPool>,
    sides: Vec<Side>,
}

impl Pool {
    async fn of(conducts: &[Conduct]) -> Self {
        let site = Site::new();
        let sides = sides(&site, conducts).await;
        let client = |side: &Side| VerifierClient::new(at(&side.server), site.client(), PATIENT).unwrap();
        let pool = Arc::new(VerifierPool::new(sides.iter().map(client).collect()).unwrap());
        Self { pool, sides }
    }

    fn now(&self, conducts: &[Conduct]) {
        for (side, conduct) in self.sides.iter().zip(conducts) {
            side.now(conduct.clone());
        }
    }

    fn told(&self, result: Result<Vouched, ClientError>) -> String {
        let text = match result {
            Ok(vouched) => format!("{}: {}", vouched.peer(), vouched.verdict),
            Err(error) => error.to_string(),
        };
        numbered(&text, &self.sides).replace("the Keylime verifier at ", "")
    }

    async fn ask(&self) -> String {
        self.told(self.pool.ask(&id(), None).await)
    }

    fn asked(&self) -> Vec<usize> {
        asked(&self.sides)
    }
}

fn unavailable(member: usize) -> String {
    format!("{member} answered GET /v2.6/agents/host with 503: Service Unavailable")
}

fn unknown(member: usize) -> String {
    format!("{member} does not know what GET /v2.6/agents/host asks for: agent id not found")
}

fn odd(member: usize) -> String {
    format!("{member} answered GET /agents/host with an unusable body: it has no \"operational_state\"")
}

#[tokio::test]
async fn one_row_per_choice() {
    for (conducts, outcome) in [
        (vec![good()], format!("0: {VERIFIED}")),
        (vec![good(), good()], format!("0: {VERIFIED}")),
        // A failed host wins, wherever and whatever else.
        (vec![good(), failed()], format!("1: {FAILED}")),
        (vec![failed(), good()], format!("0: {FAILED}")),
        (vec![Down, failed(), good()], format!("1: {FAILED}")),
        (vec![Unknown, Odd, failed()], format!("2: {FAILED}")),
        // A good one wins over less than that.
        (vec![Unknown, good()], format!("1: {VERIFIED}")),
        (vec![Down, good()], format!("1: {VERIFIED}")),
        (vec![Odd, good()], format!("1: {VERIFIED}")),
        (vec![stale(), good()], format!("1: {VERIFIED}")),
        (vec![not_yet(), stale(), good(), good()], format!("2: {VERIFIED}")),
        // The best of the rest.
        (vec![not_yet(), stale()], format!("1: {STALE}")),
        (vec![stale(), stale()], format!("0: {STALE}")),
        (vec![Unknown, not_yet()], format!("1: {NOT_YET}")),
        (vec![not_yet(), Down], format!("0: {NOT_YET}")),
        // No record at all.
        (vec![Unknown], unknown(0)),
        (vec![Unknown, Unknown], unknown(0)),
        (vec![Unknown, Down], unavailable(1)),
        (vec![Down, Unknown, Unknown], unavailable(0)),
        (vec![Unknown, Odd], odd(1)),
        (vec![Odd, Down], odd(0)),
        (vec![Down, Odd], unavailable(0)),
    ] {
        let pool = Pool::of(&conducts).await;
        assert_eq!(pool.ask().await, outcome, "{conducts:?}");
        assert_eq!(pool.asked(), vec![1; conducts.len()], "{conducts:?}");
    }
}

#[tokio::test]
async fn the_age_limit_reaches_the_verdict() {
    let pool = Pool::of(&[stale(), not_yet()]).await;
    let vouched = pool.pool.ask(&id(), Some(Duration::from_secs(60))).await.unwrap();
    assert_eq!((&vouched.verdict, vouched.record.attestation_count), (&Verdict::Verified, 7));
    let again = pool.pool.ask_again(&vouched, Some(A_SECOND)).await;
    assert_eq!(pool.told(again), "0: the last successful attestation is 60 s old, the limit is 1 s");
}

#[tokio::test]
async fn all_are_asked_at_once() {
    let gate = Gate::closed();
    let waits = |then| Waits(gate.clone(), Box::new(then));
    let pool = Pool::of(&[waits(good()), waits(stale()), waits(good())]).await;
    let asking = tokio::spawn({
        let pool = pool.pool.clone();
        async move { pool.ask(&id(), None).await }
    });
    until(|| pool.asked() == [1, 1, 1]).await;
    gate.open();
    assert_eq!(pool.told(asking.await.unwrap()), format!("0: {VERIFIED}"));
}

#[tokio::test]
async fn only_the_chosen_member_answers_again_and_the_others_may_object() {
    let all_good = [good(), good()];
    for (then, outcome) in [
        ([good(), good()], format!("0: {VERIFIED}")),
        ([good(), Down], format!("0: {VERIFIED}")),
        ([good(), Unknown], format!("0: {VERIFIED}")),
        ([good(), Odd], format!("0: {VERIFIED}")),
        ([good(), stale()], format!("0: {VERIFIED}")),
        ([good(), failed()], format!("1: {FAILED}")),
        ([failed(), good()], format!("0: {FAILED}")),
        ([stale(), good()], format!("0: {STALE}")),
        ([stale(), failed()], format!("1: {FAILED}")),
        ([not_yet(), good()], format!("0: {NOT_YET}")),
        ([Unknown, good()], unknown(0)),
        ([Down, good()], unavailable(0)),
        ([Down, failed()], format!("1: {FAILED}")),
        ([Odd, good()], odd(0)),
    ] {
        let pool = Pool::of(&all_good).await;
        let vouched = pool.pool.ask(&id(), None).await.unwrap();
        pool.now(&then);
        assert_eq!(pool.told(pool.pool.ask_again(&vouched, None).await), outcome, "{then:?}");
        assert_eq!(pool.asked(), [2, 2], "{then:?}");
    }
}

#[tokio::test]
async fn the_chosen_member_is_asked_again_also_if_it_is_down_and_others_are_not() {
    let pool = Pool::of(&[good(), good(), good()]).await;
    let vouched = pool.pool.ask(&id(), None).await.unwrap();
    pool.now(&[Down, good(), Down]);
    assert_eq!(pool.ask().await, format!("1: {VERIFIED}"));
    assert_eq!(pool.told(pool.pool.ask_again(&vouched, None).await), unavailable(0));
    pool.now(&all(good(), 3));
    assert_eq!(pool.told(pool.pool.ask_again(&vouched, None).await), format!("0: {VERIFIED}"));
    assert_eq!(pool.asked(), [4, 4, 2]);
}

fn all(conduct: Conduct, count: usize) -> Vec<Conduct> {
    vec![conduct; count]
}

#[tokio::test]
async fn a_member_that_is_down_rests_and_is_tried_by_one() {
    let pool = Pool::of(&[Down, good()]).await;
    for _ in 0..3 {
        assert_eq!(pool.ask().await, format!("1: {VERIFIED}"));
    }
    assert_eq!(pool.asked(), [1, 3]);
    // It is still down at the first trial, so it rests for longer.
    pass(A_SECOND).await;
    assert_eq!(pool.ask().await, format!("1: {VERIFIED}"));
    assert_eq!(pool.asked(), [2, 4]);
    pass(A_SECOND).await;
    assert_eq!(pool.ask().await, format!("1: {VERIFIED}"));
    assert_eq!(pool.asked(), [2, 5]);
    // Of many callers one tries it; what it says counts as ever.
    pass(A_SECOND).await;
    let gate = Gate::closed();
    pool.sides[0].now(Waits(gate.clone(), Box::new(good())));
    let trying = tokio::spawn({
        let pool = pool.pool.clone();
        async move { pool.ask(&id(), None).await }
    });
    until(|| pool.asked()[0] == 3).await;
    for _ in 0..3 {
        assert_eq!(pool.ask().await, format!("1: {VERIFIED}"));
    }
    assert_eq!(pool.asked()[0], 3);
    gate.open();
    assert_eq!(pool.told(trying.await.unwrap()), format!("0: {VERIFIED}"));
    // It is back.
    assert_eq!(pool.ask().await, format!("0: {VERIFIED}"));
    assert_eq!(pool.asked()[0], 4);
}

#[tokio::test]
async fn a_trial_that_is_given_up_is_left_to_the_next_caller() {
    let pool = Pool::of(&[Down, good()]).await;
    pool.ask().await;
    pass(A_SECOND).await;
    pool.sides[0].now(Hangs);
    let trying = tokio::spawn({
        let pool = pool.pool.clone();
        async move { pool.ask(&id(), None).await }
    });
    until(|| pool.asked()[0] == 2).await;
    trying.abort();
    assert!(trying.await.unwrap_err().is_cancelled());
    pool.sides[0].now(good());
    assert_eq!(pool.ask().await, format!("0: {VERIFIED}"));
}

#[tokio::test]
async fn a_member_that_rests_may_still_know_the_host() {
    let pool = Pool::of(&[good(), Down, Unknown]).await;
    pool.ask().await;
    pool.now(&all(Unknown, 3));
    assert_eq!(pool.ask().await, unavailable(1));
    assert_eq!(pool.asked(), [2, 1, 2]);
    pass(HALF_A_MINUTE).await;
    assert_eq!(pool.ask().await, unknown(0));
    assert_eq!(pool.asked(), [3, 2, 3]);
}

#[tokio::test]
async fn all_are_tried_while_none_is_up() {
    let pool = Pool::of(&[Down, Down]).await;
    for _ in 0..3 {
        assert_eq!(pool.ask().await, unavailable(0));
    }
    assert_eq!(pool.asked(), [3, 3]);
    pool.sides[1].now(good());
    assert_eq!(pool.ask().await, format!("1: {VERIFIED}"));
    assert_eq!(pool.ask().await, format!("1: {VERIFIED}"));
    assert_eq!(pool.asked(), [4, 5]);
}

#[tokio::test]
async fn answers_without_use_do_not_take_a_member_out() {
    for conduct in [Unknown, Odd, Status(500), Status(502), Status(504), Status(408), Status(429)] {
        let pool = Pool::of(&[conduct.clone(), good()]).await;
        pool.ask().await;
        pool.ask().await;
        assert_eq!(pool.asked(), [2, 2], "{conduct:?}");
    }
}

#[tokio::test]
async fn one_verifier_alone_is_asked_as_ever() {
    let pool = Pool::of(&[Down]).await;
    for _ in 0..3 {
        assert_eq!(pool.ask().await, unavailable(0));
    }
    pool.now(&[good()]);
    let vouched = pool.pool.ask(&id(), None).await.unwrap();
    pool.pool.ask_again(&vouched, None).await.unwrap();
    let agent = "GET /v2.6/agents/host";
    assert_eq!(pool.sides[0].server.seen(), ["GET /version", agent, agent, agent, agent, agent]);
}

#[tokio::test]
async fn only_the_chosen_member_sees_the_quote_and_failing_on_it_does_not_take_it_out() {
    let pool = Pool::of(&[good(), good()]).await;
    let vouched = pool.pool.ask(&id(), None).await.unwrap();
    let pcrs = PcrValues::new(HashAlgorithm::Sha256, [(16, vec![0xa5; 32])].into()).unwrap();
    let quote = QuoteString::new(vec![0xff; 16], vec![0], &pcrs).unwrap();
    let nonce = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".parse().unwrap();
    let check = || pool.pool.verify_identity(&vouched, HashAlgorithm::Sha256, &nonce, &quote);
    pool.now(&[Answers(r#"{"valid": 1}"#.to_owned()), good()]);
    assert_eq!(check().await.unwrap(), IdentityCheck::Valid);
    pool.now(&[Answers(r#"{"valid": 0, "reason": "no"}"#.to_owned()), good()]);
    assert_eq!(check().await.unwrap(), IdentityCheck::Invalid { reason: "no".to_owned() });
    pool.now(&[Down, good()]);
    let failure = numbered(&check().await.unwrap_err().to_string(), &pool.sides);
    assert_eq!(failure, "the Keylime verifier at 0 answered GET /v2.6/verify/identity with 503: Service Unavailable");
    let seen: Vec<_> = pool.sides.iter().map(|side| side.server.seen().len()).collect();
    assert_eq!(seen, [5, 2]);
    pool.now(&[good(), good()]);
    assert_eq!(pool.ask().await, format!("0: {VERIFIED}"));
}

#[tokio::test]
async fn warming_up_reports_each_member_and_costs_no_later_call() {
    let site = Site::new();
    let sides = sides(&site, &[good(), good()]).await;
    let away = nobody().await;
    let client = |at| VerifierClient::new(at, site.client(), PATIENT).unwrap();
    let addresses = [at(&sides[0].server), away.clone(), at(&sides[1].server)];
    let pool = VerifierPool::new(addresses.into_iter().map(client).collect()).unwrap();
    let report = pool.warm_up().await;
    let told: Vec<_> = report
        .iter()
        .map(|member| match &member.outcome {
            Ok(version) => format!("{}: {version}", member.peer),
            Err(error) => error.to_string(),
        })
        .map(|text| numbered(&text, &sides).replace(&away.to_string(), "AWAY"))
        .collect();
    assert_eq!(
        told,
        [
            "the Keylime verifier at 0: 2.6",
            "cannot connect to the Keylime verifier at https://AWAY: Connection refused (os error 111)",
            "the Keylime verifier at 1: 2.6",
        ]
    );
    pool.ask(&id(), None).await.unwrap();
    assert!(sides.iter().all(|side| side.server.seen() == ["GET /version", "GET /v2.6/agents/host"]));
    let peers: Vec<_> = pool.peers().map(|peer| numbered(peer, &sides).replace(&away.to_string(), "AWAY")).collect();
    assert_eq!(
        peers,
        ["the Keylime verifier at 0", "the Keylime verifier at https://AWAY", "the Keylime verifier at 1"]
    );
}

#[test]
fn a_pool_has_one_to_eight_members() {
    let site = Site::new();
    let client = || VerifierClient::new("127.0.0.1:1".parse().unwrap(), site.client(), PATIENT).unwrap();
    for (count, outcome) in [
        (0, Some("a pool has 1 to 8 members, not 0")),
        (1, None),
        (8, None),
        (9, Some("a pool has 1 to 8 members, not 9")),
    ] {
        let pool = VerifierPool::new((0..count).map(|_| client()).collect());
        assert_eq!(pool.err().map(|error| error.to_string()).as_deref(), outcome);
    }
}
