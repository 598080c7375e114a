// SPDX-License-Identifier: Apache-2.0
//! Every key type, hash and signing scheme that the software TPM has, with the real registrar; and what is said of those
//! that it has not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::{Lab, options};
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, require};
use tpm_wire::attest::Attest;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};
use tpm_wire::public::{AkPublic, Public};
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::verify_quote;

const NONCE: &str = "MZXW6YTBOI2TGNJSGAYTEMZU";
const HASHES: [HashAlgorithm; 4] =
    [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
const KEYS: [KeyAlgorithm; 6] = [
    KeyAlgorithm::Rsa2048,
    KeyAlgorithm::Rsa3072,
    KeyAlgorithm::Rsa4096,
    KeyAlgorithm::Ecc256,
    KeyAlgorithm::Ecc384,
    KeyAlgorithm::Ecc521,
];

fn schemes(key: KeyAlgorithm) -> [SignatureScheme; 2] {
    if key.is_rsa() {
        [SignatureScheme::RsaSsa, SignatureScheme::RsaPss]
    } else {
        [SignatureScheme::EcDsa, SignatureScheme::EcSchnorr]
    }
}

/// Whether the TPM says that it has these parameters (TPM2_TestParms).
fn has(tpm: &Swtpm, parameters: &str) -> bool {
    tpm.tool_output("tpm2_testparms", &[parameters]).unwrap().status.success()
}

fn lab() -> Option<Lab> {
    require::swtpm()?;
    require::keylime()?;
    let banks = HASHES.map(|hash| hash.name().to_owned()).to_vec();
    let tpm = Swtpm::start(SwtpmOptions { banks, ..SwtpmOptions::default() }).unwrap();
    let servers = KeylimeServers::start(&KeylimeOptions::default()).unwrap();
    Some(Lab { tpm, servers })
}

#[test]
fn what_the_tpm_has_registers_and_is_quoted() {
    let Some(lab) = lab() else { return };
    let mut lacking = BTreeSet::new();
    for key in KEYS {
        let storage = if key.is_rsa() { "null:aes128cfb" } else { "null:aes256cfb" };
        if !has(&lab.tpm, &format!("{key}:{storage}")) {
            let (code, log) = lab.failing_agent(&with(key, HashAlgorithm::Sha256, schemes(key)[0]));
            let text =
                format!("> this TPM cannot make an EK of type {key} (Keylime option tpm_encryption_alg): TPM_RC_");
            assert!(code == Some(1) && log.contains(&text), "{log}");
            lacking.insert(format!("{key}"));
            continue;
        }
        for hash in HASHES {
            for scheme in schemes(key) {
                let options = with(key, hash, scheme);
                if has(&lab.tpm, &format!("{key}:{scheme}-{hash}:null")) {
                    register_and_quote(&lab, &options, key, hash, scheme);
                    continue;
                }
                let (code, log) = lab.failing_agent(&options);
                let text = format!(
                    "> this TPM cannot make an AK of type {key} that signs with {scheme} over {hash} (Keylime options \
                     tpm_encryption_alg, tpm_signing_alg and tpm_hash_alg): TPM_RC_"
                );
                assert!(code == Some(1) && log.contains(&text), "{log}");
                lacking.insert(format!("{key} {scheme} {hash}"));
            }
        }
    }
    assert_eq!(lab.tpm.transient_handles().unwrap(), Vec::<u32>::new());
    for what in lacking {
        require::skip::<()>(&what, "the software TPM has no such key");
    }
}

fn with(key: KeyAlgorithm, hash: HashAlgorithm, scheme: SignatureScheme) -> KeylimeAgentOptions {
    // The registrar does not take another AK for an id that it knows.
    KeylimeAgentOptions { uuid: "generate".to_owned(), ..options() }
        .env("KEYLIME_AGENT_TPM_ENCRYPTION_ALG", key.name())
        .env("KEYLIME_AGENT_TPM_HASH_ALG", hash.name())
        .env("KEYLIME_AGENT_TPM_SIGNING_ALG", scheme.name())
}

fn register_and_quote(
    lab: &Lab,
    options: &KeylimeAgentOptions,
    key: KeyAlgorithm,
    hash: HashAlgorithm,
    scheme: SignatureScheme,
) {
    let row = format!("{key} {scheme} {hash}");
    let mut agent =
        KeylimeAgent::start(&lab.tpm.tcti, &lab.servers, options).unwrap_or_else(|e| panic!("{row}: {e:#}"));
    let id = agent.id().unwrap();
    // The registrar has activated it.
    let record = lab.servers.registrar_agent(&id).unwrap().unwrap();
    let decoded = |member: &str| STANDARD.decode(record[member].as_str().unwrap()).unwrap();
    let ak = Public::decode_2b(&decoded("aik_tpm")).unwrap();
    Public::decode_2b(&decoded("ek_tpm")).unwrap();
    assert_eq!(ak.name_alg, hash, "{row}");

    let answer = agent.get(&format!("/v2.6/quotes/identity?nonce={NONCE}")).unwrap();
    assert_eq!(answer.status, 200, "{row}: {answer:?}");
    let results = &answer.body["results"];
    for (member, name) in [("hash_alg", hash.name()), ("enc_alg", key.name()), ("sign_alg", scheme.name())] {
        assert_eq!(results[member], name, "{row}");
    }
    let quote: QuoteString = results["quote"].as_str().unwrap().parse().unwrap();
    let verified = AkPublic::try_from(ak).map_err(|error| error.to_string()).and_then(|ak| {
        let verified = verify_quote(&quote, &ak, NONCE.as_bytes(), hash).map_err(|error| error.to_string())?;
        assert!(verified.pcrs.get(16).is_some(), "{row}");
        Ok(())
    });
    // What Keylime's verifiers do not take, ours do not either.
    let expected = match (hash, scheme) {
        (HashAlgorithm::Sha1, _) => {
            Err("the attestation key's Name is a sha1 digest; only sha256, sha384 and sha512 are accepted".to_owned())
        }
        (_, SignatureScheme::RsaSsa | SignatureScheme::EcDsa) => Ok(()),
        _ => Err(format!("the attestation key signs with {scheme}; only rsassa and ecdsa are verified")),
    };
    assert_eq!(verified, expected, "{row}");
    assert!(agent.terminate().unwrap().success(), "{row}");
    // The TPM itself is the judge of signatures of every kind.
    let folder = lab.tpm.scratch();
    for (name, content) in
        [("ak", &decoded("aik_tpm")[..]), ("attest", quote.attest()), ("signature", quote.signature())]
    {
        std::fs::write(folder.join(name), content).unwrap();
    }
    lab.tpm.tool("tpm2_loadexternal", &["-C", "n", "-u", "ak", "-c", "ak.ctx"]).unwrap();
    let judge = ["-c", "ak.ctx", "-g", hash.name(), "-m", "attest", "-s", "signature"];
    lab.tpm.tool("tpm2_verifysignature", &judge).unwrap_or_else(|error| panic!("{row}: {error:#}"));
    lab.tpm.flush_transient().unwrap();
    let attest = Attest::decode(quote.attest()).unwrap();
    assert_eq!(attest.extra_data, NONCE.as_bytes(), "{row}");
}
