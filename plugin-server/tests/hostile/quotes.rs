// SPDX-License-Identifier: Apache-2.0
//! Quotes that prove something else, or nothing.

use test_support::keylime::fake::FakeAgent;
use tonic::Code;
use tpm_wire::public::{Public, ek_hash};

use crate::bench::{Bench, ID, LOCAL, Outcome, no_message, no_proof, payload, refused, response, spiffe_id};
use crate::soft_tpm::{Attest, Parts, SoftTpm, pcr16, pcrs, sized};

fn malformed() -> Outcome {
    refused(Code::InvalidArgument, "the TPM quote is malformed")
}

/// What a quote can claim besides the truth.
#[tokio::test]
async fn one_row_per_lie() {
    let bench = Bench::start(LOCAL).await;
    let tpm = &bench.tpm;
    let other = SoftTpm::new();
    let attest = |nonce: &str, change: fn(&mut Attest)| {
        let mut attest = Attest::of(&pcr16(), nonce);
        change(&mut attest);
        attest.signed_by(tpm, &pcr16())
    };
    type Quote<'a> = Box<dyn Fn(&str) -> Parts + 'a>;
    let rows: Vec<(&str, Quote<'_>, Outcome)> = vec![
        ("of another TPM", Box::new(|nonce| other.quote(nonce)), no_proof()),
        ("over no nonce", Box::new(|_| tpm.quote("")), no_proof()),
        ("over the start of the nonce", Box::new(|nonce| tpm.quote(&nonce[..31])), no_proof()),
        ("over more than the nonce", Box::new(|nonce| tpm.quote(&format!("{nonce}A"))), no_proof()),
        ("over the nonce in lower case", Box::new(|nonce| tpm.quote(&nonce.to_lowercase())), no_proof()),
        ("made without a TPM", Box::new(|nonce| attest(nonce, |attest| attest.magic = 0xff54_4348)), no_proof()),
        ("a certification of a key", Box::new(|nonce| attest(nonce, |attest| attest.kind = 0x8017)), no_proof()),
        ("a time stamp", Box::new(|nonce| attest(nonce, |attest| attest.kind = 0x8019)), no_proof()),
        ("of another bank", Box::new(|nonce| attest(nonce, |attest| attest.selections[0].0 = 0x000c)), no_proof()),
        ("of the SHA-1 bank", Box::new(|nonce| attest(nonce, |attest| attest.selections[0].0 = 0x0004)), no_proof()),
        ("of no bank", Box::new(|nonce| attest(nonce, |attest| attest.selections.clear())), no_proof()),
        (
            "of two banks",
            Box::new(|nonce| attest(nonce, |attest| attest.selections.push((0x0004, [0, 0, 1])))),
            no_proof(),
        ),
        ("of no PCR", Box::new(|nonce| attest(nonce, |attest| attest.selections[0].1 = [0; 3])), no_proof()),
        ("of another PCR", Box::new(|nonce| attest(nonce, |attest| attest.selections[0].1 = [0, 0, 2])), no_proof()),
        ("with another digest", Box::new(|nonce| attest(nonce, |attest| attest.digest[0] ^= 1)), no_proof()),
        ("with no digest", Box::new(|nonce| attest(nonce, |attest| attest.digest.clear())), no_proof()),
        (
            "with values of other PCRs",
            Box::new(|nonce| Attest::of(&pcr16(), nonce).signed_by(tpm, &pcrs(&[15]))),
            no_proof(),
        ),
        (
            "with values of more PCRs",
            Box::new(|nonce| Attest::of(&pcr16(), nonce).signed_by(tpm, &pcrs(&[16, 17]))),
            no_proof(),
        ),
        (
            "with the signature of another quote",
            Box::new(|nonce| Parts { signature: tpm.quote("ANOTHER").signature, ..tpm.quote(nonce) }),
            no_proof(),
        ),
        (
            "with a signature of zeros",
            Box::new(|nonce| {
                let signature = [vec![0, 0x18, 0, 0x0b], sized(&[0; 32]), sized(&[0; 32])].concat();
                Parts { signature, ..tpm.quote(nonce) }
            }),
            no_proof(),
        ),
        (
            "with a signature of another scheme",
            Box::new(|nonce| {
                let signature = [vec![0, 0x14, 0, 0x0b], sized(&[0x42; 256])].concat();
                Parts { signature, ..tpm.quote(nonce) }
            }),
            no_proof(),
        ),
        (
            "with a signature over another hash",
            Box::new(|nonce| {
                let mut quote = tpm.quote(nonce);
                quote.signature[3] = 0x0c;
                quote
            }),
            no_proof(),
        ),
        (
            "with no signature algorithm",
            Box::new(|nonce| Parts { signature: vec![0, 0x10], ..tpm.quote(nonce) }),
            malformed(),
        ),
        ("with no PCR values", Box::new(|nonce| Parts { pcrs: vec![0; 8], ..tpm.quote(nonce) }), malformed()),
    ];
    for (what, quote, expected) in rows {
        assert_eq!(bench.attest_with(|nonce| quote(&nonce).text()).await, expected, "{what}");
        bench.still_works(what).await;
    }
}

#[tokio::test]
async fn texts_that_are_no_quote() {
    let bench = Bench::start(LOCAL).await;
    for (what, text, expected) in [
        ("empty", String::new(), no_message()),
        ("r", "r".to_owned(), malformed()),
        ("an old form", "d".to_owned(), malformed()),
        ("no parts", "rAAAA".to_owned(), malformed()),
        ("too many parts", "rAAAA:AAAA:AAAA:AAAA".to_owned(), malformed()),
        ("empty parts", "r::".to_owned(), malformed()),
        ("no base64", "r%%%%:AAAA:AAAA".to_owned(), malformed()),
        ("a line end", "rAAAA:AAAA:AAAA\n".to_owned(), malformed()),
        ("NUL", "r\0:AAAA:AAAA".to_owned(), malformed()),
        ("long", format!("r{}:AAAA:AAAA", "A".repeat(40_000)), malformed()),
    ] {
        assert_eq!(bench.attest_with(|_| text).await, expected, "{what}");
        bench.still_works(what).await;
    }
}

#[tokio::test]
async fn no_quote_serves_twice() {
    let bench = Bench::start(LOCAL).await;
    let mut old = String::new();
    let first = bench
        .attest_with(|nonce| {
            old = bench.tpm.quote(&nonce).text();
            old.clone()
        })
        .await;
    assert_eq!(first, Ok(spiffe_id(ID)));
    assert_eq!(bench.attest_with(|_| old).await, no_proof());
    // Nor for another node of the same moment.
    let (mut one, mut other) = (bench.open().await, bench.open().await);
    let nonce = one.challenge(payload(ID, "sha256")).await.unwrap();
    other.challenge(payload(ID, "sha256")).await.unwrap();
    let quote = response(&bench.tpm.quote(&nonce).text());
    assert_eq!(other.outcome(quote.clone()).await, no_proof());
    assert_eq!(one.outcome(quote).await, Ok(spiffe_id(ID)));
}

/// Wherever a byte is wrong, the quote is refused, as false or as none.
#[tokio::test]
async fn each_byte_counts() {
    let bench = Bench::start(LOCAL).await;
    let lens = {
        let Parts { attest, signature, pcrs } = bench.tpm.quote("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP");
        [attest.len(), signature.len(), pcrs.len()]
    };
    for (part, len) in lens.into_iter().enumerate() {
        // All of the signed structure and the signature; the blob is mostly padding.
        for (at, bit) in (0..len).step_by(len.div_ceil(200)).zip((0..8).cycle()) {
            let outcome = bench
                .attest_with(|nonce| {
                    let mut quote = bench.tpm.quote(&nonce);
                    [&mut quote.attest, &mut quote.signature, &mut quote.pcrs][part][at] ^= 1 << bit;
                    quote.text()
                })
                .await;
            assert!(outcome == no_proof() || outcome == malformed(), "part {part}, byte {at}, bit {bit}: {outcome:?}");
        }
    }
    bench.still_works("all of them").await;
}

#[tokio::test]
async fn no_prefix_of_a_quote_is_one() {
    let bench = Bench::start(LOCAL).await;
    let len = bench.tpm.quote("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP").text().len();
    for end in (1..len).step_by(len.div_ceil(400)) {
        let outcome = bench.attest_with(|nonce| bench.tpm.quote(&nonce).text()[..end].to_owned()).await;
        assert!(outcome == no_proof() || outcome == malformed(), "{end} of {len}: {outcome:?}");
    }
    for part in 0..3 {
        for end in 0..40 {
            let outcome = bench
                .attest_with(|nonce| {
                    let mut quote = bench.tpm.quote(&nonce);
                    [&mut quote.attest, &mut quote.signature, &mut quote.pcrs][part].truncate(end);
                    quote.text()
                })
                .await;
            assert!(outcome == no_proof() || outcome == malformed(), "{end} bytes of part {part}: {outcome:?}");
        }
    }
    bench.still_works("all of them").await;
}

#[tokio::test]
async fn an_id_that_is_an_ek_hash_belongs_to_one_tpm() {
    let bench = Bench::start(LOCAL).await;
    let other = SoftTpm::new();
    let id = ek_hash(&Public::decode_2b(&bench.tpm.ek()).unwrap().to_spki_pem());
    let unusable = || refused(Code::PermissionDenied, "the host's registration at Keylime is not usable");
    for (what, tpm, ek, expected) in [
        ("the TPM itself", &bench.tpm, Some(bench.tpm.ek()), Ok(spiffe_id(&id))),
        ("another TPM", &other, Some(other.ek()), unusable()),
        ("another AK that claims the EK", &other, Some(bench.tpm.ek()), Ok(spiffe_id(&id))),
        ("no EK", &bench.tpm, None, unusable()),
        ("half an EK", &bench.tpm, Some(bench.tpm.ek()[..40].to_vec()), unusable()),
        ("an AK as EK", &bench.tpm, Some(bench.tpm.ak()), unusable()),
    ] {
        bench.keylime.put(&id, FakeAgent::verified(tpm.ak(), ek));
        let outcome = bench.attest(payload(&id, "sha256"), async |nonce| response(&tpm.quote(&nonce).text())).await;
        assert_eq!(outcome, expected, "{what}");
    }
    // Upper case is another id, and the hash of no EK.
    let upper = id.to_uppercase();
    bench.keylime.put(&upper, FakeAgent::verified(bench.tpm.ak(), Some(bench.tpm.ek())));
    let outcome =
        bench.attest(payload(&upper, "sha256"), async |nonce| response(&bench.tpm.quote(&nonce).text())).await;
    assert_eq!(outcome, unusable());
    bench.still_works("all of them").await;
}

#[tokio::test]
async fn bad_nodes_are_not_in_the_way_of_good_ones() {
    let bench = Bench::start(LOCAL).await;
    let other = SoftTpm::new();
    let attestations = (0..100).map(async |number| {
        let quoted = async |nonce: String| match number % 5 {
            0 => bench.tpm.quote(&nonce).text(),
            1 => other.quote(&nonce).text(),
            2 => bench.tpm.quote("ANOTHER").text(),
            3 => bench.tpm.quote(&nonce).text()[..200].to_owned(),
            _ => "r".repeat(40_000),
        };
        let outcome = bench.attest(payload(ID, "sha256"), async |nonce| response(&quoted(nonce).await)).await;
        let expected = match number % 5 {
            0 => Ok(spiffe_id(ID)),
            1 | 2 => no_proof(),
            _ => malformed(),
        };
        assert_eq!(outcome, expected, "{number}");
    });
    futures_util::future::join_all(attestations).await;
    bench.still_works("all of them").await;
}
