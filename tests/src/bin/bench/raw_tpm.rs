// SPDX-License-Identifier: Apache-2.0
//! The yardstick: TPM2_Quote itself, as bytes on the software TPM's socket, with nothing of ours and no library
//! around it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use anyhow::{Context, Result, ensure};
use test_support::Swtpm;

const TPM_ST_SESSIONS: u16 = 0x8002;
const TPM_CC_CREATE_PRIMARY: u32 = 0x0000_0131;
const TPM_CC_QUOTE: u32 = 0x0000_0158;
const TPM_CC_FLUSH_CONTEXT: u32 = 0x0000_0165;
const TPM_RH_OWNER: u32 = 0x4000_0001;

/// One password session with an empty password: authorizationSize, TPM_RS_PW, no nonce, no attributes, no password.
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// A restricted RSA-2048 signing key in the TPM, like an AK.
#[derive(Debug)]
pub(crate) struct RawTpm {
    port: u16,
    key: u32,
}

impl RawTpm {
    /// Makes the key: RSASSA with SHA-256, in the owner hierarchy, so that it needs one slot of the TPM's three.
    pub(crate) fn new(tpm: &Swtpm) -> Result<Self> {
        let (_, port) = tpm.tcti.rsplit_once('=').context("the TCTI has no port")?;
        let port = port.parse()?;
        // TPMT_PUBLIC: RSA, SHA-256, attributes of an AK, no policy, no symmetric cipher, RSASSA with SHA-256, 2048
        // bits, default exponent, empty modulus.
        let public = [0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b, 8, 0, 0, 0, 0, 0, 0, 0];
        let mut body = TPM_RH_OWNER.to_be_bytes().to_vec();
        body.extend(EMPTY_PASSWORD);
        body.extend([0, 4, 0, 0, 0, 0]); // TPM2B_SENSITIVE_CREATE: no password, no data
        body.extend([0, 24]);
        body.extend(public);
        body.extend([0, 0, 0, 0, 0, 0]); // no outside information, no creation PCRs
        let answer = command(port, TPM_ST_SESSIONS, TPM_CC_CREATE_PRIMARY, &body)?;
        let key = answer.get(..4).and_then(|handle| handle.try_into().ok()).context("TPM2_CreatePrimary: no handle")?;
        Ok(Self { port, key: u32::from_be_bytes(key) })
    }

    /// TPM2_Quote over PCR 16 in the SHA-256 bank, as Keylime's identity quote.
    pub(crate) fn quote(&self, nonce: &[u8; 32]) -> Result<()> {
        let mut body = self.key.to_be_bytes().to_vec();
        body.extend(EMPTY_PASSWORD);
        body.extend([0, 32]);
        body.extend(nonce);
        body.extend([0, 0x10]); // TPM_ALG_NULL: the key's own scheme
        body.extend([0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 1]);
        command(self.port, TPM_ST_SESSIONS, TPM_CC_QUOTE, &body).map(drop)
    }
}

impl Drop for RawTpm {
    fn drop(&mut self) {
        // The TPM ends with the benchmark anyhow.
        let _flushed = command(self.port, 0x8001, TPM_CC_FLUSH_CONTEXT, &self.key.to_be_bytes());
    }
}

/// Sends a command and answers the response behind its header. A connection each, for the TPM serves one at a time
/// and the agents want their turns.
fn command(port: u16, tag: u16, code: u32, body: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = tag.to_be_bytes().to_vec();
    bytes.extend(u32::try_from(body.len() + 10)?.to_be_bytes());
    bytes.extend(code.to_be_bytes());
    bytes.extend(body);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.write_all(&bytes)?;
    let mut header = [0_u8; 10];
    stream.read_exact(&mut header)?;
    let [_, _, s0, s1, s2, s3, r0, r1, r2, r3] = header;
    let code = u32::from_be_bytes([r0, r1, r2, r3]);
    ensure!(code == 0, "the TPM answered {code:#x}");
    let rest = usize::try_from(u32::from_be_bytes([s0, s1, s2, s3]))?.saturating_sub(10);
    let mut answer = vec![0; rest];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
