// SPDX-License-Identifier: Apache-2.0
//! IDevID and IAK as the maker of a device leaves them: keys made with tpm2-tools, certificates by a CA of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{self, Program};
use crate::swtpm::Swtpm;

/// Limit for one run of OpenSSL.
const LIMIT: Duration = Duration::from_secs(20);

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKey {
    /// The initial device identity.
    IDevId,
    /// The initial attestation key.
    Iak,
}

/// What the templates of the TCG ("TPM 2.0 Keys for Device Identity and Attestation") differ in: authPolicy by the hash.
const POLICIES: [(DeviceKey, &str, &str); 4] = [
    (DeviceKey::IDevId, "sha256", "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea"),
    (DeviceKey::Iak, "sha256", "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07"),
    (
        DeviceKey::IDevId,
        "sha384",
        "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33",
    ),
    (
        DeviceKey::Iak,
        "sha384",
        "129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce4d826f749fcf672f51716c5cbb605f313bf345aab312",
    ),
];

impl Swtpm {
    /// Makes the key with this algorithm (`rsa2048`, `ecc384`, ...) and nameAlg (`sha256`, `sha384`); answers its
    /// TPM2B_PUBLIC. It is saved as `key.ctx` in the scratch folder, its public part as `key.pem`; nothing stays loaded.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn device_key(&self, key: DeviceKey, algorithm: &str, hash: &str, password: &str) -> Result<Vec<u8>> {
        let policy = POLICIES.iter().find(|(of, by, _)| (*of, *by) == (key, hash));
        let (_, _, policy) = policy.with_context(|| format!("no policy of {key:?} with {hash}"))?;
        let bytes: Vec<_> =
            policy.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits)).collect::<Result<_, _>>()?;
        let bytes: Vec<_> = bytes.into_iter().map(|digits| u8::from_str_radix(digits, 16)).collect::<Result<_, _>>()?;
        let folder = self.scratch();
        fs::write(folder.join("policy"), bytes)?;
        let (unique, restricted) = match key {
            DeviceKey::IDevId => ("IDEVID", ""),
            DeviceKey::Iak => ("IAK", "restricted|"),
        };
        // TPMU_PUBLIC_ID as it lies in the tools' memory: sizes in little endian, 128 bytes for each coordinate.
        let part = |room: usize| {
            let mut part = vec![u8::try_from(unique.len()).unwrap_or_default(), 0];
            part.extend(unique.as_bytes());
            part.resize(2 + room, 0);
            part
        };
        let is_rsa = algorithm.starts_with("rsa");
        fs::write(folder.join("unique"), if is_rsa { part(unique.len()) } else { [part(128), part(128)].concat() })?;
        let scheme = match (key, is_rsa) {
            (DeviceKey::IDevId, true) => "null".to_owned(),
            (DeviceKey::Iak, true) => format!("rsapss-{hash}"),
            (_, false) => format!("ecdsa-{hash}"),
        };
        let algorithm = format!("{algorithm}:{scheme}:null");
        let attributes =
            format!("fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|{restricted}sign");
        let mut arguments = vec!["-C", "e", "-g", hash, "-G", &algorithm, "-a", &attributes, "-L", "policy"];
        arguments.extend(["-u", "unique", "-c", "key.ctx"]);
        if !password.is_empty() {
            arguments.extend(["-p", password]);
        }
        self.tool("tpm2_createprimary", &arguments)?;
        self.tool("tpm2_readpublic", &["-c", "key.ctx", "-f", "pem", "-o", "key.pem"])?;
        self.tool("tpm2_readpublic", &["-c", "key.ctx", "-f", "tss", "-o", "key.pub"])?;
        self.flush_transient()?;
        Ok(fs::read(folder.join("key.pub"))?)
    }
}

/// The CA of a maker of devices.
#[derive(Debug)]
pub struct DeviceCa {
    folder: PathBuf,
}

impl DeviceCa {
    /// Makes a CA in this folder.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let ca = Self { folder: folder.join(name) };
        fs::create_dir(&ca.folder)?;
        let subject = format!("/CN={name}");
        ca.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "2",
            "-subj",
            &subject,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ])?;
        Ok(ca)
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Certifies a public key (PEM file); the certificate is written to `to`, in this form (`PEM` or `DER`).
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn certify(&self, key: &Path, to: &Path, form: &str) -> Result<()> {
        let (key, to) = (key.to_string_lossy(), to.to_string_lossy());
        self.openssl(&[
            "x509",
            "-new",
            "-force_pubkey",
            &key,
            "-subj",
            "/CN=device",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-days",
            "2",
            "-outform",
            form,
            "-out",
            &to,
        ])?;
        ensure!(Path::new(&*to).exists(), "OpenSSL wrote no certificate");
        Ok(())
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let output = Program::new("openssl").args(arguments).folder(&self.folder).run(LIMIT)?;
        process::success("openssl", output).map(drop)
    }
}
