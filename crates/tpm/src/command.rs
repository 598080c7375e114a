// SPDX-License-Identifier: Apache-2.0
//! Building one TPM command and opening its response (TPM 2.0 Library Part 1, "Command/Response Structure" and
//! Part 3, the command tables).

use crate::codec::{Reader, Short, Writer};
use crate::connection::{Connection, HEADER, MAX_MESSAGE};
use crate::error::TpmError;
use crate::response_code::ResponseCode;
use zeroize::Zeroizing;

const TPM_ST_NO_SESSIONS: u16 = 0x8001;
const TPM_ST_SESSIONS: u16 = 0x8002;
/// The authorization "session" that carries a plain authorization value.
const TPM_RS_PW: u32 = 0x4000_0009;
const CONTINUE_SESSION: u8 = 0x01;

/// Name and code of a command (TPM 2.0 Library Part 2, "TPM_CC").
#[derive(Clone, Copy)]
pub(crate) struct CommandCode(pub(crate) &'static str, u32);

pub(crate) const NV_READ: CommandCode = CommandCode("TPM2_NV_Read", 0x14E);
pub(crate) const NV_READ_PUBLIC: CommandCode = CommandCode("TPM2_NV_ReadPublic", 0x169);
pub(crate) const CREATE_PRIMARY: CommandCode = CommandCode("TPM2_CreatePrimary", 0x131);
pub(crate) const PCR_RESET: CommandCode = CommandCode("TPM2_PCR_Reset", 0x13D);
pub(crate) const ACTIVATE_CREDENTIAL: CommandCode = CommandCode("TPM2_ActivateCredential", 0x147);
pub(crate) const CERTIFY: CommandCode = CommandCode("TPM2_Certify", 0x148);
pub(crate) const POLICY_SECRET: CommandCode = CommandCode("TPM2_PolicySecret", 0x151);
pub(crate) const CREATE: CommandCode = CommandCode("TPM2_Create", 0x153);
pub(crate) const LOAD: CommandCode = CommandCode("TPM2_Load", 0x157);
pub(crate) const QUOTE: CommandCode = CommandCode("TPM2_Quote", 0x158);
pub(crate) const FLUSH_CONTEXT: CommandCode = CommandCode("TPM2_FlushContext", 0x165);
pub(crate) const POLICY_OR: CommandCode = CommandCode("TPM2_PolicyOR", 0x171);
pub(crate) const READ_PUBLIC: CommandCode = CommandCode("TPM2_ReadPublic", 0x173);
pub(crate) const START_AUTH_SESSION: CommandCode = CommandCode("TPM2_StartAuthSession", 0x176);
pub(crate) const GET_CAPABILITY: CommandCode = CommandCode("TPM2_GetCapability", 0x17A);
pub(crate) const PCR_READ: CommandCode = CommandCode("TPM2_PCR_Read", 0x17E);
pub(crate) const PCR_EXTEND: CommandCode = CommandCode("TPM2_PCR_Extend", 0x182);

/// How the use of a handle is authorized. No HMAC sessions: they would protect an empty authorization value at the
/// price of a session and an HMAC check per command.
#[derive(Clone, Copy)]
pub(crate) enum Authorization<'a> {
    /// The plain value.
    Password(&'a [u8]),
    /// An unbound, unsalted policy session, whose HMAC is empty by definition.
    Policy(u32),
}

/// A command under construction: handles, then authorizations, then parameters.
pub(crate) struct Command {
    code: CommandCode,
    handles: Writer,
    authorizations: Writer,
    /// The parameter area; written to by the caller.
    pub(crate) parameters: Writer,
}

impl Command {
    pub(crate) fn new(code: CommandCode) -> Self {
        Command { code, handles: Writer::default(), authorizations: Writer::default(), parameters: Writer::default() }
    }

    /// A handle that needs no authorization in this command.
    pub(crate) fn handle(mut self, handle: u32) -> Self {
        self.handles.u32(handle);
        self
    }

    /// A handle together with the authorization for its use; these come before handles that need none.
    pub(crate) fn authorized(mut self, handle: u32, authorization: Authorization<'_>) -> Self {
        self.handles.u32(handle);
        match authorization {
            Authorization::Password(value) => {
                self.authorizations.u32(TPM_RS_PW).sized(&[]).u8(CONTINUE_SESSION).sized(value)
            }
            Authorization::Policy(session) => {
                self.authorizations.u32(session).sized(&[]).u8(CONTINUE_SESSION).sized(&[])
            }
        };
        self
    }

    fn finish(&self) -> Result<Writer, TpmError> {
        let with_sessions = self.authorizations.len() > 0;
        let mut out =
            Writer::with_capacity(HEADER + self.handles.len() + 4 + self.authorizations.len() + self.parameters.len());
        out.u16(if with_sessions { TPM_ST_SESSIONS } else { TPM_ST_NO_SESSIONS });
        out.u32(0).u32(self.code.1).bytes(self.handles.as_slice());
        if with_sessions {
            out.u32(as_u32(self.authorizations.len())).bytes(self.authorizations.as_slice());
        }
        out.bytes(self.parameters.as_slice());
        if out.len() > MAX_MESSAGE {
            return Err(TpmError::TooLong { what: "the command", length: out.len(), limit: MAX_MESSAGE });
        }
        out.set_u32(2, as_u32(out.len()));
        Ok(out)
    }

    /// Sends the command and waits for the response.
    pub(crate) fn send(self, connection: &Connection) -> Result<Response, TpmError> {
        let name = self.code.0;
        let bytes = connection.exchange(name, self.finish()?.as_slice())?;
        let response = Response { name, bytes };
        let mut reader = Reader::new(&response.bytes);
        let header = (|| {
            let tag = reader.u16()?;
            let _size = reader.u32()?;
            Ok::<_, Short>((tag, reader.u32()?))
        })();
        match header {
            Ok((TPM_ST_NO_SESSIONS | TPM_ST_SESSIONS, 0)) => Ok(response),
            Ok((_, 0)) | Err(Short) => Err(response.malformed("its tag")),
            Ok((_, code)) => Err(refusal(name, ResponseCode(code))),
        }
    }
}

/// The error for a response code, with the cases that have a remedy of their own.
fn refusal(command: &'static str, code: ResponseCode) -> TpmError {
    if code.is_out_of_room() { TpmError::NoRoom { command, code } } else { TpmError::Command { command, code } }
}

fn as_u32(length: usize) -> u32 {
    // Bounded by MAX_MESSAGE in `finish`; the saturated value could not be sent.
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A successful response.
pub(crate) struct Response {
    name: &'static str,
    bytes: Zeroizing<Vec<u8>>,
}

impl Response {
    pub(crate) fn malformed(&self, what: &'static str) -> TpmError {
        TpmError::Malformed { command: self.name, what }
    }

    /// Reads the response: `read` gets the handle area, if the command returns a handle, and the parameter area.
    pub(crate) fn read<T>(
        &self,
        returns_handle: bool,
        read: impl FnOnce(u32, &mut Reader<'_>) -> Result<T, Short>,
    ) -> Result<T, TpmError> {
        (|| {
            let mut reader = Reader::new(&self.bytes);
            let tag = reader.u16()?;
            reader.bytes(HEADER - 2)?;
            let handle = if returns_handle { reader.u32()? } else { 0 };
            if tag == TPM_ST_SESSIONS {
                let size = reader.u32()?;
                let parameters = reader.bytes(usize::try_from(size).map_err(|_| Short)?)?;
                return read(handle, &mut Reader::new(parameters));
            }
            read(handle, &mut reader)
        })()
        .map_err(|Short| self.malformed("it ends too early"))
    }

    /// Reads the parameter area of a response without a handle.
    pub(crate) fn parameters<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> Result<T, Short>) -> Result<T, TpmError> {
        self.read(false, |_, reader| read(reader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_password_authorization_has_the_standard_layout() {
        let mut command = Command::new(PCR_RESET).authorized(16, Authorization::Password(&[])).handle(0x8000_0001);
        command.parameters.u16(0x0102);
        let expected = [
            0x80, 0x02, 0, 0, 0, 33, 0, 0, 1, 0x3D, // header
            0, 0, 0, 16, 0x80, 0, 0, 1, // handles
            0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0, // authorization area
            1, 2,
        ];
        assert_eq!(command.finish().ok().map(|out| out.as_slice().to_vec()), Some(expected.to_vec()));
    }

    #[test]
    fn a_command_beyond_the_limit_is_refused() {
        let mut command = Command::new(LOAD);
        command.parameters.bytes(&[0; MAX_MESSAGE]);
        let text = command.finish().err().map(|error| error.to_string());
        assert_eq!(text.as_deref(), Some("the command is too long for the TPM: 4106 bytes, at most 4096"));
    }

    #[test]
    fn every_prefix_of_a_response_is_refused() {
        let whole = [0x80, 2, 0, 0, 0, 23, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 4, 0, 2, 7, 8, 0];
        let read = |bytes: &[u8]| {
            let response = Response { name: "TPM2_Load", bytes: Zeroizing::new(bytes.to_vec()) };
            response.read(true, |handle, reader| Ok((handle, reader.sized()?.to_vec())))
        };
        assert!(matches!(read(&whole), Ok((0x8000_0000, name)) if name == [7, 8]));
        for end in 0..22 {
            let error = read(&whole[..end]).map_err(|error| error.to_string());
            assert_eq!(error, Err("the TPM's answer to TPM2_Load is malformed: it ends too early".to_owned()), "{end}");
        }
    }
}
