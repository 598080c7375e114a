// SPDX-License-Identifier: Apache-2.0
//! Reading the little-endian fields of one event after the other.

use tpm_wire::reader::{Place, Reader};

use crate::error::BootLogError;

/// The event that is read, by its place in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At(pub(crate) usize);

/// Reads the fields of events.
pub(crate) type Fields<'a> = Reader<'a, At>;

impl Place for At {
    type Error = BootLogError;

    const LITTLE_ENDIAN: bool = true;

    fn truncated(&self, field: &'static str) -> BootLogError {
        BootLogError::Truncated { event: self.0, field }
    }
}

/// Bytes with their length in 32 bits before them.
pub(crate) fn sized<'a>(
    fields: &mut Fields<'a>,
    size_field: &'static str,
    field: &'static str,
) -> Result<&'a [u8], BootLogError> {
    let len = fields.u32(size_field)?;
    // A length that does not fit is beyond the end too.
    fields.bytes(field, usize::try_from(len).unwrap_or(usize::MAX))
}
