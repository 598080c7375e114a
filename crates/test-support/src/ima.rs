// SPDX-License-Identifier: Apache-2.0
//! A stand-in for the kernel's IMA: a measurement list in a file, and PCR 10 of a software TPM that follows it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};

use crate::swtpm::Swtpm;

/// The PCR that IMA extends.
const PCR: u8 = 10;

/// What an entry of the list is made of (Linux, `security/integrity/ima/ima_template.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// `ima-ng`: digest and path.
    Ng,
    /// `ima-sig`: digest, path and signature; the signature is left empty.
    Sig,
    /// `ima-buf`: digest, name and contents of a buffer that the kernel has measured.
    Buf,
}

/// The list. New entries are in the file first and in the PCR then, as with the kernel.
#[derive(Debug)]
pub struct ImaList {
    path: PathBuf,
    file: File,
    entries: usize,
}

impl ImaList {
    /// Makes an empty list in the TPM's folder.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(tpm: &Swtpm) -> Result<Self> {
        let path = tpm.scratch().join("ascii_runtime_measurements");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, file, entries: 0 })
    }

    /// The file, for option `ima_ml_path`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of entries.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Measures files or buffers: names, which have no space, with their contents.
    ///
    /// # Errors
    /// When the file cannot be written or the TPM refuses.
    pub fn measure<N: AsRef<str>>(&mut self, tpm: &Swtpm, template: Template, measured: &[(N, &[u8])]) -> Result<()> {
        let mut lines = String::new();
        let mut extends = Vec::new();
        for (name, contents) in measured {
            let (line, data) = entry(template, name.as_ref(), contents);
            lines.push_str(&line);
            extends.push(extend(tpm, |algorithm| hash(algorithm, &data))?);
        }
        self.append(tpm, &lines, &extends)
    }

    /// Adds a violation: the kernel saw a file opened for writing while it was measured or executed. The entry is all
    /// zeros, the PCR is extended with all ones, so that nobody can claim to know what was measured.
    ///
    /// # Errors
    /// As [`ImaList::measure`].
    pub fn violation(&mut self, tpm: &Swtpm, name: &str) -> Result<()> {
        let line = format!("{PCR} {} ima-ng sha256:{} {name}\n", "0".repeat(40), "0".repeat(64));
        let extends = extend(tpm, |algorithm| "f".repeat(2 * algorithm.output_len()))?;
        self.append(tpm, &line, &[extends])
    }

    fn append(&mut self, tpm: &Swtpm, lines: &str, extends: &[String]) -> Result<()> {
        self.file.write_all(lines.as_bytes()).context("cannot write the list")?;
        self.entries += extends.len();
        // One command of the tool extends as often as it is told.
        for some in extends.chunks(64) {
            let arguments: Vec<_> = some.iter().map(String::as_str).collect();
            tpm.tool("tpm2_pcrextend", &arguments)?;
        }
        Ok(())
    }
}

/// The digest of a file's contents as a runtime policy lists it: SHA-256 in lower-case hex.
#[must_use]
pub fn content_digest(contents: &[u8]) -> String {
    hash(&SHA256, contents)
}

/// The line of an entry, and the template data that is hashed: its fields, each with its length before it.
fn entry(template: Template, name: &str, contents: &[u8]) -> (String, Vec<u8>) {
    let content = digest(&SHA256, contents);
    let mut data = Vec::new();
    let mut field = |bytes: &[u8]| {
        data.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        data.extend(bytes);
    };
    field(&[b"sha256:\0", content.as_ref()].concat());
    field(&[name.as_bytes(), b"\0"].concat());
    // The last field may be empty; the space before it is there all the same.
    let (kind, last) = match template {
        Template::Ng => ("ima-ng", String::new()),
        Template::Sig => {
            field(&[]);
            ("ima-sig", " ".to_owned())
        }
        Template::Buf => {
            field(contents);
            ("ima-buf", format!(" {}", hex::encode(contents)))
        }
    };
    let sha1 = hash(&SHA1_FOR_LEGACY_USE_ONLY, &data);
    (format!("{PCR} {sha1} {kind} sha256:{} {name}{last}\n", hex::encode(content)), data)
}

/// What `tpm2_pcrextend` is told for one entry, with all banks of the TPM.
fn extend(tpm: &Swtpm, digest: impl Fn(&'static Algorithm) -> String) -> Result<String> {
    let mut banks = Vec::new();
    for bank in tpm.banks() {
        let algorithm = match bank.as_str() {
            "sha1" => &SHA1_FOR_LEGACY_USE_ONLY,
            "sha256" => &SHA256,
            "sha384" => &SHA384,
            "sha512" => &SHA512,
            other => bail!("no digest for bank {other}"),
        };
        banks.push(format!("{bank}={}", digest(algorithm)));
    }
    Ok(format!("{PCR}:{}", banks.join(",")))
}

fn hash(algorithm: &'static Algorithm, data: &[u8]) -> String {
    hex::encode(digest(algorithm, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SwtpmOptions, require};

    #[test]
    fn lines_have_the_fields_of_their_template() {
        let content = content_digest(b"x");
        for (template, begin, end, length) in [
            (Template::Ng, "ima-ng", "/bin/x\n", 4 + 40 + 4 + 7),
            (Template::Sig, "ima-sig", "/bin/x \n", 4 + 40 + 4 + 7 + 4),
            (Template::Buf, "ima-buf", "/bin/x 78\n", 4 + 40 + 4 + 7 + 4 + 1),
        ] {
            let (line, data) = entry(template, "/bin/x", b"x");
            let sha1 = hash(&SHA1_FOR_LEGACY_USE_ONLY, &data);
            assert_eq!(line, format!("10 {sha1} {begin} sha256:{content} {end}"));
            assert_eq!(data.len(), length);
        }
    }

    #[test]
    fn the_pcr_follows_the_list() {
        let Some(()) = require::swtpm() else { return };
        let tpm = Swtpm::start(SwtpmOptions { ek_certificate: false, ..Default::default() }).unwrap();
        let mut list = ImaList::new(&tpm).unwrap();
        list.measure(&tpm, Template::Ng, &[("/bin/a", b"a".as_slice()), ("/bin/b", b"b")]).unwrap();
        list.violation(&tpm, "/bin/c").unwrap();
        assert_eq!(list.entries(), 3);
        let text = std::fs::read_to_string(list.path()).unwrap();
        assert_eq!(text.lines().count(), 3);
        let mut pcr = vec![0; 32];
        for extended in [
            digest(&SHA256, &entry(Template::Ng, "/bin/a", b"a").1).as_ref(),
            digest(&SHA256, &entry(Template::Ng, "/bin/b", b"b").1).as_ref(),
            &[0xff; 32],
        ] {
            pcr = digest(&SHA256, &[&pcr, extended].concat()).as_ref().to_vec();
        }
        assert_eq!(tpm.pcr_read("sha256", PCR).unwrap(), hex::encode(pcr));
    }
}
