// SPDX-License-Identifier: Apache-2.0
//! Several registrars asked as one

use std::time::Duration;

use tokio::time::Instant;

use super::{Client, Failures, Pick, Pool};
use crate::client::ClientError;
use crate::id::AgentId;
use crate::registrar::{RegistrarAgent, RegistrarClient};
use crate::version::ApiVersion;

impl Client for RegistrarClient {
    fn peer(&self) -> &str {
        self.peer()
    }

    async fn warm_up(&self) -> Result<ApiVersion, ClientError> {
        self.warm_up().await
    }
}

/// 1 to 8 registrars, the one to ask first at the front.
///
/// Anybody may register at a registrar, and only within one registrar's database an id keeps its TPM.
/// So where registrars do not share a database, the record of an earlier one in the list wins, and a later one
/// decides on an id only if
/// - all before it said that they do not know the id. A failure is no such answer, else it would be enough to
///   register somebody's id at the later one with another TPM, and wait until the earlier one is away. Nor is a
///   record that is not activated, which anybody can bring about by registering the same keys again;
/// - or the id is an EK hash ([`AgentId::is_ek_hash`]), which no other TPM's record fits. The caller has to
///   compare the EK of the record with it.
pub type RegistrarPool = Pool<RegistrarClient>;

impl RegistrarPool {
    /// The longest time for all members together: twice that for one. So one that hangs leaves a whole call for one
    /// that answers. Two that hang use the time up: the node hears of it and tries again rather than
    /// waits for up to eight times the limit, and then they rest while another one is up.
    fn limit(&self) -> Duration {
        self.members.iter().map(|member| member.client.limit()).max().unwrap_or_default() * 2
    }

    /// The record of an agent from the first member that has one: they are asked one after the other, in
    /// order. What one does not know, the next one may; what one cannot say, the next one may for an
    /// id that is an EK hash, and for no other.
    ///
    /// # Errors
    /// No member gave a record: [`ClientError::NotFound`] if all said that they have none, else the
    /// first failure in order; of a member that was left out that of its last call. For an id that is no EK hash
    /// that failure ends the search.
    pub async fn agent(&self, id: &AgentId) -> Result<RegistrarAgent, ClientError> {
        let end = Instant::now() + self.limit();
        let mut failures = Failures::default();
        for (member, pick) in self.picks() {
            let answer = match pick {
                Pick::Ask(trial) => self.call(member, trial, member.client.agent_before(end, id)).await,
                Pick::Skip(error) => Err(error),
            };
            match answer {
                Ok(record) => {
                    failures.ignore();
                    return Ok(record);
                }
                Err(error) if is_unknown(&error) || id.is_ek_hash() => failures.add(error),
                Err(error) => return Err(error),
            }
        }
        Err(failures.into_error().expect("a pool has members, and each gave a record or a failure"))
    }
}

/// The registrar has no record of the agent at all.
fn is_unknown(error: &ClientError) -> bool {
    error.is_not_found() && !error.is_not_activated()
}

#[cfg(test)]
mod tests;
