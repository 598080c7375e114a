// SPDX-License-Identifier: Apache-2.0
//! What a host must not get an identity with, on the real SPIRE, Keylime and software TPM.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod hostile_agent;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::quote::{attest, join, sized};
use e2e::{Host, LIMIT, logged_reason};
use hostile_agent::HostileAgent;
use test_support::{PluginSpec, SpireAgent, SpireAgentOptions, SpireServer, SpireServerOptions, bin, require};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::PcrValues;

const REFUSED: &str = "code = PermissionDenied desc = nodeattestor(keylime): the TPM quote was refused (attempt ";

/// Attests `host` through a Keylime agent that answers with what `forge` makes of the true quote; answers SPIRE's
/// refusal, or `None` if the node was let in.
fn attest_with(
    server: &SpireServer,
    host: &Host,
    forge: impl Fn(&str, String) -> String + Send + Sync + 'static,
) -> Option<String> {
    let hostile = HostileAgent::start(host, forge).unwrap();
    let data = format!("keylime_agent_unix_socket = {:?}", hostile.socket());
    let plugin = PluginSpec::keylime(bin::built("keylime-attestor-agent").unwrap(), data);
    let mut agent = SpireAgent::start(server, &SpireAgentOptions::new(plugin)).unwrap();
    match agent.refused(LIMIT) {
        Ok(reason) => Some(reason),
        Err(error) => {
            assert!(
                error.to_string().contains("it was successful") || format!("{error:#}").contains("it was successful"),
                "{error:#}"
            );
            None
        }
    }
}

#[test]
fn forged_quotes_are_refused_where_the_honest_one_is_accepted() {
    let (Some(()), Some(_), Some(_)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let Some(()) = require::root() else { return };
    let host = Host::start().unwrap();
    host.enrol().unwrap();
    let server = SpireServer::start(&SpireServerOptions::new(host.server_plugin().unwrap())).unwrap();

    // The way through the stand-in works, so what follows is refused for the forgery alone.
    assert_eq!(attest_with(&server, &host, |_, quote| quote), None);

    let spoilt = attest_with(&server, &host, |_, quote| {
        let mut parts: Vec<Vec<u8>> = quote[1..].split(':').map(|part| STANDARD.decode(part).unwrap()).collect();
        *parts[1].last_mut().unwrap() ^= 1;
        join(&parts)
    })
    .unwrap();
    assert!(spoilt.contains(REFUSED), "{spoilt}");
    assert_eq!(
        logged_reason(&server, &spoilt).unwrap(),
        "the node's quote was refused: the signature does not verify with the attestation key"
    );

    // Everything right but the signature, which is of the right form: what needs no TPM, only the host's id.
    let without_tpm = attest_with(&server, &host, |nonce, _| quote_without_tpm(nonce)).unwrap();
    assert!(without_tpm.contains(REFUSED), "{without_tpm}");
    assert_eq!(
        logged_reason(&server, &without_tpm).unwrap(),
        "the node's quote was refused: the signature does not verify with the attestation key"
    );

    // A true quote of this TPM, over a nonce of another attestation.
    let old = host.agent.get("/v2.5/quotes/identity?nonce=ANOTHERNONCE").unwrap().results()["quote"].clone();
    let old = old.as_str().unwrap().to_owned();
    let replayed = attest_with(&server, &host, move |_, _| old.clone()).unwrap();
    assert!(replayed.contains(REFUSED), "{replayed}");
    assert_eq!(
        logged_reason(&server, &replayed).unwrap(),
        "the node's quote was refused: the quote was made over another nonce"
    );

    // The verifier's own identity check would have let two of these pass; nobody was let in but the honest one.
    assert_eq!(server.agent_list().unwrap().len(), 1);
}

#[test]
fn a_host_that_was_enrolled_but_never_quoted_is_refused() {
    let (Some(()), Some(_), Some(_)) = (require::swtpm(), require::keylime(), require::spire()) else { return };
    let Some(()) = require::root() else { return };
    let host = Host::start().unwrap();
    let server = SpireServer::start(&SpireServerOptions::new(host.server_plugin().unwrap())).unwrap();
    let mut agent = SpireAgent::start(&server, &SpireAgentOptions::new(host.agent_plugin().unwrap())).unwrap();
    let unknown = agent.refused(LIMIT).unwrap();
    assert!(
        unknown.contains(
            "code = FailedPrecondition desc = nodeattestor(keylime): the host is not known to the Keylime verifier (attempt "
        ),
        "{unknown}"
    );

    // Enrolled by an administrator's call with a port at which nobody listens: no quote is ever fetched.
    let nobody = test_support::ports::reserve().unwrap();
    host.enrol_at(nobody.number()).unwrap();
    host.servers.wait_state(&host.id, 3, LIMIT).unwrap();
    agent.wipe_and_restart().unwrap();
    let silent = agent.refused(LIMIT).unwrap();
    assert!(
        silent.contains(
            "code = FailedPrecondition desc = nodeattestor(keylime): the host has not been verified by Keylime yet (attempt "
        ),
        "{silent}"
    );
    assert_eq!(server.agent_list().unwrap().len(), 0);
}

/// A quote string that is right in every respect that needs no TPM.
fn quote_without_tpm(nonce: &str) -> String {
    let values = PcrValues::new(HashAlgorithm::Sha256, [(16, vec![0x5a; 32])].into()).unwrap();
    // RSASSA with SHA-256, 256 bytes.
    let signature = [[0, 0x14, 0, 0x0b].as_slice(), &sized(&[0x42; 256]).unwrap()].concat();
    join(&[attest(nonce, &values).unwrap(), signature, values.encode_blob()])
}
