// SPDX-License-Identifier: Apache-2.0
//! Several verifiers or registrars asked as one, so that one of them may be away
//!
//! A member that cannot be reached, breaks off, answers too late, fails in TLS or answers with 503 is
//! left out for a while, 1 s at first and at most 30 s, as long as another one is up. Then one caller
//! tries it. A call that did not get its turn, and any other answer, take nobody out. A pool of one
//! member is that client and nothing else: it is asked every time, and what it says is what the pool
//! says.

mod health;
mod registrar;
#[cfg(test)]
mod testing;
mod verifier;

use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::client::ClientError;
use crate::version::ApiVersion;
use health::{Health, Trial, Turn};

pub use registrar::RegistrarPool;
pub use verifier::{VerifierPool, Vouched};

/// Most members of a pool.
pub const MAX_MEMBERS: usize = 8;

/// A pool cannot have that many members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pool has 1 to {MAX_MEMBERS} members, not {0}")]
pub struct PoolSizeError(pub usize);

/// How the first contact with a member ended.
#[derive(Debug, Clone)]
pub struct WarmUp<'a> {
    /// The member: service and address.
    pub peer: &'a str,
    /// The API version agreed on, or why there is none yet. Later calls try again.
    pub outcome: Result<ApiVersion, ClientError>,
}

/// What a pool needs to know of its members' clients.
pub trait Client {
    /// Service and address, for messages.
    fn peer(&self) -> &str;

    /// Connects and negotiates the API version ahead of the first call.
    fn warm_up(&self) -> impl Future<Output = Result<ApiVersion, ClientError>> + Send;
}

#[derive(Debug)]
struct Member<C> {
    client: C,
    health: Health,
}

/// 1 to 8 clients of one service, in the order of the configuration; share it, it keeps their connections and which of
/// them are down.
#[derive(Debug)]
pub struct Pool<C> {
    members: Vec<Arc<Member<C>>>,
}

/// Whether a member is asked in this round, and if not, how its last call failed.
enum Pick {
    Ask(Option<Trial>),
    Skip(ClientError),
}

impl<C: Client> Pool<C> {
    /// A pool of these clients. Whether their order matters is said at [`RegistrarPool`] and [`VerifierPool`].
    ///
    /// # Errors
    /// None, or more than eight.
    pub fn new(clients: Vec<C>) -> Result<Self, PoolSizeError> {
        if clients.is_empty() || clients.len() > MAX_MEMBERS {
            return Err(PoolSizeError(clients.len()));
        }
        let member = |client| Arc::new(Member { client, health: Health::new() });
        Ok(Self { members: clients.into_iter().map(member).collect() })
    }

    /// The members for messages, in order: service and address of each.
    pub fn peers(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.client.peer())
    }

    /// Connects to all members and negotiates API versions ahead of the first call, all at once.
    /// Gives how it went with each, in order.
    pub async fn warm_up(&self) -> Vec<WarmUp<'_>> {
        join_all(self.members.iter().map(|member| async {
            let outcome = self.call(member, None, member.client.warm_up()).await;
            WarmUp { peer: member.client.peer(), outcome }
        }))
        .await
    }

    /// Whether any member is up, so that those that are down can rest.
    fn one_is_up(&self) -> bool {
        self.members.iter().any(|member| member.health.is_up())
    }

    /// Each member with whether it is asked, worked out one by one as the caller comes to them:
    /// those that are up, and of those that are down the ones due for a trial; all, if none is up.
    fn picks(&self) -> impl Iterator<Item = (&Arc<Member<C>>, Pick)> {
        let one_is_up = self.one_is_up();
        self.members.iter().map(move |member| {
            let pick = match member.health.turn(Instant::now()) {
                Turn::Up => Pick::Ask(None),
                Turn::Due(trial) => Pick::Ask(Some(trial)),
                Turn::Down(error) if one_is_up => Pick::Skip(error),
                Turn::Down(_) => Pick::Ask(None),
            };
            (member, pick)
        })
    }

    /// Runs a call to a member and keeps its health in step. `trial` lives until the call ends, in
    /// whichever way.
    async fn call<T>(
        &self,
        member: &Member<C>,
        trial: Option<Trial>,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let begun = Instant::now();
        let result = call.await;
        // The health of a single member decides nothing, and its failures are the caller's to log.
        if self.members.len() > 1 {
            member.health.record(member.client.peer(), begun, result.as_ref().err());
        }
        drop(trial);
        result
    }
}

/// How the members failed that gave no record.
#[derive(Default)]
struct Failures {
    not_found: Option<ClientError>,
    others: Vec<ClientError>,
}

impl Failures {
    fn add(&mut self, error: ClientError) {
        if !error.is_not_found() {
            self.others.push(error);
        } else if self.not_found.is_none() {
            self.not_found = Some(error);
        }
    }

    /// Another member gave a record, so nobody else hears of these.
    fn ignore(self) {
        for error in self.others.into_iter().filter(|error| !health::is_down(error)) {
            tracing::warn!(%error, "a Keylime service of several gave no usable answer");
        }
    }

    /// The one error for all: "not found" only if all say so, since one that could not be asked may
    /// know better.
    fn into_error(mut self) -> Option<ClientError> {
        if self.others.is_empty() {
            return self.not_found;
        }
        let first = self.others.remove(0);
        self.ignore();
        Some(first)
    }
}
