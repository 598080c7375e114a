// SPDX-License-Identifier: Apache-2.0
//! A Keylime agent without a TPM: it signs quotes with a key in memory, and so takes no time.

use anyhow::{Context, Result, anyhow};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;
use test_support::keylime::fake::{FakeServer, Reply, Request, Security};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::{NODE_KEY_PCR, PcrValues};

use crate::quote::{attest, join, sized};

/// What is sent as the node key. Nobody looks into it; its hash is the value of PCR 16.
const NODE_KEY: &str = "-----BEGIN PUBLIC KEY-----\nc29mdHdhcmU=\n-----END PUBLIC KEY-----\n";

/// The agent; it speaks plain HTTP on loopback.
#[derive(Debug)]
pub struct SoftwareAgent {
    server: FakeServer,
    public: Vec<u8>,
}

impl SoftwareAgent {
    /// Makes a P-256 key and starts the agent with this id.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(id: &str) -> Result<Self> {
        let unusable = |error| anyhow!("no key: {error}");
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|error| anyhow!("no key: {error}"))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &SystemRandom::new())
            .map_err(unusable)?;
        let public = public(&key)?;
        let info =
            json!({"agent_uuid": id, "tpm_hash_alg": "sha256", "tpm_enc_alg": "ecc256", "tpm_sign_alg": "ecdsa"});
        let server = FakeServer::start(Security::none(), move |request: &Request| match request.path.as_str() {
            "/version" => Reply::ok(&json!({"supported_version": "2.5"})),
            "/v2.5/agent/info" => Reply::ok(&info),
            "/v2.5/quotes/identity" => match quote(&key, request.parameter("nonce").unwrap_or_default()) {
                Ok(quote) => Reply::ok(&json!({
                    "quote": quote, "hash_alg": "sha256", "enc_alg": "ecc256", "sign_alg": "ecdsa", "pubkey": NODE_KEY
                })),
                Err(error) => Reply::error(500, &error.to_string()),
            },
            _ => Reply::error(404, "Not Found"),
        })?;
        Ok(Self { server, public })
    }

    /// The key as a TPM2B_PUBLIC that says of itself what an AK says.
    #[must_use]
    pub fn ak(&self) -> &[u8] {
        &self.public
    }

    /// The agent plugin's configuration.
    #[must_use]
    pub fn agent_data(&self) -> String {
        format!("keylime_agent_port = \"{}\"", self.server.port())
    }
}

/// TPM2B_PUBLIC: ECC, SHA-256, the attributes of an AK, no policy, no cipher, ECDSA with SHA-256, P-256, no KDF.
fn public(key: &EcdsaKeyPair) -> Result<Vec<u8>> {
    let mut public = [0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10].to_vec();
    // An uncompressed point: a byte 4, then both coordinates.
    for coordinate in key.public_key().as_ref().get(1..).unwrap_or_default().chunks(32) {
        public.extend(sized(coordinate)?);
    }
    sized(&public)
}

fn quote(key: &EcdsaKeyPair, nonce: &str) -> Result<String> {
    let sha256 = |bytes: &[u8]| HashAlgorithm::Sha256.digest(bytes).unwrap_or_default();
    let pcr = sha256(&[&[0; 32], sha256(NODE_KEY.as_bytes()).as_slice()].concat());
    let values = PcrValues::new(HashAlgorithm::Sha256, [(NODE_KEY_PCR, pcr)].into())?;
    let attest = attest(nonce, &values)?;
    let signed = key.sign(&SystemRandom::new(), &attest).map_err(|_| anyhow!("cannot sign"))?;
    // TPMT_SIGNATURE: ECDSA with SHA-256, then r and s.
    let (r, s) = signed.as_ref().split_at_checked(32).context("a signature of another size")?;
    let signature = [vec![0, 0x18, 0, 0x0b], sized(r)?, sized(s)?].concat();
    Ok(join(&[attest, signature, values.encode_blob()]))
}
