// SPDX-License-Identifier: Apache-2.0
//! Servers whose certificates prove nothing, and servers that do not accept ours.

use std::time::{Duration, SystemTime};

use test_support::TestCa;
use test_support::ca::{LeafSpec, self_signed};
use test_support::keylime::fake::Security;

use crate::bench::{Bench, LOCAL};
use crate::neighbours::{BOTH, Who};

#[tokio::test]
async fn one_row_per_certificate() {
    let bench = Bench::start(LOCAL).await;
    let ca = &bench.keylime.ca;
    let other = TestCa::root("Another CA").unwrap();
    // The same name, another key.
    let namesake = TestCa::root("Fake Keylime CA").unwrap();
    let issuing = ca.intermediate("Issuing CA").unwrap();
    let spec = || LeafSpec::new("server").server_only();
    let not_yet = || {
        let now = SystemTime::now();
        LeafSpec {
            not_before: now + Duration::from_secs(24 * 3600),
            not_after: now + Duration::from_secs(48 * 3600),
            ..spec()
        }
    };
    let mut without_intermediate = issuing.issue(&spec()).unwrap();
    without_intermediate.chain_pem = without_intermediate.cert_pem.clone();
    let ours = |issued| bench.keylime.security(&issued).unwrap();
    let good = || ca.issue(&spec()).unwrap();
    for (what, security, works) in [
        ("another certificate", ours(good()), true),
        ("an intermediate that is sent along", ours(issuing.issue(&spec()).unwrap()), true),
        ("an intermediate that is missing", ours(without_intermediate), false),
        ("another CA", ours(other.issue(&spec()).unwrap()), false),
        ("another CA of the same name", ours(namesake.issue(&spec()).unwrap()), false),
        ("signed by itself", ours(self_signed(&spec()).unwrap()), false),
        ("expired", ours(ca.issue(&spec().expired()).unwrap()), false),
        ("not valid yet", ours(ca.issue(&not_yet()).unwrap()), false),
        ("for another name", ours(ca.issue(&spec().only_dns(&["verifier.example"])).unwrap()), false),
        ("for clients only", ours(ca.issue(&LeafSpec::new("server").client_only()).unwrap()), false),
        ("does not accept ours", Security::tls(&good(), other.pem()).unwrap(), false),
        ("no TLS at all", Security::none(), false),
    ] {
        for who in BOTH {
            let what = format!("{who:?}: {what}");
            bench.afresh().await;
            who.of(&bench.keylime).restart(Some(security.clone())).unwrap();
            let outcome = bench.attest_well().await;
            if works {
                assert!(outcome.is_ok(), "{what}: {outcome:?}");
            } else {
                assert_eq!(outcome, who.unavailable(), "{what}");
            }
            bench.afresh().await;
            bench.still_works(&what).await;
        }
    }
}

/// The plugin keeps the certificate that it was given last, so a neighbour's new one needs no restart.
#[tokio::test]
async fn a_certificate_may_change_under_way() {
    let bench = Bench::start(LOCAL).await;
    for who in [Who::Verifier, Who::Registrar, Who::Verifier] {
        bench.still_works("the start").await;
        let issued = bench.keylime.ca.issue(&LeafSpec::new("renewed").server_only()).unwrap();
        who.of(&bench.keylime).restart(Some(bench.keylime.security(&issued).unwrap())).unwrap();
    }
    bench.still_works("three new certificates").await;
}
