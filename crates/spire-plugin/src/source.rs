// SPDX-License-Identifier: Apache-2.0
//! Who attests, as far as SPIRE server tells: the address that the node's connection came from.

use std::net::IpAddr;

use tonic::metadata::MetadataMap;

/// Key under which SPIRE server, from 1.15.2 on, tells a plugin who attests: the text of an IP address, empty where it
/// knows none (SPIRE: `pkg/server/plugin/nodeattestor/v1.go`, `XForwardedClientIPKey`).
const CLIENT_IP: &str = "x-forwarded-client-ip";

/// The address from which the node's connection came to SPIRE server, as the `metadata` of an `Attest` call says.
///
/// It is the other end of the TCP connection, thus a load balancer's where there is one, and IPv4 also where SPIRE saw
/// it mapped into IPv6. `None` if SPIRE does not tell (before 1.15.2), knows none, or sends anything but exactly one
/// address: fit to bound and to log, not to decide on.
pub fn address(metadata: &MetadataMap) -> Option<IpAddr> {
    let mut values = metadata.get_all(CLIENT_IP).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    value.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_one_whole_address_or_none() {
        for (values, expected) in [
            (&["192.0.2.7"][..], Some("192.0.2.7")),
            (&["2001:db8::1"], Some("2001:db8::1")),
            (&["::ffff:192.0.2.7"], Some("192.0.2.7")),
            (&[], None),
            (&[""], None),
            (&["192.0.2.7:1234"], None),
            (&["[2001:db8::1]"], None),
            (&["fe80::1%eth0"], None),
            (&["192.0.2.07"], None),
            (&["192.0.2.7, 192.0.2.8"], None),
            (&["localhost"], None),
            (&["192.0.2.7", "192.0.2.8"], None),
            (&["192.0.2.7", ""], None),
        ] {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append(CLIENT_IP, value.parse().unwrap());
            }
            assert_eq!(address(&metadata), expected.map(|text| text.parse().unwrap()), "{values:?}");
        }
        let mut metadata = MetadataMap::new();
        metadata.insert(CLIENT_IP, tonic::metadata::MetadataValue::try_from(&b"192.0.2.\xff"[..]).unwrap());
        assert_eq!(address(&metadata), None);
    }
}
