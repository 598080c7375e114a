// SPDX-License-Identifier: Apache-2.0
//! IDevID, IAK and the certification of the AK against a software TPM, with tpm2-tools as the judge.

mod support;

use anyhow::{Context, Result, ensure};
use std::fs;
use support::{ensure_empty, has_rsa4096, plain_swtpm, settings, start};
use test_support::Swtpm;
use test_support::device_identity::DeviceKey;
use tpm::{AkInfo, Certification, DeviceKeyKind, DeviceKeySource, Tpm, TpmSettings};
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};
use zeroize::Zeroizing;

use {DeviceKeyKind as D, HashAlgorithm as H, KeyAlgorithm as K};

/// Makes the key with tpm2-tools; its TPM2B_PUBLIC.
fn made_by_tools(swtpm: &Swtpm, kind: D, key: K, hash: H, password: &str) -> Result<Vec<u8>> {
    let kind = match kind {
        D::IDevId => DeviceKey::IDevId,
        D::Iak => DeviceKey::Iak,
    };
    swtpm.device_key(kind, key.name(), hash.name(), password)
}

/// The certification is by this IAK.
fn judge(swtpm: &Swtpm, iak_2b: &[u8], hash: H, certification: &Certification) -> Result<()> {
    let folder = swtpm.scratch();
    for (name, content) in
        [("iak.pub", iak_2b), ("attest", &certification.attest), ("signature", &certification.signature)]
    {
        fs::write(folder.join(name), content)?;
    }
    swtpm.flush_transient()?;
    swtpm.tool("tpm2_loadexternal", &["-C", "n", "-u", "iak.pub", "-c", "iak.ctx"])?;
    let arguments = ["-c", "iak.ctx", "-g", hash.name(), "-m", "attest", "-s", "signature"];
    swtpm.tool("tpm2_verifysignature", &arguments)?;
    swtpm.flush_transient()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

async fn started(swtpm: &Swtpm, settings: TpmSettings) -> Result<(Tpm, AkInfo)> {
    let (tpm, _, ak) = start(settings, None).await?;
    ensure!(swtpm.transient_handles()?.len() == 1);
    Ok((tpm, ak))
}

#[tokio::test]
async fn keys_by_template_are_those_of_other_tools_and_certify() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let raw = vec![b'a'; 64];
    // H-1 to H-4, and those that are named by type and hash; the last column: tpm2-tools make them here, too.
    for (key, name_alg, judged) in [
        (K::Rsa2048, H::Sha256, true),
        (K::Ecc256, H::Sha256, true),
        (K::Ecc384, H::Sha384, true),
        (K::Ecc521, H::Sha512, false),
        (K::Rsa3072, H::Sha384, true),
        (K::Rsa4096, H::Sha512, false),
    ] {
        let row = format!("{key} {name_alg}");
        let (tpm, ak) = started(&swtpm, settings(&swtpm)).await?;
        let template = DeviceKeySource::Template { key, name_alg };
        let idevid = tpm.device_key(D::IDevId, template.clone()).await;
        if key == K::Rsa4096 && !has_rsa4096(&swtpm)? {
            let text = idevid.err().map(|error| error.to_string()).unwrap_or_default();
            let begin = "this TPM cannot make an IDevID of type rsa4096 with nameAlg sha512 (Keylime option \
                         iak_idevid_template): TPM_RC_";
            ensure!(text.starts_with(begin), "{text}");
            tpm.shutdown().await?;
            continue;
        }
        let idevid = idevid.with_context(|| row.clone())?;
        let data = vec![b"short".to_vec(), raw.clone(), vec![7; 1000]];
        let certified = tpm.certify_ak(template.clone(), data).await.with_context(|| row.clone())?;
        // Again the same key, and only the AK is loaded.
        assert_eq!(tpm.device_key(D::Iak, template).await?, certified.iak_public_2b, "{row}");
        assert_eq!(swtpm.transient_handles()?, [ak.handle], "{row}");
        tpm.shutdown().await?;
        ensure_empty(&swtpm)?;

        let [Some(short), Some(long), None] = &certified.certifications[..] else {
            anyhow::bail!("{row}: {:?}", certified.certifications)
        };
        let name = tpm_wire::public::Public::decode_2b(&ak.public_2b)?.name()?;
        for (certification, data) in [(short, &b"short"[..]), (long, &raw)] {
            judge(&swtpm, &certified.iak_public_2b, name_alg, certification).with_context(|| row.clone())?;
            assert!(contains(&certification.attest, data) && contains(&certification.attest, &name), "{row}");
        }
        if judged {
            for (kind, public_2b) in [(D::IDevId, &idevid), (D::Iak, &certified.iak_public_2b)] {
                assert_eq!(&made_by_tools(&swtpm, kind, key, name_alg, "")?, public_2b, "{row} {kind}");
            }
        }
    }
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn keys_at_handles_with_passwords() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    swtpm.tool("tpm2_changeauth", &["-c", "endorsement", "hierarchy"])?;
    let endorsement_auth = Zeroizing::new(b"hierarchy".to_vec());
    let settings =
        TpmSettings { endorsement_auth, key_alg: K::Ecc256, scheme: SignatureScheme::EcDsa, ..settings(&swtpm) };
    // By template it takes the hierarchy's password.
    let (tpm, _) = started(&swtpm, settings.clone()).await?;
    let template = DeviceKeySource::Template { key: K::Ecc256, name_alg: H::Sha256 };
    let by_template = tpm.device_key(D::IDevId, template.clone()).await?;
    tpm.certify_ak(template.clone(), vec![vec![1]]).await?;
    tpm.shutdown().await?;

    swtpm.tool("tpm2_changeauth", &["-c", "endorsement", "-p", "hierarchy"])?;
    let stored = |kind, password: &str, handle: &str| -> Result<Vec<u8>> {
        let public_2b = made_by_tools(&swtpm, kind, K::Ecc256, H::Sha256, password)?;
        swtpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "key.ctx", handle])?;
        swtpm.flush_transient()?;
        Ok(public_2b)
    };
    assert_eq!(stored(D::IDevId, "device", "0x81020001")?, by_template);
    let iak = stored(D::Iak, "secret", "0x81020000")?;
    let at = |handle, auth: &[u8]| DeviceKeySource::Persistent { handle, auth: Zeroizing::new(auth.to_vec()) };
    let settings = TpmSettings { endorsement_auth: Zeroizing::default(), ..settings };
    let (tpm, _) = started(&swtpm, settings).await?;
    // Only the public part of the IDevID is needed.
    assert_eq!(tpm.device_key(D::IDevId, at(0x8102_0001, b"")).await?, by_template);
    let certified = tpm.certify_ak(at(0x8102_0000, b"secret"), vec![vec![1; 32]]).await?;
    assert_eq!(certified.iak_public_2b, iak);
    let refused = |result: Result<tpm::CertifiedAk, tpm::TpmError>| result.err().map(|error| error.to_string());
    for (source, text) in [
        (
            at(0x8102_0000, b"wrong"),
            "the TPM refuses the IAK's authorization value (Keylime option iak_password): TPM_RC_AUTH_FAIL: wrong \
             authorization value (0xa8e, session 2); each start with a wrong one counts towards the TPM's lockout: stop \
             the service before you correct it",
        ),
        (
            at(0x8102_0009, b""),
            "no usable IAK at persistent handle 0x81020009 (Keylime option iak_handle): the handle is empty",
        ),
        (
            at(0x8101_0001, b""),
            "no usable IAK at persistent handle 0x81010001 (Keylime option iak_handle): the key there is not a signing \
             key",
        ),
        (
            at(0x8102_0001, b"device"),
            "no usable IAK at persistent handle 0x81020001 (Keylime option iak_handle): the key there is not \
             restricted, so what it signs need not come from the TPM",
        ),
    ] {
        assert_eq!(refused(tpm.certify_ak(source, vec![vec![1; 32]]).await).as_deref(), Some(text));
    }
    let error = tpm.device_key(D::IDevId, at(0x8101_0001, b"")).await.err().map(|error| error.to_string());
    assert_eq!(
        error.as_deref(),
        Some(
            "no usable IDevID at persistent handle 0x81010001 (Keylime option idevid_handle): the key there is not a \
             signing key"
        )
    );
    tpm.shutdown().await?;
    ensure_empty(&swtpm)?;
    for certification in certified.certifications.iter().flatten() {
        judge(&swtpm, &iak, H::Sha256, certification)?;
    }

    let tpm = Tpm::open(support::settings(&swtpm)).await?;
    let none = tpm.certify_ak(template, vec![vec![1]]).await;
    assert_eq!(refused(none).as_deref(), Some("no AK has been loaded yet"));
    tpm.shutdown().await?;
    assert_eq!(swtpm.persistent_handles()?.iter().filter(|handle| **handle >> 16 == 0x8102).count(), 2);
    ensure_empty(&swtpm)
}
