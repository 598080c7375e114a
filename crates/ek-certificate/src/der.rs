// SPDX-License-Identifier: Apache-2.0
//! Reading of DER, element by element.
//!
//! A general decoder of certificates is too strict here: vendors put the attributes of a name in another order than DER
//! demands, and number certificates as they like.

use crate::error::Malformed;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// One element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// Tag, length and content.
    pub(crate) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// The elements of a constructed one.
    pub(crate) fn reader(self) -> Reader<'a> {
        Reader::new(self.content)
    }
}

/// A sequence of elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, whatever it is. Lengths are definite, in their shortest form, and at most 65535.
    pub(crate) fn any(&mut self, what: &'static str) -> Result<Element<'a>, Malformed> {
        let error = Malformed { what };
        let (header, len) = match *self.rest {
            [_, len @ 0..=0x7f, ..] => (2, usize::from(len)),
            [_, 0x81, len @ 0x80..=0xff, ..] => (3, usize::from(len)),
            [_, 0x82, high @ 1..=0xff, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            _ => return Err(error),
        };
        let tag = *self.rest.first().ok_or(error)?;
        // Tag numbers above 30 take more bytes; X.509 has none.
        if tag & 0x1f == 0x1f {
            return Err(error);
        }
        let (whole, rest) = self.rest.split_at_checked(header + len).ok_or(error)?;
        let content = whole.get(header..).ok_or(error)?;
        self.rest = rest;
        Ok(Element { tag, content, whole })
    }

    /// The next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8, what: &'static str) -> Result<Element<'a>, Malformed> {
        let element = self.any(what)?;
        if element.tag == tag { Ok(element) } else { Err(Malformed { what }) }
    }

    /// The next element if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8, what: &'static str) -> Result<Option<Element<'a>>, Malformed> {
        if self.rest.first() == Some(&tag) { self.any(what).map(Some) } else { Ok(None) }
    }

    /// Nothing may be left.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed { what }) }
    }
}

/// A BOOLEAN.
pub(crate) fn boolean(content: &[u8], what: &'static str) -> Result<bool, Malformed> {
    match content {
        [0x00] => Ok(false),
        [0xff] => Ok(true),
        _ => Err(Malformed { what }),
    }
}

/// The bytes of a BIT STRING without unused bits.
pub(crate) fn whole_bytes<'a>(content: &'a [u8], what: &'static str) -> Result<&'a [u8], Malformed> {
    match content {
        [0, bytes @ ..] => Ok(bytes),
        _ => Err(Malformed { what }),
    }
}

/// An object identifier in dotted form.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for byte in oid.iter().take(64) {
        arc = arc.saturating_mul(128).saturating_add(u64::from(byte & 0x7f));
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.extend([first, arc - first * 40]);
            } else {
                arcs.push(arc);
            }
            arc = 0;
        }
    }
    arcs.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_lengths_that_are_not_der() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 0x01],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 0x01, 0],
            &[0x30, 0x81],
            &[0x30, 0x82, 0x00, 0x80],
            &[0x30, 0x82, 0x01],
            &[0x30, 0x83, 0x01, 0x00, 0x00],
            &[0x1f, 0x81, 0x00],
        ] {
            assert_eq!(Reader::new(bytes).any("it").unwrap_err(), Malformed { what: "it" }, "{bytes:02x?}");
        }
        let long = [vec![0x04, 0x81, 0x80], vec![7; 0x80], vec![9]].concat();
        let mut reader = Reader::new(&long);
        let element = reader.expect(OCTET_STRING, "it").unwrap();
        assert_eq!((element.content.len(), element.whole.len(), reader.is_empty()), (0x80, 0x83, false));
        assert!(reader.finish("it").is_err());
    }

    #[test]
    fn writes_object_identifiers() {
        for (bytes, text) in [
            (&[0x67, 0x81, 0x05, 0x08, 0x01][..], "2.23.133.8.1"),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], "1.2.840.113549.1.1.5"),
            (&[0x88, 0x37], "2.999"),
            (&[], ""),
        ] {
            assert_eq!(dotted(bytes), text);
        }
    }
}
