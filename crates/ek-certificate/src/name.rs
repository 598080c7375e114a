// SPDX-License-Identifier: Apache-2.0
//! Distinguished names: as text for messages, and attribute by attribute.

use crate::der::{self, OID, Reader, SEQUENCE, SET};
use crate::error::Malformed;

/// Longest text of a name, in characters. It comes from a certificate and ends in a log.
const MAX_TEXT: usize = 256;

/// UTF8String, PrintableString, TeletexString, IA5String: one byte a character as far as it is ASCII.
const TEXT_TAGS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];

/// An attribute of a name.
pub(crate) struct Attribute<'a> {
    /// The content of the object identifier.
    pub(crate) oid: &'a [u8],
    /// The tag of the value.
    pub(crate) tag: u8,
    /// The content of the value.
    pub(crate) value: &'a [u8],
}

/// All attributes of a Name (RFC 5280 "Issuer"), given as the content of its SEQUENCE: one after the other, whether an
/// RDN of the name has one of them or several, in whatever order.
pub(crate) fn attributes(name: &[u8]) -> Result<Vec<Attribute<'_>>, Malformed> {
    const WHAT: &str = "name";
    let mut all = Vec::new();
    let mut rdns = Reader::new(name);
    while !rdns.is_empty() {
        let mut set = rdns.expect(SET, WHAT)?.reader();
        while !set.is_empty() {
            let mut pair = set.expect(SEQUENCE, WHAT)?.reader();
            let oid = pair.expect(OID, WHAT)?.content;
            let value = pair.any(WHAT)?;
            pair.finish(WHAT)?;
            all.push(Attribute { oid, tag: value.tag, value: value.content });
        }
    }
    Ok(all)
}

/// A Name as text, in the order of the certificate: `C=DE, CN=Some CA`. At most 256 characters, none a control
/// character.
pub(crate) fn text(name: &[u8]) -> String {
    let Ok(attributes) = attributes(name) else { return "a name that is not DER".to_owned() };
    if attributes.is_empty() {
        return "an empty name".to_owned();
    }
    let all: Vec<String> = attributes.iter().map(attribute_text).collect();
    all.join(", ").chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

fn attribute_text(attribute: &Attribute<'_>) -> String {
    let kind = match attribute.oid {
        [0x55, 0x04, 3] => "CN".to_owned(),
        [0x55, 0x04, 6] => "C".to_owned(),
        [0x55, 0x04, 7] => "L".to_owned(),
        [0x55, 0x04, 8] => "ST".to_owned(),
        [0x55, 0x04, 10] => "O".to_owned(),
        [0x55, 0x04, 11] => "OU".to_owned(),
        other => der::dotted(other),
    };
    let value = if TEXT_TAGS.contains(&attribute.tag) { String::from_utf8_lossy(attribute.value) } else { "?".into() };
    format!("{kind}={value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_names() {
        // CN=b + O=a in one RDN, not sorted as DER demands; then a line feed; then a value that is no text.
        let name = b"\x31\x14\x30\x08\x06\x03\x55\x04\x0a\x0c\x01a\x30\x08\x06\x03\x55\x04\x03\x13\x01b\
            \x31\x0b\x30\x09\x06\x03\x55\x04\x0b\x0c\x02c\n\x31\x09\x30\x07\x06\x02\x2a\x03\x02\x01\x05";
        assert_eq!(text(name), "O=a, CN=b, OU=c, 1.2.3=?");
        assert_eq!(text(&[]), "an empty name");
        assert_eq!(text(b"\x31\x05"), "a name that is not DER");
        let long =
            [&b"\x31\x82\x01\x38\x30\x82\x01\x34\x06\x03\x55\x04\x0a\x0c\x82\x01\x2b"[..], &[b'x'; 299]].concat();
        assert_eq!(text(&long).len(), 256);
    }
}
