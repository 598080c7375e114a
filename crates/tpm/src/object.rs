// SPDX-License-Identifier: Apache-2.0
//! Guards of what is loaded in the TPM, and what can be asked about loaded objects.

use crate::command::{Command, FLUSH_CONTEXT, READ_PUBLIC};
use crate::connection::Connection;
use crate::error::TpmError;
use std::rc::Rc;

/// A transient object or a session. Flushed when dropped, unless the TPM was lost meanwhile.
pub(crate) struct Loaded {
    connection: Rc<Connection>,
    handle: u32,
}

impl Loaded {
    pub(crate) fn new(connection: &Rc<Connection>, handle: u32) -> Self {
        Loaded { connection: Rc::clone(connection), handle }
    }

    pub(crate) fn handle(&self) -> u32 {
        self.handle
    }

    /// Flushes the object if the handle still means the key with this public area (a TPM2B_PUBLIC).
    ///
    /// Without a resource manager other programs can flush our object and load theirs, which then gets the same
    /// handle; that one is not ours to flush. For objects that have been loaded for long.
    pub(crate) fn release(self, public_2b: &[u8]) {
        let ours = self.connection.is_alive()
            && read_public(&self.connection, self.handle).is_ok_and(|found| found.public_2b == public_2b);
        if !ours {
            self.forget();
        }
    }

    /// Leaves the handle alone.
    fn forget(mut self) {
        self.handle = NOTHING;
    }
}

/// TPM_RH_NULL: never the handle of something loaded.
const NOTHING: u32 = 0x4000_0007;

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.handle == NOTHING || !self.connection.is_alive() {
            return;
        }
        if let Err(error) = flush(&self.connection, self.handle) {
            tracing::warn!(handle = format_args!("{:#010x}", self.handle), %error, "cannot flush a TPM handle");
        }
    }
}

/// TPM2_FlushContext.
pub(crate) fn flush(connection: &Connection, handle: u32) -> Result<(), TpmError> {
    let mut command = Command::new(FLUSH_CONTEXT);
    command.parameters.u32(handle);
    command.send(connection).map(drop)
}

/// What TPM2_ReadPublic tells about an object.
pub(crate) struct ObjectPublic {
    /// TPM2B_PUBLIC with its size prefix.
    pub(crate) public_2b: Vec<u8>,
    /// The Name qualified by the Names of all parents; what quotes call the signer.
    pub(crate) qualified_name: Vec<u8>,
}

/// TPM2_ReadPublic.
pub(crate) fn read_public(connection: &Connection, handle: u32) -> Result<ObjectPublic, TpmError> {
    Command::new(READ_PUBLIC).handle(handle).send(connection)?.parameters(|reader| {
        let public_2b = with_size(reader.sized()?);
        let _name = reader.sized()?;
        Ok(ObjectPublic { public_2b, qualified_name: reader.sized()?.to_vec() })
    })
}

/// Puts the 16-bit size in front of a structure, which makes a TPMT_PUBLIC a TPM2B_PUBLIC.
pub(crate) fn with_size(structure: &[u8]) -> Vec<u8> {
    let size = u16::try_from(structure.len()).unwrap_or(u16::MAX);
    [&size.to_be_bytes()[..], structure].concat()
}
