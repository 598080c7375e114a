// SPDX-License-Identifier: Apache-2.0
//! A software TPM with EK certificates from a CA of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result};

mod rival;

use crate::ports::{self, Port};
use crate::process::{self, Part, Program};
use crate::scratch::Scratch;
pub use rival::{Extending, PCR_READ, QUOTE, Rival};

/// Limit for one command of the TPM tools and for the TPM's start.
const LIMIT: Duration = Duration::from_secs(20);

/// NV index of the certificate of the RSA-2048 EK (TCG EK Credential Profile, "NV Index Assignment").
const RSA_EK_CERTIFICATE: &str = "0x01c00002";

/// The profile of libtpms 0.11 that has RSA-4096; without a profile a new TPM can do what older versions could.
const PROFILE: &str = "default-v2";

/// How the TPM is made.
#[derive(Debug, Clone)]
pub struct SwtpmOptions {
    /// Makes an ECC storage key instead of an RSA one. The TPM has an RSA-2048 and an ECC P-384 EK in any case.
    pub ecc: bool,
    /// Size of the RSA EK in bits: 2048 or 3072.
    pub rsa_bits: u16,
    /// The PCR banks that are switched on.
    pub banks: Vec<String>,
    /// Whether EK certificates are made.
    pub ek_certificate: bool,
}

impl Default for SwtpmOptions {
    fn default() -> Self {
        Self { ecc: false, rsa_bits: 2048, banks: vec!["sha1".into(), "sha256".into()], ek_certificate: true }
    }
}

/// A running software TPM.
///
/// There is no resource manager: it has room for three transient objects, shared by all programs that use it.
#[derive(Debug)]
pub struct Swtpm {
    /// What the `TCTI` variable of a program that shall use this TPM holds.
    pub tcti: String,
    /// The certificates of the CA that issued the EK certificates, PEM, issuer first, root last.
    pub ca_certs: Vec<PathBuf>,
    options: SwtpmOptions,
    part: Option<Part>,
    /// Data port, and the control port that the TCTI expects to be the next one.
    ports: [Port; 2],
    scratch: Scratch,
}

impl Swtpm {
    /// Makes a new TPM and starts it. Takes about 1.5 s, most of it for making RSA keys.
    ///
    /// # Errors
    /// With the tool's output when a step fails.
    pub fn start(options: SwtpmOptions) -> Result<Self> {
        let scratch = Scratch::new("swtpm")?;
        let state = scratch.folder("state")?;
        let ca = scratch.folder("ca")?;
        let options_file = scratch.write(
            "localca.options",
            "--platform-manufacturer Test\n--platform-version 1.0\n--platform-model swtpm\n",
        )?;
        let ca_folder = ca.display();
        let localca = scratch.write(
            "localca.conf",
            format!(
                "statedir = {ca_folder}\nsigningkey = {ca_folder}/signkey.pem\n\
                 issuercert = {ca_folder}/issuercert.pem\ncertserial = {ca_folder}/certserial\n"
            ),
        )?;
        let tool = require_path("swtpm_localca")?;
        let setup = scratch.write(
            "setup.conf",
            format!(
                "create_certs_tool = {}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
                tool.display(),
                localca.display(),
                options_file.display()
            ),
        )?;
        let mut program = Program::new("swtpm_setup")
            .args(["--tpm2", "--overwrite", "--lock-nvram", "--createek", "--pcr-banks", &options.banks.join(",")])
            .args(["--rsa-keysize", &options.rsa_bits.to_string()])
            .args(["--config".as_ref(), setup.as_os_str(), "--tpmstate".as_ref(), state.as_os_str()]);
        if has_profile()? {
            program = program.args(["--profile-name", PROFILE]);
        }
        if options.ek_certificate {
            program = program.args(["--create-ek-cert", "--create-platform-cert"]);
        }
        if options.ecc {
            program = program.args(["--create-spk", "--ecc"]);
        }
        process::success("swtpm_setup", program.run(LIMIT)?)?;
        let ca_certs = ["issuercert.pem", "swtpm-localca-rootca-cert.pem"].map(|name| ca.join(name));
        let ca_certs = ca_certs.into_iter().filter(|path| path.exists()).collect();

        ports::retry(|| {
            let ports = ports::reserve_run::<2>()?;
            let tcti = format!("swtpm:host=127.0.0.1,port={}", ports[0].number());
            let part = power_on(&scratch, &ports)?;
            Ok((tcti, ports, part))
        })
        .map(|(tcti, ports, part)| Self { tcti, ca_certs, options, part: Some(part), ports, scratch })
    }

    /// Takes the power away without a warning and gives it back: PCRs, transient objects and sessions are gone, the
    /// reset counter is one higher, the EK and its certificates are the same.
    ///
    /// # Errors
    /// When the TPM does not come up again.
    pub fn restart(&mut self) -> Result<()> {
        self.power_off();
        self.power_on()
    }

    /// Takes the power away: connections are refused from now on.
    pub fn power_off(&mut self) {
        self.part = None;
    }

    /// Starts the TPM after [`Swtpm::power_off`], at the same address.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn power_on(&mut self) -> Result<()> {
        if self.part.is_none() {
            self.part = Some(power_on(&self.scratch, &self.ports)?);
        }
        Ok(())
    }

    /// The running program, for pausing it and the like.
    #[must_use]
    pub fn part(&self) -> Option<&Part> {
        self.part.as_ref()
    }

    /// The PCR banks that are switched on.
    #[must_use]
    pub fn banks(&self) -> &[String] {
        &self.options.banks
    }

    /// The folder of this TPM; the tools' files can go there.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Runs one of the TPM tools (`tpm2_…`) against this TPM and answers what it printed.
    ///
    /// # Errors
    /// When it fails, with its output.
    pub fn tool(&self, name: &str, args: &[&str]) -> Result<String> {
        process::success(name, self.tool_output(name, args)?)
    }

    /// As [`Swtpm::tool`], with failures as plain output.
    ///
    /// # Errors
    /// When the tool cannot be started or hangs.
    pub fn tool_output(&self, name: &str, args: &[&str]) -> Result<Output> {
        Program::new(name)
            .args(args)
            .env("TPM2TOOLS_TCTI", &self.tcti)
            .env("TSS2_LOG", "all+NONE")
            .folder(self.scratch.path())
            .run(LIMIT)
    }

    /// Extends a PCR in all banks with a fixed digest, as a changed boot would.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn pcr_extend(&self, pcr: u8) -> Result<()> {
        let mut spec = format!("{pcr}:");
        for (index, bank) in self.options.banks.iter().enumerate() {
            let length = match bank.as_str() {
                "sha1" => 20,
                "sha384" => 48,
                "sha512" => 64,
                _ => 32,
            };
            let comma = if index == 0 { "" } else { "," };
            write!(spec, "{comma}{bank}={}", "5a".repeat(length))?;
        }
        self.tool("tpm2_pcrextend", &[&spec]).map(drop)
    }

    /// The value of a PCR, in lower-case hex.
    ///
    /// # Errors
    /// When the tool fails or the bank has no such PCR.
    pub fn pcr_read(&self, bank: &str, pcr: u8) -> Result<String> {
        let text = self.tool("tpm2_pcrread", &[&format!("{bank}:{pcr}")])?;
        let (_, value) = text.rsplit_once("0x").with_context(|| format!("no PCR {pcr} in bank {bank}: {text}"))?;
        Ok(value.trim().to_ascii_lowercase())
    }

    /// The handles of the transient objects in the TPM.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn transient_handles(&self) -> Result<Vec<u32>> {
        self.handles("handles-transient")
    }

    /// The handles of the persistent objects in the TPM.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn persistent_handles(&self) -> Result<Vec<u32>> {
        self.handles("handles-persistent")
    }

    /// The handles of the sessions in the TPM, loaded and saved ones.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn session_handles(&self) -> Result<Vec<u32>> {
        let mut all = self.handles("handles-loaded-session")?;
        all.extend(self.handles("handles-saved-session")?);
        Ok(all)
    }

    fn handles(&self, capability: &str) -> Result<Vec<u32>> {
        let text = self.tool("tpm2_getcap", &[capability])?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("- 0x"))
            .map(|digits| u32::from_str_radix(digits, 16).with_context(|| format!("not a handle: {digits}")))
            .collect()
    }

    /// Removes all transient objects, those of running programs included.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn flush_transient(&self) -> Result<()> {
        self.tool("tpm2_flushcontext", &["--transient-object"]).map(drop)
    }

    /// Removes all transient objects and sessions, those of running programs included.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn flush_all(&self) -> Result<()> {
        self.flush_transient()?;
        self.tool("tpm2_flushcontext", &["--loaded-session"])?;
        self.tool("tpm2_flushcontext", &["--saved-session"]).map(drop)
    }

    /// The certificate of the RSA-2048 EK in DER.
    ///
    /// # Errors
    /// When the tool fails, so also when the TPM was made without certificates.
    pub fn ek_certificate(&self) -> Result<Vec<u8>> {
        let path = self.scratch.join("ek.der");
        let text = path.to_str().context("the scratch folder's name is not UTF-8")?;
        self.tool("tpm2_nvread", &[RSA_EK_CERTIFICATE, "--output", text])?;
        Ok(fs::read(&path)?)
    }
}

/// Whether swtpm knows [`PROFILE`].
fn has_profile() -> Result<bool> {
    let program = Program::new("swtpm").args(["socket", "--tpm2", "--print-capabilities"]);
    let capabilities = process::success("swtpm", program.run(LIMIT)?)?;
    Ok(capabilities.contains(&format!("\"{PROFILE}\"")))
}

fn power_on(scratch: &Scratch, ports: &[Port; 2]) -> Result<Part> {
    let [data, control] = ports.each_ref().map(Port::number);
    let mut part = Program::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "startup-clear,not-need-init"])
        .args(["--tpmstate", &format!("dir={}", scratch.join("state").display())])
        .args(["--server", &format!("type=tcp,port={data}")])
        .args(["--ctrl", &format!("type=tcp,port={control}")])
        .start("swtpm", &scratch.join("swtpm.log"))?;
    // A connection to the data port would occupy it, the control port takes any number one after the other.
    part.ready("listening", LIMIT, |_| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, control)).ok()))?;
    Ok(part)
}

fn require_path(name: &str) -> Result<PathBuf> {
    crate::bin::in_path(name).with_context(|| format!("{name} is not in PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require;

    #[test]
    fn extends_reads_lists_and_restarts() {
        let Some(()) = require::swtpm() else { return };
        let mut tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
        assert_eq!(tpm.pcr_read("sha256", 23).unwrap(), "0".repeat(64));
        tpm.pcr_extend(23).unwrap();
        let extended = tpm.pcr_read("sha256", 23).unwrap();
        assert_ne!(extended, "0".repeat(64));
        assert_eq!(extended.len(), 64);
        assert_eq!(tpm.transient_handles().unwrap(), [0_u32; 0]);
        assert_eq!(tpm.session_handles().unwrap(), [0_u32; 0]);
        assert_eq!(tpm.persistent_handles().unwrap(), [0x8101_0001, 0x8101_0016]);
        let certificate = tpm.ek_certificate().unwrap();
        assert_eq!(certificate.first(), Some(&0x30));
        assert_eq!(tpm.ca_certs.len(), 2);

        tpm.tool("tpm2_createprimary", &["-C", "o", "-c", "primary.ctx"]).unwrap();
        assert_eq!(tpm.transient_handles().unwrap(), [0x8000_0000]);
        tpm.flush_transient().unwrap();
        assert_eq!(tpm.transient_handles().unwrap(), [0_u32; 0]);

        tpm.restart().unwrap();
        assert_eq!(tpm.pcr_read("sha256", 23).unwrap(), "0".repeat(64));
        assert_eq!(tpm.ek_certificate().unwrap(), certificate);
    }

    #[test]
    fn ecc_and_more_banks() {
        let Some(()) = require::swtpm() else { return };
        let banks = ["sha1", "sha256", "sha384", "sha512"].map(str::to_owned).to_vec();
        let tpm = Swtpm::start(SwtpmOptions { ecc: true, banks, ek_certificate: false, ..Default::default() }).unwrap();
        tpm.pcr_extend(16).unwrap();
        assert_eq!(tpm.pcr_read("sha384", 16).unwrap().len(), 96);
        assert!(tpm.ek_certificate().is_err());
        assert!(tpm.ca_certs.is_empty());
    }
}
