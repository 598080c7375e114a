// SPDX-License-Identifier: Apache-2.0
//! Several registrars asked as one

use super::{Client, Failures, Members, Pick, PoolSizeError, WarmUp};
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

/// 1 to 8 registrars; share it, it keeps their connections and which of them are down.
#[derive(Debug)]
pub struct RegistrarPool {
    members: Members<RegistrarClient>,
}

impl RegistrarPool {
    /// A pool of these registrars, the one to ask first at the front.
    ///
    /// # Errors
    /// None, or more than eight.
    pub fn new(clients: Vec<RegistrarClient>) -> Result<Self, PoolSizeError> {
        Members::new(clients).map(|members| Self { members })
    }

    /// The members for messages, in order: service and address of each.
    pub fn peers(&self) -> impl Iterator<Item = &str> {
        self.members.peers()
    }

    /// Connects to all members and negotiates API versions ahead of the first call, all at once.
    /// Gives how it went with each, in order.
    pub async fn warm_up(&self) -> Vec<WarmUp<'_>> {
        self.members.warm_up().await
    }

    /// The record of an agent from the first member that has one: those that are up are asked one
    /// after the other, in order. What one does not know, or cannot say, the next one may.
    ///
    /// # Errors
    /// No member gave a record: [`ClientError::NotFound`] if all said that they have none, else the
    /// first failure in order; of a member that was left out that of its last call.
    pub async fn agent(&self, id: &AgentId) -> Result<RegistrarAgent, ClientError> {
        let mut failures = Failures::default();
        for (member, pick) in self.members.picks() {
            let answer = match pick {
                Pick::Ask(trial) => self.members.call(member, trial, member.client.agent(id)).await,
                Pick::Skip(error) => Err(error),
            };
            match answer {
                Ok(record) => {
                    failures.ignore();
                    return Ok(record);
                }
                Err(error) => failures.add(error),
            }
        }
        Err(failures.into_error().expect("a pool has members, and each gave a record or a failure"))
    }
}

#[cfg(test)]
mod tests;
