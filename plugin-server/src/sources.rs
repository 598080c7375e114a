// SPDX-License-Identifier: Apache-2.0
//! How many attestations are under way for each address that nodes come from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Attestations under way by address; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One attestation under way; ends with it.
#[derive(Debug)]
pub struct Guest {
    sources: Sources,
    address: IpAddr,
}

impl Sources {
    /// Counts an attestation from `address`, unless `limit` are under way from there.
    #[must_use]
    pub fn enter(&self, address: IpAddr, limit: usize) -> Option<Guest> {
        // An IPv6 network is a /64: who has one address of it has them all.
        let address = network(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Guest { sources: self.clone(), address })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_limit_and_leaves_nothing_behind() {
        let sources = Sources::default();
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let first = sources.enter(a, 2).unwrap();
        let _second = sources.enter(mapped, 2).unwrap();
        assert!(sources.enter(a, 2).is_none());
        let _other = sources.enter(b, 2).unwrap();
        drop(first);
        let _third = sources.enter(a, 2).unwrap();
        drop((_second, _third, _other));
        assert!(sources.0.lock().unwrap().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let sources = Sources::default();
        let _guest = sources.enter("2001:db8::1".parse().unwrap(), 1).unwrap();
        assert!(sources.enter("2001:db8::ffff:2".parse().unwrap(), 1).is_none());
        assert!(sources.enter("2001:db8:0:1::1".parse().unwrap(), 1).is_some());
    }
}
