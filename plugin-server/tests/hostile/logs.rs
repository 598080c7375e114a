// SPDX-License-Identifier: Apache-2.0
//! What the plugin logs about all this: which attempt of which host failed and why, and nothing that is secret.

use std::sync::Mutex;

use test_support::keylime::fake::FakeKeylime;
use tonic::Code;
use tracing_subscriber::filter::LevelFilter;

use crate::bench::{Bench, ID, payload, response};
use crate::soft_tpm::SoftTpm;

#[tokio::test]
async fn neither_nonces_nor_quotes_are_logged() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = Mutex::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(writer).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let bench = Bench::start("").await;
    let other = SoftTpm::new();
    let mut secrets = Vec::new();
    let mut attest = async |id: &str, tpm: &SoftTpm| {
        let attested = bench.attest(payload(id, "sha256"), async |nonce| {
            let quote = tpm.quote(&nonce).text();
            secrets.extend([nonce, quote[1..60].to_owned()]);
            response(&quote)
        });
        attested.await
    };
    attest(ID, &bench.tpm).await.unwrap();
    assert_eq!(attest(ID, &other).await.unwrap_err().0, Code::PermissionDenied);
    for spoil in [
        (|keylime| keylime.change(ID, |agent| agent.valid = (0.into(), Some("a reason".to_owned()))).unwrap())
            as fn(&FakeKeylime),
        |keylime| keylime.verifier.stop().unwrap(),
        |keylime| keylime.registrar.stop().unwrap(),
    ] {
        spoil(&bench.keylime);
        attest(ID, &bench.tpm).await.unwrap_err();
    }
    let Bench { plugin, .. } = bench;
    // Afterwards all has been logged that will be.
    plugin.shutdown().await;
    let log = std::fs::read_to_string(log.path()).unwrap();
    for expected in [
        "Node attested",
        "the signature does not verify with the attestation key",
        "the node's quote was refused by the verifier: a reason",
        "cannot connect to the Keylime verifier at https://127.0.0.1:",
        ID,
    ] {
        assert!(log.contains(expected), "{expected} is not in:\n{log}");
    }
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} is in:\n{log}");
    }
}
