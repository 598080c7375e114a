// SPDX-License-Identifier: Apache-2.0
//! Which of several registrars is asked, and whose record is taken

use std::time::Duration;

use super::*;
use crate::HttpSettings;
use crate::pool::testing::Conduct::{self, Answers, Down, Hangs, Inactive, Odd, Unknown};
use crate::pool::testing::{Side, asked, numbered, sides};
use crate::testing::{PATIENT, SHORT_CALL, Site, at, pass};

const EK_HASH: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

struct Pool {
    pool: RegistrarPool,
    sides: Vec<Side>,
}

impl Pool {
    async fn of(conducts: &[Conduct]) -> Self {
        Self::within(conducts, PATIENT).await
    }

    async fn within(conducts: &[Conduct], settings: HttpSettings) -> Self {
        let site = Site::new();
        let sides = sides(&site, conducts).await;
        let client = |side: &Side| RegistrarClient::new(at(&side.server), site.client(), settings).unwrap();
        let pool = RegistrarPool::new(sides.iter().map(client).collect()).unwrap();
        Self { pool, sides }
    }

    /// The number that stands for the AK, or the failure.
    async fn record(&self, id: &str) -> String {
        match self.pool.agent(&id.parse().unwrap()).await {
            Ok(record) => format!("{:?}", record.aik_tpm),
            Err(error) => numbered(&error.to_string(), &self.sides).replace("the Keylime registrar at ", ""),
        }
    }

    /// That of an id that is an EK hash.
    async fn agent(&self) -> String {
        self.record(EK_HASH).await.replace(EK_HASH, "host")
    }

    fn asked(&self) -> Vec<usize> {
        asked(&self.sides)
    }
}

/// A record with this one byte as AK.
fn known(ak: &str) -> Conduct {
    Answers(format!(r#"{{"aik_tpm": "{ak}"}}"#))
}

fn first() -> Conduct {
    known("AQ==")
}

fn second() -> Conduct {
    known("Ag==")
}

fn unavailable(member: usize) -> String {
    format!("{member} answered GET /v2.6/agents/host with 503: Service Unavailable")
}

fn unknown(member: usize) -> String {
    format!("{member} does not know what GET /v2.6/agents/host asks for: agent id not found")
}

fn inactive(member: usize) -> String {
    format!("{member} does not know what GET /v2.6/agents/host asks for: Agent with ID 'host' has not been activated")
}

fn odd(member: usize) -> String {
    format!("{member} answered GET /agents/host with an unusable body: it has no \"aik_tpm\"")
}

#[tokio::test]
async fn one_row_per_choice() {
    for (conducts, outcome, asked) in [
        (vec![first()], "[1]".to_owned(), vec![1]),
        (vec![first(), second()], "[1]".to_owned(), vec![1, 0]),
        (vec![Unknown, second()], "[2]".to_owned(), vec![1, 1]),
        (vec![Down, second()], "[2]".to_owned(), vec![1, 1]),
        (vec![Odd, second()], "[2]".to_owned(), vec![1, 1]),
        (vec![Down, Unknown, first(), second()], "[1]".to_owned(), vec![1, 1, 1, 0]),
        (vec![Inactive, second()], "[2]".to_owned(), vec![1, 1]),
        (vec![Unknown], unknown(0), vec![1]),
        (vec![Unknown, Unknown], unknown(0), vec![1, 1]),
        (vec![Unknown, Down], unavailable(1), vec![1, 1]),
        (vec![Down, Unknown], unavailable(0), vec![1, 1]),
        (vec![Unknown, Odd, Down], odd(1), vec![1, 1, 1]),
        (vec![Down, Down], unavailable(0), vec![1, 1]),
    ] {
        let pool = Pool::of(&conducts).await;
        assert_eq!(pool.agent().await, outcome, "{conducts:?}");
        assert_eq!(pool.asked(), asked, "{conducts:?}");
    }
}

#[tokio::test]
async fn an_id_that_is_no_ek_hash_is_passed_on_only_by_who_does_not_know_it() {
    let another = || Answers(r#"{"agent_id": "HOST", "aik_tpm": "AQ=="}"#.to_owned());
    let of_another = "0 answered GET /agents/host with an unusable body: it is the record of another agent: its \"agent_id\" is not \
         exactly the id asked for";
    for (conducts, outcome, asked) in [
        (vec![first(), second()], "[1]".to_owned(), vec![1, 0]),
        (vec![Unknown, second()], "[2]".to_owned(), vec![1, 1]),
        (vec![Unknown, Unknown], unknown(0), vec![1, 1]),
        (vec![Down, second()], unavailable(0), vec![1, 0]),
        (vec![Odd, second()], odd(0), vec![1, 0]),
        (vec![another(), second()], of_another.to_owned(), vec![1, 0]),
        (vec![Unknown, Down, first()], unavailable(1), vec![1, 1, 0]),
        (vec![Down, Unknown], unavailable(0), vec![1, 0]),
        (vec![Inactive, second()], inactive(0), vec![1, 0]),
    ] {
        let pool = Pool::of(&conducts).await;
        assert_eq!(pool.record("host").await, outcome, "{conducts:?}");
        assert_eq!(pool.asked(), asked, "{conducts:?}");
    }
    // Nor while it rests.
    let pool = Pool::of(&[Down, second()]).await;
    for asked in [[1, 0], [1, 0]] {
        assert_eq!(pool.record("host").await, unavailable(0));
        assert_eq!(pool.asked(), asked);
    }
    assert_eq!(pool.agent().await, "[2]");
    pass(Duration::from_secs(1)).await;
    pool.sides[0].now(first());
    assert_eq!(pool.record("host").await, "[1]");
}

#[tokio::test]
async fn all_together_have_twice_the_time_of_one() {
    // One that hangs leaves the time that another one needs.
    let pool = Pool::within(&[Hangs, second()], SHORT_CALL).await;
    assert_eq!(pool.agent().await, "[2]");
    let pool = Pool::within(&[Hangs, Hangs, second()], SHORT_CALL).await;
    assert_eq!(pool.agent().await, "0 did not answer GET /agents/host within 1 s");
    assert_eq!(pool.asked(), [1, 1, 0]);
}

#[tokio::test]
async fn a_member_that_is_down_rests_and_may_still_know_the_agent() {
    let pool = Pool::of(&[Down, second()]).await;
    for _ in 0..3 {
        assert_eq!(pool.agent().await, "[2]");
    }
    assert_eq!(pool.asked(), [1, 3]);
    pool.sides[0].now(first());
    pool.sides[1].now(Unknown);
    assert_eq!(pool.agent().await, unavailable(0));
    pass(Duration::from_secs(1)).await;
    assert_eq!(pool.agent().await, "[1]");
    assert_eq!(pool.agent().await, "[1]");
    assert_eq!(pool.asked(), [3, 4]);
}

#[tokio::test]
async fn a_trial_is_taken_only_when_a_member_comes_up_in_turn() {
    let pool = Pool::of(&[Unknown, Down]).await;
    assert_eq!(pool.agent().await, unavailable(1));
    pass(Duration::from_secs(1)).await;
    pool.sides[0].now(first());
    pool.sides[1].now(second());
    assert_eq!(pool.agent().await, "[1]");
    assert_eq!(pool.asked(), [2, 1]);
    pool.sides[0].now(Unknown);
    assert_eq!(pool.agent().await, "[2]");
}

#[tokio::test]
async fn one_registrar_alone_is_asked_as_ever() {
    let pool = Pool::of(&[Down]).await;
    for _ in 0..3 {
        assert_eq!(pool.agent().await, unavailable(0));
    }
    assert_eq!(pool.asked(), [3]);
}

#[tokio::test]
async fn warming_up_reports_each_member() {
    let pool = Pool::of(&[first(), second()]).await;
    let report = pool.pool.warm_up().await;
    let told: Vec<_> = report.iter().map(|member| numbered(member.peer, &pool.sides)).collect();
    assert_eq!(told, ["the Keylime registrar at 0", "the Keylime registrar at 1"]);
    assert!(report.iter().all(|member| member.outcome.is_ok()));
    assert_eq!(pool.pool.peers().count(), 2);
    assert_eq!(pool.agent().await, "[1]");
}
