// SPDX-License-Identifier: Apache-2.0
//! Clients with certificates of every kind, and the authorities that the agents are told to trust.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use test_support::ca::{LeafSpec, TestCa, self_signed};
use test_support::scratch::Scratch;

/// A client's certificate, with the chain it sends, and its key.
pub(crate) struct Client {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// All clients by name, and the files for `trusted_client_ca`.
pub(crate) struct Clients {
    pub(crate) all: BTreeMap<&'static str, Client>,
    /// The value of `trusted_client_ca`: several files, one of them missing, one with several certificates.
    pub(crate) trusted: String,
    pub(crate) scratch: Scratch,
}

impl Clients {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new("clients").unwrap();
        let mut all = BTreeMap::new();
        let mut add = |name: &'static str, issued: test_support::ca::Issued| {
            let (certificate, key) = issued.write(scratch.path(), &name.replace(' ', "-")).unwrap();
            all.insert(name, Client { certificate, key });
        };
        let spec = |name: &str| LeafSpec::new(name).client_only();
        let [listed, second, third, other, far] =
            ["Listed", "Second", "Third", "Other", "Far"].map(|name| TestCa::root(name).unwrap());
        add("for clients", listed.issue(&spec("a")).unwrap());
        add("for clients and servers", listed.issue(&LeafSpec::new("a")).unwrap());
        add("for servers", listed.issue(&LeafSpec::new("a").server_only()).unwrap());
        let any = LeafSpec { client: false, ..spec("a") };
        add("without extended key usage", listed.issue(&any).unwrap());
        add("expired", listed.issue(&spec("a").expired()).unwrap());
        let now = SystemTime::now();
        let early = LeafSpec { not_before: now + Duration::from_secs(3600), ..spec("a") };
        add("not yet valid", listed.issue(&early).unwrap());
        add("of the second file", second.issue(&spec("a")).unwrap());
        add("of the second certificate of a file", third.issue(&spec("a")).unwrap());
        add("of another CA", other.issue(&spec("a")).unwrap());
        add("of a CA of the same name", TestCa::root("Listed").unwrap().issue(&spec("a")).unwrap());
        let ended = TestCa::expired_root("Ended").unwrap();
        add("of a CA that has expired", ended.issue(&spec("a")).unwrap());
        let issuing = listed.intermediate("Issuing").unwrap();
        add("with an intermediate", issuing.issue(&spec("a")).unwrap());
        let mut alone = issuing.issue(&spec("a")).unwrap();
        alone.chain_pem = alone.cert_pem.clone();
        add("without its intermediate", alone);
        let two = issuing.intermediate("Issuing 2").unwrap();
        add("with two intermediates", two.issue(&spec("a")).unwrap());
        let listed_alone = far.intermediate("Far Issuing").unwrap();
        add("of a listed intermediate whose root is not", listed_alone.issue(&spec("a")).unwrap());
        let itself = self_signed(&spec("Itself")).unwrap();
        let unknown = self_signed(&spec("Unknown")).unwrap();
        let itself_pem = itself.cert_pem.clone();
        add("self-made, listed", itself);
        add("self-made", unknown);

        let openssl = OpenSsl { folder: scratch.path() };
        openssl.authority("openssl", "basicConstraints = critical, CA:TRUE\n");
        openssl.authority("version-1", "");
        for (name, ca, key, extensions) in [
            ("with an RSA-1024 key", "openssl", "rsa:1024", CLIENT),
            ("with an RSA-2048 key", "openssl", "rsa:2048", CLIENT),
            ("with an RSA-3072 key", "openssl", "rsa:3072", CLIENT),
            ("with a P-384 key", "openssl", "P-384", CLIENT),
            ("with a P-521 key", "openssl", "P-521", CLIENT),
            ("with an Ed25519 key", "openssl", "ed25519", CLIENT),
            ("without usages", "openssl", "P-256", "subjectKeyIdentifier = hash\n"),
            ("of version 1", "openssl", "P-256", ""),
            ("with a key usage that does not sign", "openssl", "P-256", "keyUsage = critical, keyEncipherment\n"),
            ("with CA:TRUE", "openssl", "P-256", "basicConstraints = critical, CA:TRUE\n"),
            ("of a CA of version 1", "version-1", "P-256", CLIENT),
        ] {
            all.insert(name, openssl.issue(&name.replace(' ', "-"), ca, key, extensions));
        }
        let both = scratch.write("both.crt", format!("text before\n{}{}", second.pem(), third.pem())).unwrap();
        let listed = listed.write(scratch.path(), "listed").unwrap();
        let ended = ended.write(scratch.path(), "ended").unwrap();
        let far = listed_alone.write(scratch.path(), "far-issuing").unwrap();
        let itself = scratch.write("itself.crt", itself_pem).unwrap();
        let made = ["openssl", "version-1"].map(|name| scratch.join(format!("{name}.crt")));
        let files = [listed, scratch.join("missing.crt"), both, ended, far, itself].into_iter().chain(made);
        let files: Vec<_> = files.map(|file| file.display().to_string()).collect();
        Self { all, trusted: format!("[{}]", files.join(", ")), scratch }
    }
}

const CLIENT: &str = "keyUsage = critical, digitalSignature\nextendedKeyUsage = clientAuth\n";

/// Certificates that the Rust libraries would not make.
struct OpenSsl<'a> {
    folder: &'a Path,
}

impl OpenSsl<'_> {
    fn run(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.folder).output().unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
    }

    /// A key and a request for it, called `name`.
    fn request(&self, name: &str, key: &str) {
        let (algorithm, option) = match key {
            "ed25519" => ("ed25519", None),
            rsa if rsa.starts_with("rsa:") => (rsa, None),
            curve => ("ec", Some(format!("ec_paramgen_curve:{curve}"))),
        };
        let (key, request, subject) = (format!("{name}.pem"), format!("{name}.csr"), format!("/CN={name}"));
        let mut arguments = vec!["req", "-new", "-nodes", "-newkey", algorithm, "-keyout", &key, "-out", &request];
        arguments.extend(["-subj", &subject]);
        arguments.extend(option.iter().flat_map(|option| ["-pkeyopt", option]));
        self.run(&arguments);
    }

    /// A root.
    fn authority(&self, name: &str, extensions: &str) {
        self.request(name, "P-256");
        let (key, certificate) = (format!("{name}.pem"), format!("{name}.crt"));
        self.sign(name, extensions, &["-signkey", &key, "-out", &certificate]);
    }

    fn issue(&self, name: &str, ca: &str, key: &str, extensions: &str) -> Client {
        self.request(name, key);
        let (issuer, issuer_key, certificate) = (format!("{ca}.crt"), format!("{ca}.pem"), format!("{name}.crt"));
        self.sign(name, extensions, &["-CA", &issuer, "-CAkey", &issuer_key, "-out", &certificate]);
        Client { certificate: self.folder.join(certificate), key: self.folder.join(format!("{name}.pem")) }
    }

    fn sign(&self, name: &str, extensions: &str, arguments: &[&str]) {
        let (request, file) = (format!("{name}.csr"), format!("{name}.ext"));
        std::fs::write(self.folder.join(&file), extensions).unwrap();
        let common = ["x509", "-req", "-in", &request, "-days", "2"];
        let with: &[&str] = if extensions.is_empty() { &[] } else { &["-extfile", &file] };
        self.run(&[&common[..], with, arguments].concat());
    }
}
