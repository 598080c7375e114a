// SPDX-License-Identifier: Apache-2.0
//! Whose quote is next. A TPM makes one at a time, and a discrete one takes a good part of a second for it: a caller that asks
//! for hundreds must not have the verifier wait for all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Quotes of one source that are in the TPM's queue at a time. More than one, so that the TPM need not wait for the next.
const EACH: usize = 4;

/// Who shares its turns: an address, or a user of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An IPv4 address, or the network of an IPv6 address, of which a host has as many as it likes.
    Address(IpAddr),
    /// A user of this host.
    User(u32),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        const NETWORK: u128 = u128::MAX << 64;
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
            address => address,
        })
    }
}

/// Shares out the TPM's queue.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<Source, Arc<Semaphore>>>);

impl Turns {
    /// Waits until the source has fewer quotes in the queue than it may; those of one source come in the order in which they
    /// asked. The turn ends when the result is dropped.
    pub(crate) async fn take(&self, source: Source) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Who has no quote now is forgotten.
            sources.retain(|_, turns| Arc::strong_count(turns) > 1);
            Arc::clone(sources.entry(source).or_insert_with(|| Arc::new(Semaphore::new(EACH))))
        };
        // Never closed.
        turns.acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn addresses_of_a_network_share_their_turns() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }

    #[test]
    fn one_source_does_not_keep_another_waiting() {
        let turns = Turns::default();
        let (crowd, other) = (Source::User(1), Source::User(2));
        let mut taken: Vec<_> = (0..EACH).map(|_| poll(pin!(turns.take(crowd)))).collect();
        assert!(taken.iter().all(Poll::is_ready));
        let mut next = pin!(turns.take(crowd));
        let mut after = pin!(turns.take(crowd));
        assert!(poll(next.as_mut()).is_pending() && poll(after.as_mut()).is_pending());
        let other = poll(pin!(turns.take(other)));
        assert!(other.is_ready());
        taken.pop();
        assert!(poll(after.as_mut()).is_pending());
        let Poll::Ready(turn) = poll(next.as_mut()) else { panic!("it is its turn") };
        drop((turn, other, taken));
        assert!(poll(after.as_mut()).is_ready());
    }

    #[test]
    fn who_has_no_quote_is_forgotten() {
        let turns = Turns::default();
        for user in 0..100 {
            assert!(poll(pin!(turns.take(Source::User(user)))).is_ready());
        }
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
