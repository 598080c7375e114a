// SPDX-License-Identifier: Apache-2.0
//! Quotes against a software TPM: what they hold and how many TPM commands they cost.

mod support;

use anyhow::Result;
use std::time::{Duration, Instant};
use support::{ensure_empty, identity_quote, plain_swtpm, request, settings, start, verify};
use test_support::Swtpm;
use test_support::swtpm::{PCR_READ, QUOTE};
use tpm::{Quote, Tpm, TpmError, TpmSettings};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::nonce::Nonce;
use tpm_wire::pcr::PcrMask;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;
const UNSTABLE: &str = "the PCRs changed during each of 5 quotes";

/// Makes a verified quote and says how many TPM commands it took.
async fn counted(tpm: &Tpm, ak_2b: &[u8], mask: PcrMask) -> Result<(Quote, u64)> {
    let before = tpm.commands_sent();
    let request = request(BANK, mask)?;
    let nonce = request.nonce.clone();
    let quote = tpm.quote(request).await?;
    verify(&quote, ak_2b, &nonce, BANK)?;
    assert_eq!(quote.pcrs.mask(), mask.with(16));
    Ok((quote, tpm.commands_sent() - before))
}

fn pcr(quote: &Quote, pcr: u8) -> Option<String> {
    quote.pcrs.get(pcr).map(hex::encode)
}

#[tokio::test]
async fn an_identity_quote_is_one_command() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, ak) = start(settings(&swtpm), None).await?;
    let identity = PcrMask::EMPTY;
    // PCR_Read, PCR_Reset, PCR_Extend, Quote; a new TPM answers its first TPM2_Quote with TPM_RC_RETRY.
    let (_, commands) = counted(&tpm, &ak.public_2b, identity).await?;
    assert!((4..=5).contains(&commands), "{commands}");
    for _ in 0..3 {
        assert_eq!(counted(&tpm, &ak.public_2b, identity).await?.1, 1);
    }
    // More PCRs have to be read once.
    let mask = identity.with(0).with(7).with(10);
    assert_eq!(counted(&tpm, &ak.public_2b, mask).await?.1, 2);
    assert_eq!(counted(&tpm, &ak.public_2b, mask).await?.1, 1);
    assert_eq!(counted(&tpm, &ak.public_2b, identity).await?.1, 1);
    // All 24 take three reads.
    let all = PcrMask::from_bits(0x00FF_FFFF)?;
    assert_eq!(counted(&tpm, &ak.public_2b, all).await?.1, 4);
    assert_eq!(counted(&tpm, &ak.public_2b, all).await?.1, 1);
    tpm.shutdown().await?;

    // The next process finds PCR 16 as it should be and leaves it alone.
    let (tpm, _, again) = start(settings(&swtpm), Some(ak.saved)).await?;
    assert_eq!(counted(&tpm, &again.public_2b, identity).await?.1, 2);
    tpm.shutdown().await?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn changed_pcrs_are_read_again_without_another_quote() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, ak) = start(settings(&swtpm), None).await?;
    let mask = PcrMask::EMPTY.with(10);
    let (first, _) = counted(&tpm, &ak.public_2b, mask).await?;
    swtpm.pcr_extend(10)?;
    // Quote and PCR_Read.
    let (second, commands) = counted(&tpm, &ak.public_2b, mask).await?;
    assert_eq!(commands, 2);
    assert_ne!(pcr(&first, 10), pcr(&second, 10));
    assert_eq!(pcr(&second, 10), Some(swtpm.pcr_read("sha256", 10)?));
    // A change outside the mask does not matter.
    swtpm.pcr_extend(9)?;
    assert_eq!(counted(&tpm, &ak.public_2b, mask).await?.1, 1);
    tpm.shutdown().await?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn pcr_16_is_put_right_after_another_program_changed_it() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, ak) = start(settings(&swtpm), None).await?;
    let (good, _) = counted(&tpm, &ak.public_2b, PcrMask::EMPTY).await?;
    let spoils: [fn(&Swtpm) -> Result<()>; 2] =
        [|swtpm| swtpm.pcr_extend(16), |swtpm| swtpm.tool("tpm2_pcrreset", &["16"]).map(drop)];
    for spoil in spoils {
        spoil(&swtpm)?;
        assert_ne!(pcr(&good, 16), Some(swtpm.pcr_read("sha256", 16)?));
        // Quote, PCR_Read, PCR_Reset, PCR_Extend, Quote.
        let (quote, commands) = counted(&tpm, &ak.public_2b, PcrMask::EMPTY).await?;
        assert_eq!(commands, 5);
        assert_eq!(pcr(&quote, 16), pcr(&good, 16));
    }
    // Another node key.
    let mut other = request(BANK, PcrMask::EMPTY)?;
    other.node_key_digest = vec![7; 32];
    let before = tpm.commands_sent();
    let quote = tpm.quote(other).await?;
    assert_eq!(tpm.commands_sent() - before, 3);
    let expected = BANK.digest(&[[0; 32], [7; 32]].concat())?;
    assert_eq!(quote.pcrs.get(16), Some(&expected[..]));
    tpm.shutdown().await?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn two_programs_that_fight_for_pcr_16_get_good_quotes_or_none() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (one, _, ak) = start(settings(&swtpm), None).await?;
    let (two, _, _) = start(settings(&swtpm), None).await?;
    // The first quote has more commands than others.
    counted(&one, &ak.public_2b, PcrMask::EMPTY).await?;
    let rival = tokio::spawn({
        let two = two.clone();
        async move {
            for _ in 0..100 {
                let mut request = request(BANK, PcrMask::EMPTY)?;
                request.node_key_digest = vec![7; 32];
                match two.quote(request).await {
                    Ok(_) | Err(TpmError::PcrsUnstable { .. }) => (),
                    Err(error) => return Err(error.into()),
                }
            }
            anyhow::Ok(())
        }
    });
    while !rival.is_finished() {
        match counted(&one, &ak.public_2b, PcrMask::EMPTY).await {
            Ok((_, commands)) => {
                // At most five times PCR_Reset, PCR_Extend, Quote, PCR_Read.
                assert!(commands <= 20, "{commands}");
            }
            Err(error) => assert_eq!(error.to_string(), UNSTABLE),
        }
    }
    rival.await??;
    counted(&one, &ak.public_2b, PcrMask::EMPTY).await?;
    one.shutdown().await?;
    two.shutdown().await?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn pcrs_that_change_all_the_time_give_good_quotes_or_none() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, ak) = start(settings(&swtpm), None).await?;
    let mask: PcrMask = "0x400".parse()?;
    // The first quote has more commands than others.
    counted(&tpm, &ak.public_2b, mask).await?;
    // Milliseconds between two extensions, from none at all to hardly one during a quote.
    for pause in [0, 1, 2, 4, 8, 16, 32, 64] {
        let _rival = swtpm.keep_extending(10, Duration::from_millis(pause))?;
        for _ in 0..40 {
            let before = tpm.commands_sent();
            match counted(&tpm, &ak.public_2b, mask).await {
                Ok((_, commands)) => assert!(commands <= 10, "{commands}"),
                Err(error) => {
                    assert_eq!(error.to_string(), UNSTABLE);
                    // Quote and PCR_Read each time.
                    assert_eq!(tpm.commands_sent() - before, 10);
                }
            }
        }
    }
    tpm.shutdown().await?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn a_quote_is_refused_only_if_the_pcrs_change_before_and_after_it_each_time() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let rival = swtpm.rival(10)?;
    let settings = TpmSettings { tcti: Some(rival.tcti.clone()), ..TpmSettings::default() };
    let (tpm, _, ak) = start(settings, None).await?;
    let mask = PcrMask::EMPTY.with(10);
    let identity = PcrMask::EMPTY;
    for quoted in [identity, mask] {
        counted(&tpm, &ak.public_2b, quoted).await?;
    }
    for (before, mask, outcome) in [
        // The values that are read afterwards explain the quote.
        (&[][..], mask, Ok(2)),
        (&[QUOTE], mask, Ok(2)),
        // They explain the next one.
        (&[PCR_READ], mask, Ok(3)),
        (&[QUOTE, PCR_READ], mask, Err(10)),
        (&[QUOTE, PCR_READ], identity, Ok(1)),
        (&[], mask, Ok(2)),
    ] {
        swtpm.pcr_extend(10)?;
        rival.extend_before(before);
        let sent = tpm.commands_sent();
        let found = counted(&tpm, &ak.public_2b, mask).await;
        let found = found.map(|(_, commands)| commands).map_err(|error| {
            assert_eq!(error.to_string(), UNSTABLE);
            tpm.commands_sent() - sent
        });
        assert_eq!(found, outcome, "{before:x?}");
    }
    tpm.shutdown().await?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn a_lockout_of_the_tpm_is_named_and_ends() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let key = "0x81000010";
    swtpm.tool("tpm2_dictionarylockout", &["-s", "-n", "2", "-t", "1000", "-l", "0"])?;
    swtpm.tool("tpm2_createprimary", &["-C", "o", "-c", "primary", "-G", "ecc", "-p", "right"])?;
    swtpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "primary", key])?;
    swtpm.flush_all()?;
    let (tpm, _, ak) = start(settings(&swtpm), None).await?;
    counted(&tpm, &ak.public_2b, PcrMask::EMPTY).await?;
    // Another program tries passwords until the TPM has had enough.
    for _ in 0..3 {
        let wrong = ["-C", key, "-P", "wrong", "-u", "pub", "-r", "priv"];
        assert!(!swtpm.tool_output("tpm2_create", &wrong)?.status.success());
    }
    let error = identity_quote(&tpm).await.map(drop).map_err(|error| error.to_string());
    let text = "TPM2_Quote failed: TPM_RC_LOCKOUT: the TPM is locked after too many wrong authorizations (0x921)";
    assert_eq!(error, Err(text.to_owned()));
    // Over, the AK is where it was.
    swtpm.tool("tpm2_dictionarylockout", &["-c"])?;
    counted(&tpm, &ak.public_2b, PcrMask::EMPTY).await?;
    tpm.shutdown().await?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn requests_that_cannot_be_met_are_refused() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let tpm = Tpm::open(settings(&swtpm)).await?;
    assert!(matches!(identity_quote(&tpm).await, Err(TpmError::NoAk)));
    tpm.create_ek().await?;
    let ak = tpm.load_or_create_ak(None).await?;
    tpm.flush_ek().await?;

    let mut wrong = request(BANK, PcrMask::EMPTY)?;
    wrong.node_key_digest = vec![1; 20];
    let error = tpm.quote(wrong).await.map(drop).map_err(|error| error.to_string());
    assert_eq!(error, Err("the node key digest has 20 bytes, 32 are needed in this PCR bank".to_owned()));

    let sent = tpm.commands_sent();
    let mut late = request(BANK, PcrMask::EMPTY)?;
    late.deadline = Instant::now();
    assert!(matches!(tpm.quote(late).await, Err(TpmError::Deadline)));
    // The thread takes one request after the other, and this one needs no command.
    tpm.flush_ek().await?;
    assert_eq!(tpm.commands_sent(), sent, "a late request reached the TPM");

    // The longest nonce there is.
    let mut long = request(BANK, PcrMask::EMPTY)?;
    long.nonce = "n".repeat(Nonce::MAX_LEN).parse()?;
    let nonce = long.nonce.clone();
    verify(&tpm.quote(long).await?, &ak.public_2b, &nonce, BANK)?;
    tpm.shutdown().await?;
    assert!(matches!(identity_quote(&tpm).await, Err(TpmError::Closed)));
    ensure_empty(&swtpm)
}
