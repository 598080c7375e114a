// SPDX-License-Identifier: Apache-2.0
//! What a tenant makes for an agent, by programs that share no code with what is tested.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::{self, Program};
use crate::scratch::Scratch;

/// Limit for one run of a program.
const LIMIT: Duration = Duration::from_secs(20);

/// Writes a zip archive of files with these names and texts, by Python.
///
/// # Errors
/// When Python fails.
pub fn zip(path: &Path, files: &[(&str, &str)]) -> Result<()> {
    let script = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w') as z:\n \
                  for n, t in zip(sys.argv[2::2], sys.argv[3::2]): z.writestr(n, t)\n";
    let files = files.iter().flat_map(|(name, text)| [name, text]);
    let python = Program::new("python3").args(["-c", script]).args([path]).args(files);
    process::success("zipfile", python.run(LIMIT)?).map(drop)
}

/// Encrypts for the owner of a public RSA key in PEM, with OAEP and SHA-1, by OpenSSL.
///
/// # Errors
/// When OpenSSL fails.
pub fn encrypt(public_key: &str, plain: &[u8]) -> Result<Vec<u8>> {
    let scratch = Scratch::new("oaep")?;
    let (key, plain) = (scratch.write("key.pem", public_key)?, scratch.write("plain", plain)?);
    let openssl = Program::new("openssl")
        .args(["pkeyutl", "-encrypt", "-pubin", "-pkeyopt", "rsa_padding_mode:oaep"])
        .args(["-inkey".as_ref(), key.as_os_str(), "-in".as_ref(), plain.as_os_str()]);
    let output = openssl.run(LIMIT)?;
    ensure!(output.status.success(), "openssl: {output:?}");
    Ok(output.stdout)
}
