// SPDX-License-Identifier: Apache-2.0
//! EK, certificates, AK and credential activation against a software TPM.

mod support;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fs;
use support::{all_banks, ensure_empty, has_rsa4096, plain_swtpm, request, settings, start, swtpm, verify};
use test_support::{Swtpm, SwtpmOptions};
use tpm::{AkRejected, EkSource, ParsedCredential, SavedAk, Tpm, TpmError, TpmSettings};
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};
use tpm_wire::pcr::PcrMask;
use tpm_wire::public::Public;
use zeroize::Zeroizing;

/// The error of a call that must fail.
fn refusal<T>(result: Result<T, tpm::TpmError>) -> Result<String> {
    match result {
        Ok(_) => anyhow::bail!("must be refused"),
        Err(error) => Ok(error.to_string()),
    }
}

/// Makes a credential for these keys with tpm2-tools and returns what a registrar would send.
fn make_credential(swtpm: &Swtpm, ek_2b: &[u8], ak_2b: &[u8], secret: &[u8]) -> Result<ParsedCredential> {
    let name = hex::encode(Public::decode_2b(ak_2b)?.name()?);
    let folder = swtpm.scratch();
    fs::write(folder.join("ek.pub"), ek_2b)?;
    fs::write(folder.join("secret"), secret)?;
    swtpm.tool("tpm2_makecredential", &["-u", "ek.pub", "-s", "secret", "-n", &name, "-o", "credential"])?;
    let blob = fs::read(folder.join("credential"))?;
    let sized = |at: usize| -> Result<(Vec<u8>, usize)> {
        let (size, rest) = blob.get(at..).and_then(<[u8]>::split_first_chunk).context("short")?;
        let length = usize::from(u16::from_be_bytes(*size));
        Ok((rest.get(..length).context("short")?.to_vec(), at + 2 + length))
    };
    // Magic and version, then the two structures.
    let (id_object, next) = sized(8)?;
    let (encrypted_secret, end) = sized(next)?;
    ensure!(end == blob.len());
    Ok(ParsedCredential { id_object, encrypted_secret })
}

#[tokio::test]
async fn the_ek_by_template_is_the_one_the_vendor_certified() -> Result<()> {
    let Some(swtpm) = swtpm(SwtpmOptions::default()).await? else { return Ok(()) };
    let tpm = Tpm::open(settings(&swtpm)).await?;
    let ek = tpm.create_ek().await?;
    assert_eq!(ek.certificate.as_deref(), Some(&swtpm.ek_certificate()?[..]));
    assert!(ek.certificate_is_der && ek.certificate_problem.is_none() && ek.chain_problem.is_none());
    assert_eq!(ek.certificate_chain, Vec::<Vec<u8>>::new());
    let start = "013a0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa0006008000430010080000000000";
    assert!(hex::encode(&ek.public_2b).starts_with(start));
    let base64: String = ek.spki_pem.lines().filter(|line| !line.starts_with('-')).collect();
    let spki = STANDARD.decode(base64)?;
    let certificate = ek.certificate.unwrap_or_default();
    assert!(certificate.windows(spki.len()).any(|part| part == spki), "the certificate is for another key");

    assert!(tpm.vendor_is_software().await?);
    // One that is there is not asked for again, and one that is not is made and not read.
    let sent = tpm.commands_sent();
    tpm.ensure_ek().await?;
    assert_eq!(tpm.commands_sent(), sent);
    tpm.flush_ek().await?;
    let sent = tpm.commands_sent();
    tpm.ensure_ek().await?;
    let made = tpm.commands_sent() - sent;
    tpm.flush_ek().await?;
    let sent = tpm.commands_sent();
    tpm.create_ek().await?;
    let made_and_read = tpm.commands_sent() - sent;
    assert!(0 < made && made < made_and_read, "{made} {made_and_read}");
    tpm.shutdown().await?;

    let persistent = TpmSettings { ek: EkSource::Persistent(0x8101_0001), ..settings(&swtpm) };
    let (tpm, same, _) = start_and_activate(&swtpm, persistent).await?;
    assert_eq!(same.public_2b, ek.public_2b);
    tpm.shutdown().await?;
    assert!(swtpm.persistent_handles()?.contains(&0x8101_0001));
    ensure_empty(&swtpm)
}

/// A whole start with a credential activated by the right keys.
async fn start_and_activate(swtpm: &Swtpm, settings: TpmSettings) -> Result<(Tpm, tpm::EkInfo, tpm::AkInfo)> {
    let tpm = Tpm::open(settings).await?;
    let ek = tpm.create_ek().await?;
    let ak = tpm.load_or_create_ak(None).await?;
    let secret = b"32 letters and digits, as agreed";
    let credential = make_credential(swtpm, &ek.public_2b, &ak.public_2b, secret)?;
    let recovered = tpm.activate_credential(credential.clone()).await?;
    assert_eq!(recovered.as_slice(), secret);
    tpm.flush_ek().await?;
    // A later registration: the EK is made again as needed.
    assert_eq!(tpm.activate_credential(credential).await?.as_slice(), secret);
    tpm.flush_ek().await?;
    Ok((tpm, ek, ak))
}

#[tokio::test]
async fn every_key_type_activates_and_quotes() -> Result<()> {
    use {HashAlgorithm as H, KeyAlgorithm as K, SignatureScheme as S};
    let options = SwtpmOptions { banks: all_banks(), ek_certificate: false, ..SwtpmOptions::default() };
    let Some(swtpm) = swtpm(options).await? else { return Ok(()) };
    // The third column says whether Keylime's verifiers, and so ours, take such quotes.
    let rows = [
        (H::Sha256, K::Rsa2048, S::RsaSsa, true),
        (H::Sha256, K::Rsa2048, S::RsaPss, false),
        (H::Sha512, K::Rsa3072, S::RsaSsa, true),
        (H::Sha256, K::Ecc256, S::EcDsa, true),
        (H::Sha256, K::Ecc256, S::EcSchnorr, false),
        (H::Sha384, K::Ecc384, S::EcDsa, true),
        (H::Sha512, K::Ecc521, S::EcDsa, true),
        (H::Sha1, K::Ecc256, S::EcDsa, false),
        (H::Sha512, K::Rsa4096, S::RsaSsa, true),
    ];
    for (hash, key_alg, scheme, accepted) in rows {
        let row = format!("{hash} {key_alg} {scheme}");
        let settings = TpmSettings { hash, key_alg, scheme, ..settings(&swtpm) };
        if key_alg == K::Rsa4096 && !has_rsa4096(&swtpm)? {
            let tpm = Tpm::open(settings).await?;
            assert_eq!(
                refusal(tpm.create_ek().await)?,
                "this TPM cannot make an EK of type rsa4096 (Keylime option tpm_encryption_alg): TPM_RC_VALUE (0x2c4, \
                 parameter 2)"
            );
            tpm.shutdown().await?;
            continue;
        }
        let (tpm, ek, ak) = start_and_activate(&swtpm, settings).await.with_context(|| row.clone())?;
        assert_eq!(ek.certificate, None, "{row}");
        let request = request(hash, PcrMask::EMPTY.with(10))?;
        let nonce = request.nonce.clone();
        let quote = tpm.quote(request).await.with_context(|| row.clone())?;
        let verified = verify(&quote, &ak.public_2b, &nonce, hash);
        assert_eq!(verified.is_ok(), accepted, "{row}: {verified:?}");
        tpm.shutdown().await?;
        ensure_empty(&swtpm).with_context(|| row.clone())?;
    }
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn a_saved_ak_is_reused_and_never_by_mistake() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, first) = start(settings(&swtpm), None).await?;
    assert!(hex::encode(&first.public_2b).starts_with("01180001000b00050072000000100014000b0800000000000100"));
    assert_eq!(first.saved.public, first.public_2b[2..]);
    tpm.shutdown().await?;
    ensure_empty(&swtpm)?;

    let (tpm, _, again) = start(settings(&swtpm), Some(first.saved.clone())).await?;
    assert_eq!(again.public_2b, first.public_2b);
    assert_eq!(again.saved, first.saved);
    assert_eq!(swtpm.transient_handles()?, [again.handle]);
    tpm.shutdown().await?;

    use {AkRejected as R, KeyAlgorithm as K, SignatureScheme as S};
    let good = &first.saved;
    let mut damaged = good.clone();
    if let Some(last) = damaged.private.last_mut() {
        *last ^= 1;
    }
    let cut = SavedAk { public: good.public.clone(), private: good.private[..9].to_vec() };
    let huge = SavedAk { public: good.public.clone(), private: vec![0; 70_000] };
    let empty = SavedAk::default();
    let ecc = TpmSettings { key_alg: K::Ecc256, scheme: S::EcDsa, ..settings(&swtpm) };
    let pss = TpmSettings { scheme: S::RsaPss, ..settings(&swtpm) };
    let sha1 = TpmSettings { hash: HashAlgorithm::Sha1, ..settings(&swtpm) };
    let integrity = tpm::ResponseCode(0x1DF);
    let rows = [
        (ecc, good, R::OtherSettings),
        (pss, good, R::OtherSettings),
        (sha1, good, R::OtherSettings),
        (settings(&swtpm), &empty, R::OtherSettings),
        (settings(&swtpm), &huge, R::TooLong),
        (settings(&swtpm), &damaged, R::Refused(integrity)),
        (settings(&swtpm), &cut, R::Refused(tpm::ResponseCode(0x1DA))),
    ];
    for (settings, saved, reason) in rows {
        let row = format!("{settings:?} {saved:?}");
        let tpm = Tpm::open(settings).await.with_context(|| row.clone())?;
        tpm.create_ek().await.with_context(|| row.clone())?;
        let refused = tpm.load_or_create_ak(Some(saved.clone())).await.map(drop);
        assert!(matches!(refused, Err(TpmError::AkRejected(found)) if found == reason), "{row}: {refused:?}");
        tpm.shutdown().await?;
        ensure_empty(&swtpm)?;
    }
    let other = Swtpm::start(support::plain())?;
    let tpm = Tpm::open(settings(&other)).await?;
    let text = refusal(tpm.load_or_create_ak(Some(good.clone())).await)?;
    let cause = "this TPM does not accept it, it was made by another TPM or is damaged: TPM_RC_INTEGRITY: the \
                 integrity check failed (0x1df, parameter 1)";
    assert_eq!(text, format!("the saved AK cannot be used: {cause}"));
    tpm.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn credentials_for_other_keys_are_refused() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let tpm = Tpm::open(settings(&swtpm)).await?;
    let ek = tpm.create_ek().await?;
    let none = ParsedCredential { id_object: vec![0; 34], encrypted_secret: vec![0; 256] };
    assert_eq!(refusal(tpm.activate_credential(none).await)?, "no AK has been loaded yet");
    let ak = tpm.load_or_create_ak(None).await?;
    let good = make_credential(&swtpm, &ek.public_2b, &ak.public_2b, b"secret")?;

    let mut wrong_ak = ak.public_2b.clone();
    if let Some(last) = wrong_ak.last_mut() {
        *last ^= 1;
    }
    let for_other_ak = make_credential(&swtpm, &ek.public_2b, &wrong_ak, b"secret")?;
    let text = "the credential was not made for this TPM's EK and AK: ";
    assert!(refusal(tpm.activate_credential(for_other_ak).await)?.starts_with(text));
    let mut damaged = good.clone();
    if let Some(last) = damaged.id_object.last_mut() {
        *last ^= 1;
    }
    let refused = refusal(tpm.activate_credential(damaged).await)?;
    assert!(refused.starts_with(text), "{refused}");
    let huge = ParsedCredential { id_object: vec![1; 70_000], ..good.clone() };
    let text = "the credential is too long for the TPM: 70000 bytes, at most 1024";
    assert_eq!(refusal(tpm.activate_credential(huge).await)?, text);

    assert_eq!(tpm.activate_credential(good).await?.as_slice(), b"secret");
    tpm.shutdown().await?;
    ensure_empty(&swtpm)
}

/// Stores bytes in an NV index of this size, filled up with 0xFF.
fn store(swtpm: &Swtpm, index: &str, bytes: &[u8], size: usize, attributes: &str) -> Result<()> {
    let mut all = bytes.to_vec();
    all.resize(size, 0xFF);
    fs::write(swtpm.scratch().join("nv"), all)?;
    let attributes = format!("ownerwrite|{attributes}");
    swtpm.tool("tpm2_nvdefine", &[index, "-C", "o", "-s", &size.to_string(), "-a", &attributes])?;
    swtpm.tool("tpm2_nvwrite", &[index, "-C", "o", "-i", "nv"]).map(drop)
}

#[tokio::test]
async fn certificates_are_cut_out_of_padded_indexes() -> Result<()> {
    let Some(swtpm) = swtpm(SwtpmOptions::default()).await? else { return Ok(()) };
    let certificate = swtpm.ek_certificate()?;
    let p256 = TpmSettings { key_alg: KeyAlgorithm::Ecc256, scheme: SignatureScheme::EcDsa, ..settings(&swtpm) };
    let read = async || {
        let tpm = Tpm::open(p256.clone()).await?;
        let ek = tpm.create_ek().await?;
        tpm.shutdown().await?;
        anyhow::Ok(ek)
    };
    let ek = read().await?;
    assert_eq!((ek.certificate, ek.certificate_chain.len()), (None, 0));

    // An index that was defined but never written counts as absent.
    swtpm.tool("tpm2_nvdefine", &["0x01C0000A", "-C", "o", "-s", "1600", "-a", "ownerwrite|ownerread"])?;
    let ek = read().await?;
    assert!(ek.certificate.is_none() && ek.certificate_problem.is_none());
    swtpm.tool("tpm2_nvundefine", &["0x01C0000A", "-C", "o"])?;

    store(&swtpm, "0x01C0000A", &certificate, 1600, "ownerread|authread")?;
    // A certificate over two indexes and a second one behind it, then padding.
    let (head, tail) = certificate.split_at(300);
    store(&swtpm, "0x01C00100", head, head.len(), "ownerread")?;
    store(&swtpm, "0x01C00101", &[tail, &certificate].concat(), 1800, "ownerread")?;
    let ek = read().await?;
    assert_eq!(ek.certificate.as_ref(), Some(&certificate));
    assert!(ek.certificate_is_der);
    assert_eq!(ek.certificate_chain, [certificate.clone(), certificate.clone()]);

    swtpm.tool("tpm2_nvundefine", &["0x01C0000A", "-C", "o"])?;
    store(&swtpm, "0x01C0000A", b"no certificate", 20, "ownerread")?;
    let ek = read().await?;
    assert_eq!(ek.certificate.as_deref(), Some(&b"no certificate\xFF\xFF\xFF\xFF\xFF\xFF"[..]));
    assert!(!ek.certificate_is_der);

    swtpm.tool("tpm2_nvundefine", &["0x01C0000A", "-C", "o"])?;
    store(&swtpm, "0x01C0000A", &certificate, 1600, "ppread")?;
    swtpm.tool("tpm2_nvundefine", &["0x01C00101", "-C", "o"])?;
    store(&swtpm, "0x01C00101", b"x", 1, "policyread")?;
    let ek = read().await?;
    assert!(ek.certificate.is_none() && ek.certificate_chain.is_empty());
    let texts = [ek.certificate_problem, ek.chain_problem].map(|error| error.map(|error| error.to_string()));
    let expected =
        ["NV index 0x01c0000a cannot be read by its owner", "NV index 0x01c00101 cannot be read by its owner"];
    assert_eq!(texts, expected.map(|text| Some(text.to_owned())));
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn the_endorsement_authorization_is_used_everywhere_it_is_needed() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    swtpm.tool("tpm2_changeauth", &["-c", "endorsement", "right"])?;
    let with = |value: &[u8]| TpmSettings { endorsement_auth: Zeroizing::new(value.to_vec()), ..settings(&swtpm) };
    let (tpm, _, _) = start_and_activate(&swtpm, with(b"right")).await?;
    tpm.shutdown().await?;
    let text = "the TPM refuses the endorsement hierarchy's authorization value (Keylime option tpm_ownerpassword): \
                TPM_RC_BAD_AUTH: wrong authorization value (0x9a2, session 1)";
    for ek in [EkSource::Template, EkSource::Persistent(0x8101_0001)] {
        let tpm = Tpm::open(TpmSettings { ek, ..with(b"wrong") }).await?;
        let outcome = match tpm.create_ek().await {
            Ok(_) => tpm.load_or_create_ak(None).await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(refusal(outcome)?, text);
        tpm.shutdown().await?;
    }
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn each_range_has_its_certificate_index() -> Result<()> {
    use KeyAlgorithm as K;
    let options = SwtpmOptions { rsa_bits: 3072, banks: all_banks(), ..SwtpmOptions::default() };
    let Some(swtpm) = swtpm(options).await? else { return Ok(()) };
    // Those that come with the TPM: RSA-3072 and P-384, by template and where the maker has stored the keys.
    for (key_alg, scheme, handle, index) in [
        (K::Rsa3072, SignatureScheme::RsaSsa, 0x8101_001C, "0x01c0001c"),
        (K::Ecc384, SignatureScheme::EcDsa, 0x8101_0016, "0x01c00016"),
    ] {
        swtpm.tool("tpm2_nvread", &[index, "--output", "certificate"])?;
        let certificate = fs::read(swtpm.scratch().join("certificate"))?;
        for ek in [EkSource::Template, EkSource::Persistent(handle)] {
            let settings = TpmSettings { key_alg, scheme, ek, ..settings(&swtpm) };
            let (tpm, ek, _) =
                start_and_activate(&swtpm, settings).await.with_context(|| format!("{key_alg} {ek:?}"))?;
            assert_eq!(ek.certificate.as_ref(), Some(&certificate), "{key_alg}");
            tpm.shutdown().await?;
        }
    }
    // RSA-2048 and P-256 have both ranges; the maker may have stored keys and certificates of the high one only.
    for (key_alg, scheme, family, low, high, handle) in [
        (K::Rsa2048, SignatureScheme::RsaSsa, "rsa", "0x01C00002", 0x01C0_0012, 0x8101_0012),
        (K::Ecc256, SignatureScheme::EcDsa, "ecc", "0x01C0000A", 0x01C0_0014, 0x8101_0014),
    ] {
        high_range_ek(&swtpm, family, handle)?;
        let der = |text: &[u8; 4]| [&[0x30, 4][..], text].concat();
        store(&swtpm, &format!("{high:#010x}"), &der(b"high"), 40, "ownerread")?;
        let with = |ek| TpmSettings { key_alg, scheme, ek, ..settings(&swtpm) };
        let (tpm, ek, _) = start_and_activate(&swtpm, with(EkSource::Persistent(handle))).await?;
        assert_eq!(ek.certificate, Some(der(b"high")), "{key_alg}");
        tpm.shutdown().await?;
        // The EK by template is that of the low range, whatever the TPM has certificates for: it must not change.
        let (tpm, by_template, _) = start_and_activate(&swtpm, with(EkSource::Template)).await?;
        assert_ne!(by_template.public_2b, ek.public_2b);
        assert_eq!((by_template.certificate, by_template.other_certificate), (None, Some(high)), "{key_alg}");
        tpm.shutdown().await?;
        store(&swtpm, low, &der(b"low."), 40, "ownerread")?;
        let (tpm, by_template, _) = start_and_activate(&swtpm, with(EkSource::Template)).await?;
        let found = (by_template.certificate, by_template.other_certificate);
        assert_eq!(found, (Some(der(b"low.")), None), "{key_alg}");
        tpm.shutdown().await?;
    }
    ensure_empty(&swtpm)
}

/// Makes an EK by template H-1 or H-2 (TCG EK Credential Profile) and stores it at this handle.
fn high_range_ek(swtpm: &Swtpm, family: &str, handle: u32) -> Result<()> {
    let policy = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0";
    fs::write(swtpm.scratch().join("policy"), hex::decode(policy)?)?;
    let algorithm = if family == "rsa" { "rsa2048:null:aes128cfb" } else { "ecc256:null:aes128cfb" };
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt";
    let create = ["-C", "e", "-g", "sha256", "-G", algorithm, "-L", "policy", "-a", attributes, "-c", "ek.ctx"];
    swtpm.tool("tpm2_createprimary", &create)?;
    swtpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "ek.ctx", &format!("{handle:#x}")])?;
    swtpm.flush_transient()
}

#[tokio::test]
async fn certificates_are_read_where_the_owner_has_a_password() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let certificate = [&[0x30, 4][..], b"cert"].concat();
    store(&swtpm, "0x01C00002", &certificate, 40, "ownerread")?;
    store(&swtpm, "0x01C00100", &certificate, 40, "ownerread|authread")?;
    swtpm.tool("tpm2_changeauth", &["-c", "endorsement", "secret"])?;
    let read = async || {
        let endorsement_auth = Zeroizing::new(b"secret".to_vec());
        let tpm = Tpm::open(TpmSettings { endorsement_auth, ..settings(&swtpm) }).await?;
        let ek = tpm.create_ek().await?;
        tpm.shutdown().await?;
        anyhow::Ok(ek)
    };
    // The owner has none, the same, another one.
    for (change, problem) in [
        (None, None),
        (Some(&["-c", "owner", "secret"][..]), None),
        (
            Some(&["-c", "owner", "-p", "secret", "other"][..]),
            Some(
                "the TPM refuses the owner hierarchy's authorization value for NV index 0x01c00002 (Keylime option \
                 tpm_ownerpassword, or none): TPM_RC_BAD_AUTH: wrong authorization value (0x9a2, session 1)",
            ),
        ),
    ] {
        if let Some(change) = change {
            swtpm.tool("tpm2_changeauth", change)?;
        }
        let ek = read().await?;
        let expected = if problem.is_none() { Some(&certificate) } else { None };
        assert_eq!(ek.certificate.as_ref(), expected);
        assert_eq!(ek.certificate_problem.map(|error| error.to_string()).as_deref(), problem);
        // Its own authorization value is enough for this one.
        assert_eq!(ek.certificate_chain, std::slice::from_ref(&certificate));
    }
    // No wrong value has counted towards a lockout.
    let properties = swtpm.tool("tpm2_getcap", &["properties-variable"])?;
    assert!(properties.contains("TPM2_PT_LOCKOUT_COUNTER: 0x0"), "{properties}");
    ensure_empty(&swtpm)
}

#[tokio::test]
async fn an_unusable_persistent_ek_is_explained() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    swtpm.tool("tpm2_createprimary", &["-C", "o", "-c", "primary.ctx"])?;
    swtpm.tool(
        "tpm2_create",
        &["-C", "primary.ctx", "-c", "key.ctx", "-u", "k.pub", "-r", "k.priv", "-G", "ecc:ecdsa"],
    )?;
    swtpm.flush_transient()?;
    swtpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "key.ctx", "0x81000005"])?;
    swtpm.flush_transient()?;
    let rows = [
        (
            0x8101_0009,
            "no usable EK at persistent handle 0x81010009: the handle is empty; set `ek_handle` to `generate` or store the EK there",
        ),
        (0x8100_0005, "no usable EK at persistent handle 0x81000005: the key there is not a restricted decryption key"),
    ];
    for (handle, text) in rows {
        let tpm = Tpm::open(TpmSettings { ek: EkSource::Persistent(handle), ..settings(&swtpm) }).await?;
        assert_eq!(refusal(tpm.create_ek().await)?, text);
        tpm.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_bank_that_is_not_active_is_named_with_those_that_are() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let text = refusal(Tpm::open(TpmSettings { hash: HashAlgorithm::Sha384, ..settings(&swtpm) }).await)?;
    assert_eq!(
        text,
        "the TPM has no active sha384 PCR bank (active: sha1, sha256): choose one of these, or activate it with \
         `tpm2_pcrallocate sha384:all` and a reboot"
    );
    Ok(())
}
