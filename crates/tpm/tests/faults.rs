// SPDX-License-Identifier: Apache-2.0
//! The TPM is reset, lost, full or slow; other programs and killed processes of ours get in the way.

mod support;

use anyhow::{Context, Result, ensure};
use std::io::{BufRead as _, BufReader};
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{PATIENCE, ensure_empty, identity_quote, plain_swtpm, quote_when_back, request, settings, start, verify};
use test_support::Swtpm;
use tpm::{Quote, SavedAk, Tpm, TpmError, TpmSettings};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::PcrMask;

fn check(quote: &Quote, ak_2b: &[u8]) -> Result<()> {
    let request = request(HashAlgorithm::Sha256, PcrMask::EMPTY)?;
    verify(quote, ak_2b, &request.nonce, HashAlgorithm::Sha256)
}

fn ensure_unavailable(result: Result<Quote, TpmError>) -> Result<()> {
    match result {
        Err(error @ TpmError::Unavailable(_)) => {
            ensure!(error.is_retryable());
            let text = "the TPM is not available at the moment: it is being reopened and its keys reloaded";
            ensure!(error.to_string() == text, "{error}");
            ensure!(std::error::Error::source(&error).is_some());
            Ok(())
        }
        other => anyhow::bail!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restarted_tpm_is_taken_up_again_with_the_same_ak() -> Result<()> {
    let Some(mut swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, ak) = start(settings(&swtpm), None).await?;
    check(&identity_quote(&tpm).await?, &ak.public_2b)?;

    // A reset that nobody notices until the AK is used.
    swtpm.restart()?;
    ensure_unavailable(identity_quote(&tpm).await)?;
    check(&quote_when_back(&tpm).await?, &ak.public_2b)?;

    // A TPM that is gone for a while, and comes back without anybody asking.
    swtpm.power_off();
    ensure_unavailable(identity_quote(&tpm).await)?;
    ensure_unavailable(identity_quote(&tpm).await)?;
    swtpm.power_on()?;
    check(&quote_when_back(&tpm).await?, &ak.public_2b)?;
    assert_eq!(swtpm.transient_handles()?.len(), 1);

    // Shutdown while it is away.
    swtpm.power_off();
    ensure_unavailable(identity_quote(&tpm).await)?;
    tpm.shutdown().await?;
    swtpm.power_on()?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn an_ak_flushed_by_another_program_is_loaded_again() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, ak) = start(settings(&swtpm), None).await?;
    check(&identity_quote(&tpm).await?, &ak.public_2b)?;
    swtpm.flush_transient()?;
    ensure_unavailable(identity_quote(&tpm).await)?;
    check(&quote_when_back(&tpm).await?, &ak.public_2b)?;

    // Worse: the other program's key now has our handle, and signs.
    swtpm.flush_transient()?;
    swtpm.tool("tpm2_createprimary", &["-C", "o", "-c", "p.ctx"])?;
    let parent = "0x80000000";
    swtpm.tool("tpm2_create", &["-C", parent, "-u", "k.pub", "-r", "k.priv", "-G", "ecc:ecdsa"])?;
    swtpm.tool("tpm2_load", &["-C", parent, "-u", "k.pub", "-r", "k.priv", "-c", "k.ctx"])?;
    swtpm.tool("tpm2_flushcontext", &[parent])?;
    let theirs = swtpm.transient_handles()?;
    assert_eq!(theirs, [0x8000_0001], "the test needs the other key at the handle of our AK");
    ensure_unavailable(identity_quote(&tpm).await)?;
    check(&quote_when_back(&tpm).await?, &ak.public_2b)?;
    tpm.shutdown().await?;
    assert_eq!(swtpm.transient_handles()?, theirs, "the other program's key must stay");
    Ok(())
}

#[tokio::test]
async fn a_stalled_tpm_delays_nobody_beyond_the_deadline() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let queue = NonZeroUsize::new(2).context("two")?;
    let (tpm, _, ak) = start(TpmSettings { queue, ..settings(&swtpm) }, None).await?;
    check(&identity_quote(&tpm).await?, &ak.public_2b)?;
    let sent = tpm.commands_sent();

    swtpm.part().context("running")?.pause();
    let short = || {
        let mut request = request(HashAlgorithm::Sha256, PcrMask::EMPTY)?;
        request.deadline = Instant::now() + Duration::from_millis(300);
        anyhow::Ok(request)
    };
    let begin = Instant::now();
    let first = tokio::spawn({
        let (tpm, request) = (tpm.clone(), short()?);
        async move { tpm.quote(request).await }
    });
    // The thread has taken the first request when its command has been sent.
    while tpm.commands_sent() == sent {
        tokio::time::sleep(Duration::from_millis(1)).await;
        ensure!(begin.elapsed() < PATIENCE);
    }
    // Two wait, more are refused at once.
    let waiting: Vec<_> = [short()?, short()?]
        .map(|request| {
            let tpm = tpm.clone();
            tokio::spawn(async move { tpm.quote(request).await })
        })
        .into();
    tokio::task::yield_now().await;
    assert!(matches!(tpm.quote(short()?).await, Err(TpmError::Busy)));
    for task in waiting.into_iter().chain([first]) {
        assert!(matches!(task.await?, Err(TpmError::Deadline)));
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());

    // The TPM finishes the one command it had; the requests nobody waits for any more are skipped.
    swtpm.part().context("running")?.resume();
    let quote = loop {
        match identity_quote(&tpm).await {
            Err(TpmError::Busy) if begin.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            other => break other?,
        }
    };
    check(&quote, &ak.public_2b)?;
    assert_eq!(tpm.commands_sent(), sent + 2);
    tpm.shutdown().await?;
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn shutdown_is_bounded_and_leaves_nothing() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    // With the EK and the AK loaded, by the guard.
    let tpm = Tpm::open(settings(&swtpm)).await?;
    let guard = tpm.guard();
    tpm.create_ek().await?;
    tpm.load_or_create_ak(None).await?;
    assert_eq!(swtpm.transient_handles()?.len(), 2);
    drop(guard);
    ensure_empty(&swtpm)?;
    assert!(matches!(tpm.create_ek().await, Err(TpmError::Closed)));
    // Again and again does no harm.
    tpm.shutdown().await?;
    tpm.shutdown().await?;

    // While requests are waiting: they end with an error.
    let (tpm, _, _) = start(settings(&swtpm), None).await?;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let tpm = tpm.clone();
            tokio::spawn(async move { identity_quote(&tpm).await })
        })
        .collect();
    tokio::task::yield_now().await;
    tpm.shutdown().await?;
    for task in tasks {
        assert!(matches!(task.await?, Ok(_) | Err(TpmError::Closed)));
    }
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn a_stalled_tpm_delays_the_end_only_once() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, _) = start(settings(&swtpm), None).await?;
    let guard = tpm.guard();
    swtpm.part().context("running")?.pause();
    let begin = Instant::now();
    let quote = request(HashAlgorithm::Sha256, PcrMask::EMPTY)?;
    let sent = tpm.commands_sent();
    let asked = tokio::spawn({
        let tpm = tpm.clone();
        async move { tpm.quote(quote).await }
    });
    while tpm.commands_sent() == sent {
        tokio::time::sleep(Duration::from_millis(1)).await;
        ensure!(begin.elapsed() < PATIENCE);
    }
    let begin = Instant::now();
    assert!(matches!(tpm.shutdown().await, Err(TpmError::Deadline)));
    assert!(matches!(tpm.shutdown().await, Err(TpmError::Deadline)));
    drop(guard);
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    asked.abort();

    // Opening can be given up, too; the TPM is then closed as soon as it answers.
    let opening = tokio::time::timeout(Duration::from_millis(300), Tpm::open(settings(&swtpm))).await;
    assert!(opening.is_err());
    swtpm.part().context("running")?.resume();
    tokio::time::timeout(PATIENCE, tpm.ended()).await?;
    ensure_empty(&swtpm)
}

const CHILD_TCTI: &str = "TPM_FAULTS_TEST_CHILD";

/// Starts this test program again as a process that loads an AK, prints it and waits to be killed.
fn killed_child(swtpm: &Swtpm, saved: Option<&SavedAk>) -> Result<SavedAk> {
    let text = |ak: &SavedAk| format!("{} {}", hex::encode(&ak.public), hex::encode(&ak.private));
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "what_a_killed_process_left_is_cleared", "--nocapture"])
        .env(CHILD_TCTI, &swtpm.tcti)
        .env("TPM_FAULTS_TEST_AK", saved.map(text).unwrap_or_default())
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let mut ak = None;
    for line in lines {
        if let Some(hex) = line?.strip_prefix("AK ") {
            ak = Some(parse_ak(hex)?);
            break;
        }
    }
    child.kill()?;
    child.wait()?;
    ak.context("the child printed no AK")
}

fn parse_ak(text: &str) -> Result<SavedAk> {
    let (public, private) = text.split_once(' ').context("two parts")?;
    Ok(SavedAk { public: hex::decode(public)?, private: hex::decode(private)? })
}

#[tokio::test]
async fn what_a_killed_process_left_is_cleared() -> Result<()> {
    if let Ok(tcti) = std::env::var(CHILD_TCTI) {
        let saved = std::env::var("TPM_FAULTS_TEST_AK")?;
        let saved = if saved.is_empty() { None } else { Some(parse_ak(&saved)?) };
        // Not told of the leftovers, so that they pile up.
        let settings = TpmSettings { tcti: Some(tcti), ..TpmSettings::default() };
        let tpm = Tpm::open(settings).await?;
        tpm.create_ek().await?;
        let ak = match saved {
            // Without reload through this crate, which would clear up: a new AK each time.
            Some(saved) => saved,
            None => tpm.load_or_create_ak(None).await?.saved,
        };
        tpm.flush_ek().await?;
        println!("\nAK {} {}", hex::encode(&ak.public), hex::encode(&ak.private));
        // Until the parent kills us.
        std::io::stdin().read_line(&mut String::new())?;
        return Ok(());
    }
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let saved = killed_child(&swtpm, None)?;
    let leftover = swtpm.transient_handles()?;
    assert_eq!(leftover.len(), 1, "{leftover:x?}");

    // Another program's key fills up the second of three slots: EK and AK fit only if the leftover goes first.
    swtpm.tool("tpm2_createprimary", &["-C", "o", "-c", "p.ctx"])?;
    assert_eq!(swtpm.transient_handles()?.len(), 2);
    let settings = TpmSettings { leftover_ak: Some(saved.clone()), ..settings(&swtpm) };
    let (tpm, _, ak) = start(settings, Some(saved.clone())).await?;
    assert_eq!(ak.saved, saved);
    check(&identity_quote(&tpm).await?, &ak.public_2b)?;
    assert_eq!(swtpm.transient_handles()?.len(), 2);
    tpm.shutdown().await?;
    assert_eq!(swtpm.transient_handles()?.len(), 1, "the other program's key must stay");
    Ok(())
}

#[tokio::test]
async fn a_full_tpm_is_explained() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    for context in ["a.ctx", "b.ctx", "c.ctx"] {
        swtpm.tool("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-c", context])?;
    }
    let tpm = Tpm::open(settings(&swtpm)).await?;
    let text = tpm.create_ek().await.map(drop).map_err(|error| error.to_string());
    let expected = "the TPM has no room for another loaded object or session (TPM2_CreatePrimary: \
                    TPM_RC_OBJECT_MEMORY: out of memory for objects (0x902)): free what other programs, or one of \
                    ours that was killed, left there with `tpm2_flushcontext -t` (keys) and `tpm2_flushcontext -l` \
                    (sessions), or use the resource manager /dev/tpmrm0";
    assert_eq!(text, Err(expected.to_owned()));
    swtpm.flush_transient()?;
    tpm.create_ek().await?;

    // Sessions: three fit.
    for context in ["a.session", "b.session", "c.session"] {
        swtpm.tool("tpm2_startauthsession", &["--policy-session", "-S", context])?;
    }
    tpm.load_or_create_ak(None).await?;
    tpm.shutdown().await?;
    assert_eq!(swtpm.transient_handles()?, [0_u32; 0]);
    Ok(())
}

#[tokio::test]
async fn a_tpm_that_is_not_there_is_named() -> Result<()> {
    let Some(mut swtpm) = plain_swtpm().await? else { return Ok(()) };
    let settings = settings(&swtpm);
    let open = async || Tpm::open(settings.clone()).await.map(drop).map_err(|error| error.to_string());
    swtpm.power_off();
    let expected = format!(
        "cannot open the TPM through TCTI `{}`: input/output error (0x000a000a); is the software TPM running there, \
         and is its TCTI library installed (Debian: libtss2-tcti-swtpm0 or libtss2-tcti-mssim0)?",
        swtpm.tcti
    );
    assert_eq!(open().await, Err(expected));
    swtpm.power_on()?;
    assert_eq!(open().await, Ok(()));

    let nonsense = TpmSettings { tcti: Some("nonsense:1".to_owned()), ..TpmSettings::default() };
    let text = Tpm::open(nonsense).await.map(drop).map_err(|error| error.to_string());
    assert!(matches!(text, Err(text) if text.starts_with("cannot open the TPM through TCTI `nonsense:1`: ")));
    Ok(())
}
