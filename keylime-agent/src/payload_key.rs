// SPDX-License-Identifier: Apache-2.0
//! The payload key (NK): an RSA-2048 key under which tenant and verifier send the two halves of the bootstrap key. Its
//! public part, as PEM text, is bound into PCR 16 by every quote, so it must stay the same over restarts.

use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use pkcs8::der::Encode as _;
use tls::rustls::pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use crate::config::KeyFile;
use crate::{files, pem};

/// Modulus length of RSA-2048.
const MODULUS_LEN: usize = 256;
/// Object identifier rsaEncryption (RFC 8017, appendix C).
const RSA_ENCRYPTION: pkcs8::ObjectIdentifier = pkcs8::ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A PrivateKeyInfo (RFC 5208) in DER.
type Pkcs8 = Zeroizing<Vec<u8>>;

/// The key and the forms of its public part that go over the wire.
pub(crate) struct PayloadKey {
    key: OaepPrivateDecryptingKey,
    public_pem: String,
}

/// How the key came about, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Read from its file.
    Loaded,
    /// Copied from the server key: before the two keys were separate one RSA key was used for both, and the verifier
    /// may still hold its public part.
    CopiedFromServerKey,
    /// Made now.
    Generated,
}

/// Why there is no payload key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadKeyError {
    #[error(transparent)]
    File(#[from] tls::TlsError),
    #[error("cannot look for the file: {0}")]
    Look(#[source] std::io::Error),
    #[error("cannot write the file: {0}")]
    Write(#[source] std::io::Error),
    #[error(
        "it is missing, and whether the server key in {} has served as payload key so far cannot be told: {source}",
        path.display()
    )]
    ServerKey { path: PathBuf, source: Box<PayloadKeyError> },
    #[error(
        "it is missing, and the server key in {} may have served as payload key so far; that one is protected by a password, \
         so its copy must be, too: set option 'payload_key_password'",
        path.display()
    )]
    Unprotected { path: PathBuf },
    #[error("the payload key must be RSA with 2048 bits, found {0}")]
    WrongType(String),
    #[error("cannot make an RSA key")]
    Generate,
}

/// The ciphertext was not made for this key.
#[derive(Debug, thiserror::Error)]
#[error("it is not encrypted with RSA-OAEP (SHA-1) for this agent's public key")]
pub(crate) struct DecryptError;

impl PayloadKey {
    /// Loads the key, or takes over the RSA-2048 key of `server_key`, or makes a new one, in this order; a key that was
    /// not in its file is stored there, unencrypted or under the configured password, but none unencrypted that was
    /// encrypted. A file that is there but cannot be read leads to no new key: the verifier may hold the old one.
    pub(crate) fn load_or_create(file: &KeyFile, server_key: &KeyFile) -> Result<(Self, Origin), PayloadKeyError> {
        if files::exists(&file.path).map_err(PayloadKeyError::Look)? {
            return Ok((Self::load(file)?, Origin::Loaded));
        }
        if let Some((key, pkcs8)) = Self::shared(file, server_key)? {
            store(file, &pkcs8)?;
            return Ok((key, Origin::CopiedFromServerKey));
        }
        let generated = PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(|_| PayloadKeyError::Generate)?;
        let pkcs8: Pkcs8V1Der<'_> = generated.as_der().map_err(|_| PayloadKeyError::Generate)?;
        store(file, pkcs8.as_ref())?;
        Ok((Self::from_key(generated)?, Origin::Generated))
    }

    /// Whether [`Self::load_or_create`] would find the files in order, so far as that can be told without making any.
    pub(crate) fn check(file: &KeyFile, server_key: &KeyFile) -> Result<(), PayloadKeyError> {
        if files::exists(&file.path).map_err(PayloadKeyError::Look)? {
            return Self::load(file).map(drop);
        }
        Self::shared(file, server_key).map(drop)
    }

    /// The key of `server_key`, if it can have served as payload key, and its PKCS#8 form.
    fn shared(file: &KeyFile, server_key: &KeyFile) -> Result<Option<(Self, Pkcs8)>, PayloadKeyError> {
        let path = || server_key.path.clone();
        let found = shared_key(server_key)
            .map_err(|source| PayloadKeyError::ServerKey { path: path(), source: Box::new(source) })?;
        let Some(shared) = found.and_then(|pkcs8| Some((Self::from_pkcs8(&pkcs8).ok()?, pkcs8))) else {
            return Ok(None);
        };
        // A password may be configured for a key that is not encrypted.
        if password(file).is_none() && tls::load_private_key(&server_key.path, None).is_err() {
            return Err(PayloadKeyError::Unprotected { path: path() });
        }
        Ok(Some(shared))
    }

    fn load(file: &KeyFile) -> Result<Self, PayloadKeyError> {
        match load_pkcs8(file)? {
            Some(pkcs8) => Self::from_pkcs8(&pkcs8),
            None => Err(PayloadKeyError::WrongType("an elliptic curve key".to_owned())),
        }
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, PayloadKeyError> {
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8)
            .map_err(|_| PayloadKeyError::WrongType("another kind of key, or a damaged one".to_owned()))?;
        Self::from_key(key)
    }

    fn from_key(key: PrivateDecryptingKey) -> Result<Self, PayloadKeyError> {
        if key.key_size_bytes() != MODULUS_LEN {
            return Err(PayloadKeyError::WrongType(format!("RSA with {} bits", key.key_size_bytes() * 8)));
        }
        let unusable = || PayloadKeyError::WrongType("an unusable RSA key".to_owned());
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| unusable())?;
        let public_pem = pem::encode("PUBLIC KEY", public.as_ref());
        let key = OaepPrivateDecryptingKey::new(key).map_err(|_| unusable())?;
        Ok(Self { key, public_pem })
    }

    /// The public part: PEM of a SubjectPublicKeyInfo, 64 columns, with a line feed after the last line. These very
    /// bytes are hashed into PCR 16.
    pub(crate) fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Decrypts RSA-OAEP with SHA-1, MGF1-SHA-1 and an empty label, which is what tenant and verifier use.
    pub(crate) fn decrypt(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        let mut plain = Zeroizing::new(vec![0; self.key.min_output_size()]);
        let length =
            self.key.decrypt(&OAEP_SHA1_MGF1SHA1, ciphertext, &mut plain, None).map_err(|_| DecryptError)?.len();
        plain.truncate(length);
        Ok(plain)
    }
}

/// The server key as PKCS#8, if there is one that may be RSA.
fn shared_key(server_key: &KeyFile) -> Result<Option<Pkcs8>, PayloadKeyError> {
    if files::exists(&server_key.path).map_err(PayloadKeyError::Look)? { load_pkcs8(server_key) } else { Ok(None) }
}

/// The key of a file as PKCS#8, or `None` for a SEC1 key, which is an elliptic curve one.
fn load_pkcs8(file: &KeyFile) -> Result<Option<Pkcs8>, PayloadKeyError> {
    let key = Zeroizing::new(tls::load_private_key(&file.path, password(file))?);
    Ok(match &*key {
        PrivateKeyDer::Pkcs8(key) => Some(Zeroizing::new(key.secret_pkcs8_der().to_vec())),
        PrivateKeyDer::Pkcs1(key) => wrap_pkcs1(key.secret_pkcs1_der()),
        _ => None,
    })
}

/// Puts an RSAPrivateKey (RFC 8017) into a PrivateKeyInfo (RFC 5208). The Python agents wrote such keys.
pub(crate) fn wrap_pkcs1(key: &[u8]) -> Option<Pkcs8> {
    let algorithm =
        pkcs8::AlgorithmIdentifierRef { oid: RSA_ENCRYPTION, parameters: Some(pkcs8::der::asn1::AnyRef::NULL) };
    let info = pkcs8::PrivateKeyInfo::new(algorithm, key);
    info.to_der().ok().map(Zeroizing::new)
}

fn store(file: &KeyFile, pkcs8: &[u8]) -> Result<(), PayloadKeyError> {
    write_private_key(&file.path, pkcs8, password(file))?.map_err(PayloadKeyError::Write)
}

/// The password of a key file for the TLS functions.
pub(crate) fn password(file: &KeyFile) -> Option<&str> {
    file.password.expose_str().filter(|text| !text.is_empty())
}

/// Stores a PKCS#8 key as PEM with mode 0600, encrypted if there is a password.
pub(crate) fn write_private_key(
    path: &Path,
    pkcs8: &[u8],
    password: Option<&str>,
) -> Result<std::io::Result<()>, tls::TlsError> {
    let pem = match password {
        Some(password) => tls::encrypt_private_key(pkcs8, password)?,
        None => tls::private_key_pem(pkcs8)?,
    };
    Ok(files::replace(path, pem.as_bytes(), 0o600))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use service::Secret;

    use super::*;

    fn key_file(dir: &tempfile::TempDir, name: &str, password: &str) -> KeyFile {
        KeyFile { path: dir.path().join(name), password: Secret::from(password) }
    }

    fn openssl(arguments: &[&str]) {
        let output = std::process::Command::new("openssl").args(arguments).output().expect("openssl is installed");
        assert!(output.status.success(), "{output:?}");
    }

    fn encrypt_for(key: &PayloadKey, plain: &[u8]) -> Vec<u8> {
        let lines: Vec<_> = key.public_pem().lines().collect();
        let der = STANDARD.decode(lines[1..lines.len() - 1].concat()).unwrap();
        let public = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&der).unwrap()).unwrap();
        let mut out = vec![0; public.ciphertext_size()];
        public.encrypt(&OAEP_SHA1_MGF1SHA1, plain, &mut out, None).unwrap().to_vec()
    }

    #[test]
    fn a_generated_key_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let server = key_file(&dir, "server-private.pem", "");
        for password in ["", "geheim"] {
            let file = key_file(&dir, &format!("payload{password}.pem"), password);
            let (first, origin) = PayloadKey::load_or_create(&file, &server).unwrap();
            assert_eq!(origin, Origin::Generated);
            let mode = std::fs::metadata(&file.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let (second, origin) = PayloadKey::load_or_create(&file, &server).unwrap();
            assert_eq!(origin, Origin::Loaded);
            assert_eq!(first.public_pem(), second.public_pem());
            let ciphertext = encrypt_for(&first, b"half");
            assert_eq!(*second.decrypt(&ciphertext).unwrap(), b"half");
            let text = std::fs::read_to_string(&file.path).unwrap();
            assert_eq!(text.contains("ENCRYPTED"), !password.is_empty());
        }
    }

    #[test]
    fn the_public_part_is_what_openssl_writes() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_file(&dir, "payload.pem", "");
        let (key, _) = PayloadKey::load_or_create(&file, &file).unwrap();
        let out = dir.path().join("public.pem");
        let (path, out) = (file.path.to_str().unwrap(), out.to_str().unwrap());
        openssl(&["pkey", "-in", path, "-pubout", "-out", out]);
        assert_eq!(std::fs::read_to_string(out).unwrap(), key.public_pem());
    }

    #[test]
    fn an_old_shared_key_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        for (name, extra) in [("pkcs8", None), ("pkcs1", Some("-traditional"))] {
            let server = key_file(&dir, &format!("server-{name}.pem"), "");
            let path = server.path.to_str().unwrap();
            let mut arguments = vec!["genrsa", "-out", path];
            arguments.extend(extra);
            arguments.push("2048");
            openssl(&arguments);
            let file = key_file(&dir, &format!("payload-{name}.pem"), "");
            let (first, origin) = PayloadKey::load_or_create(&file, &server).unwrap();
            assert_eq!(origin, Origin::CopiedFromServerKey);
            std::fs::remove_file(&server.path).unwrap();
            let (second, origin) = PayloadKey::load_or_create(&file, &server).unwrap();
            assert_eq!(origin, Origin::Loaded);
            assert_eq!(first.public_pem(), second.public_pem());
        }
    }

    #[test]
    fn a_protected_shared_key_stays_protected() {
        let dir = tempfile::tempdir().unwrap();
        let server = key_file(&dir, "server.pem", "geheim");
        PayloadKey::load_or_create(&server, &key_file(&dir, "none.pem", "")).unwrap();
        let file = key_file(&dir, "payload.pem", "");
        let text = format!(
            "it is missing, and the server key in {} may have served as payload key so far; that one is protected by a \
             password, so its copy must be, too: set option 'payload_key_password'",
            server.path.display()
        );
        assert_eq!(PayloadKey::check(&file, &server).unwrap_err().to_string(), text);
        assert_eq!(PayloadKey::load_or_create(&file, &server).err().unwrap().to_string(), text);
        assert!(!file.path.exists());
        let file = key_file(&dir, "payload.pem", "secret");
        let (_, origin) = PayloadKey::load_or_create(&file, &server).unwrap();
        assert_eq!(origin, Origin::CopiedFromServerKey);
        assert!(std::fs::read_to_string(&file.path).unwrap().contains("ENCRYPTED"));
        // A password that nothing is encrypted with protects nothing.
        let server = key_file(&dir, "plain.pem", "");
        PayloadKey::load_or_create(&server, &key_file(&dir, "none.pem", "")).unwrap();
        let server = key_file(&dir, "plain.pem", "geheim");
        let (_, origin) = PayloadKey::load_or_create(&key_file(&dir, "copy.pem", ""), &server).unwrap();
        assert_eq!(origin, Origin::CopiedFromServerKey);
    }

    #[test]
    fn an_elliptic_server_key_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let server = key_file(&dir, "server.pem", "");
        let path = server.path.to_str().unwrap();
        openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path]);
        let file = key_file(&dir, "payload.pem", "");
        let (_, origin) = PayloadKey::load_or_create(&file, &server).unwrap();
        assert_eq!(origin, Origin::Generated);
    }

    #[test]
    fn a_server_key_that_cannot_be_read_is_no_reason_for_a_new_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_file(&dir, "payload.pem", "");
        let refused = |server: &KeyFile, reason: &str| {
            let error = PayloadKey::load_or_create(&file, server).err().unwrap().to_string();
            let begin = format!(
                "it is missing, and whether the server key in {} has served as payload key so far cannot be told: ",
                server.path.display()
            );
            assert!(error.starts_with(&begin) && error.contains(reason), "{error}");
            assert!(!file.path.exists());
        };
        let encrypted = key_file(&dir, "encrypted.pem", "right");
        PayloadKey::load_or_create(&encrypted, &key_file(&dir, "none.pem", "")).unwrap();
        refused(&key_file(&dir, "encrypted.pem", "wrong"), "password");
        refused(&key_file(&dir, "encrypted.pem", ""), "password");
        std::fs::create_dir(dir.path().join("folder.pem")).unwrap();
        refused(&key_file(&dir, "folder.pem", ""), "Is a directory");
        // Neither file can be looked for: a file is in the folder's place.
        refused(&key_file(&dir, "encrypted.pem/server.pem", ""), "Not a directory");
        let error = PayloadKey::load_or_create(&key_file(&dir, "encrypted.pem/payload.pem", ""), &encrypted);
        let error = error.err().unwrap().to_string();
        assert_eq!(error, "cannot look for the file: Not a directory (os error 20)");
    }

    #[test]
    fn each_unusable_file_has_its_text_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_file(&dir, "payload.pem", "");
        let path = file.path.to_str().unwrap();
        let error = |file: &KeyFile| {
            let before = std::fs::read(&file.path).unwrap();
            let error = PayloadKey::load_or_create(file, file).err().unwrap();
            assert_eq!(std::fs::read(&file.path).unwrap(), before);
            error.to_string()
        };
        let wrong = "the payload key must be RSA with 2048 bits, found ";
        openssl(&["genrsa", "-out", path, "3072"]);
        assert_eq!(error(&file), format!("{wrong}RSA with 3072 bits"));
        openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path]);
        assert_eq!(error(&file), format!("{wrong}an elliptic curve key"));
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", path]);
        assert_eq!(error(&file), format!("{wrong}another kind of key, or a damaged one"));
        std::fs::write(path, "").unwrap();
        assert!(error(&file).contains("holds no private key"));
    }

    #[test]
    fn foreign_ciphertext_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_file(&dir, "payload.pem", "");
        let (key, _) = PayloadKey::load_or_create(&file, &file).unwrap();
        for ciphertext in [&[][..], &[1; 255], &[1; 256], &[0xff; 256], &[1; 257]] {
            assert_eq!(
                key.decrypt(ciphertext).unwrap_err().to_string(),
                "it is not encrypted with RSA-OAEP (SHA-1) for this agent's public key"
            );
        }
    }
}
