// SPDX-License-Identifier: Apache-2.0
//! Several verifiers asked as one

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::quote::QuoteString;

use super::{Client, Failures, Member, Pick, Pool};
use crate::client::ClientError;
use crate::id::AgentId;
use crate::verdict::Verdict;
use crate::verifier::{IdentityCheck, VerifierAgent, VerifierClient};
use crate::version::ApiVersion;

impl Client for VerifierClient {
    fn peer(&self) -> &str {
        self.peer()
    }

    async fn warm_up(&self) -> Result<ApiVersion, ClientError> {
        self.warm_up().await
    }
}

/// 1 to 8 verifiers. The order matters only among those that vouch for a host alike.
pub type VerifierPool = Pool<VerifierClient>;

/// The record of a host at the one verifier that was chosen, with the verdict on it. Later calls
/// for the same attestation go by it, so that answers of two verifiers are never mixed.
#[derive(Debug, Clone)]
pub struct Vouched {
    member: Arc<Member<VerifierClient>>,
    id: AgentId,
    /// What the verifier answered.
    pub record: VerifierAgent,
    /// What the record says; only [`Verdict::Verified`] admits the host.
    pub verdict: Verdict,
}

impl Vouched {
    /// The verifier that was chosen, for messages: service and address.
    #[must_use]
    pub fn peer(&self) -> &str {
        self.member.client.peer()
    }

    fn new(
        member: &Arc<Member<VerifierClient>>,
        id: &AgentId,
        record: VerifierAgent,
        max_age: Option<Duration>,
    ) -> Self {
        let verdict = record.verdict(max_age);
        Self { member: member.clone(), id: id.clone(), record, verdict }
    }

    /// What is chosen comes first: a failure, which no other verifier may cover up, then success,
    /// then what says most.
    fn rank(&self) -> u8 {
        match self.verdict {
            Verdict::Failed { .. } => 0,
            Verdict::Verified => 1,
            Verdict::Stale { .. } => 2,
            Verdict::NotYet { .. } => 3,
        }
    }

    fn is_failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failed { .. })
    }
}

impl VerifierPool {
    /// Asks all members that are up for a host, all at once, and chooses one of the records.
    ///
    /// A record of a failed host wins over all others: the verifiers watch the host together, and
    /// any of them may give it up. Else the first good one in order is chosen, else one that is
    /// stale, else one of a host not verified yet. A member that does not know the host, or fails,
    /// leaves the choice to the others. `max_age` is that of [`VerifierAgent::verdict`].
    ///
    /// # Errors
    /// No member has a record: [`ClientError::NotFound`] if all said so, else the first failure in
    /// order; of a member that was left out that of its last call.
    pub async fn ask(&self, id: &AgentId, max_age: Option<Duration>) -> Result<Vouched, ClientError> {
        let answers = join_all(self.picks().map(|(member, pick)| async move {
            let answer = match pick {
                Pick::Ask(trial) => self.call(member, trial, member.client.agent(id)).await,
                Pick::Skip(error) => Err(error),
            };
            answer.map(|record| Vouched::new(member, id, record, max_age))
        }))
        .await;
        let mut failures = Failures::default();
        let records: Vec<_> = answers.into_iter().filter_map(|a| a.map_err(|e| failures.add(e)).ok()).collect();
        match records.into_iter().min_by_key(Vouched::rank) {
            Some(chosen) => {
                failures.ignore();
                Ok(chosen)
            }
            None => Err(failures.into_error().expect("a pool has members, and each gave a record or a failure")),
        }
    }

    /// Asks for the same host once more. The chosen member must answer again, also if it is down;
    /// the others that are up can only object: if one of them has given the host up, its record is
    /// what this returns.
    ///
    /// # Errors
    /// The chosen member's failure, whatever the others say that is no objection.
    pub async fn ask_again(&self, vouched: &Vouched, max_age: Option<Duration>) -> Result<Vouched, ClientError> {
        let (id, chosen) = (&vouched.id, &vouched.member);
        let others = self.picks().filter(|(member, _)| !Arc::ptr_eq(member, chosen));
        let objections = join_all(others.map(|(member, pick)| async move {
            let Pick::Ask(trial) = pick else { return None };
            let mut failures = Failures::default();
            let answer = self.call(member, trial, member.client.agent(id)).await;
            let record = answer.map_err(|error| failures.add(error)).ok();
            failures.ignore();
            record.map(|record| Vouched::new(member, id, record, max_age)).filter(Vouched::is_failed)
        }));
        let again = self.call(chosen, None, chosen.client.agent(id));
        let (again, objections) = join(again, objections).await;
        match objections.into_iter().flatten().next() {
            Some(objection) => Ok(objection),
            None => again.map(|record| Vouched::new(chosen, id, record, max_age)),
        }
    }

    /// [`VerifierClient::verify_identity`] of the chosen member, for the same host.
    ///
    /// # Errors
    /// As there. No failure takes the member out: the quote comes from a node that nobody knows yet,
    /// and may be what the verifier fails on.
    pub async fn verify_identity(
        &self,
        vouched: &Vouched,
        hash_alg: HashAlgorithm,
        nonce: &Nonce,
        quote: &QuoteString,
    ) -> Result<IdentityCheck, ClientError> {
        vouched.member.client.verify_identity(&vouched.id, hash_alg, nonce, quote).await
    }
}

#[cfg(test)]
mod tests;
