// SPDX-License-Identifier: Apache-2.0
use keylime_api::state::{AgentState, OperationalState};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::pcr::PcrMask;

use super::*;

/// TPM2B_PUBLIC of an RSA-2048 key; any public key will do for an EK.
fn some_ek() -> Vec<u8> {
    let mut public = vec![0x00, 0x01, 0x00, 0x0b];
    public.extend(0x0003_00b2_u32.to_be_bytes());
    public.extend([0, 0, 0, 0x06, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0]);
    public.extend([0xc1; 256]);
    [&u16::try_from(public.len()).unwrap().to_be_bytes()[..], &public].concat()
}

fn registrar(ek_tpm: Option<Vec<u8>>) -> RegistrarAgent {
    RegistrarAgent { aik_tpm: vec![], ek_tpm, ek_certificate: None }
}

fn verifier(runtime: bool, measured_boot: bool, pcrs: &[u8]) -> VerifierAgent {
    VerifierAgent {
        state: AgentState::Pull(OperationalState::GetQuote),
        attestation_count: 1,
        last_successful_attestation: 1,
        maximum_attestation_interval: None,
        hash_alg: None,
        last_event_id: None,
        has_runtime_policy: runtime,
        has_measured_boot_policy: measured_boot,
        expected_pcrs: mask(pcrs),
        answer_date: SystemTime::UNIX_EPOCH,
    }
}

fn mask(pcrs: &[u8]) -> PcrMask {
    pcrs.iter().fold(PcrMask::EMPTY, |mask, pcr| mask.with(*pcr))
}

fn nothing() -> Selection {
    Selection {
        agent_id: false,
        ek_hash: false,
        tpm: None,
        pcrs: PcrMask::EMPTY,
        secure_boot: false,
        policy: false,
        ek_ca_path: None,
        kept: spire_plugin::Problems::default(),
    }
}

#[test]
fn everything_comes_in_the_documented_order() {
    let id = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000".parse().unwrap();
    let pcrs = PcrValues::new(HashAlgorithm::Sha256, [(4, vec![4; 32]), (7, vec![7; 32])].into()).unwrap();
    let registrar = registrar(Some(some_ek()));
    let verifier = verifier(true, true, &[23, 7]);
    let evidence = Evidence {
        id: &id,
        registrar: Some(&registrar),
        pcrs: Some(&pcrs),
        boot_log: None,
        verifier: &verifier,
        now: SystemTime::UNIX_EPOCH,
    };
    let selection = Selection { agent_id: true, ek_hash: true, pcrs: mask(&[7, 4]), policy: true, ..nothing() };
    let made = Selectors::of(&selection, &evidence);
    let der = Public::decode_2b(&some_ek()).unwrap().to_spki_der();
    assert_eq!(made.left_out, [""; 0]);
    assert_eq!(
        made.values,
        [
            "agent_id:d432fbb3-d2f1-4a97-9ef7-75bd81c00000".to_owned(),
            format!("ek_hash:sha256:{}", hex::encode(digest(&SHA256, &der))),
            format!("pcr:sha256:4:{}", "04".repeat(32)),
            format!("pcr:sha256:7:{}", "07".repeat(32)),
            "policy:runtime".to_owned(),
            "policy:measured_boot".to_owned(),
            "policy:pcr:7".to_owned(),
            "policy:pcr:23".to_owned(),
        ]
    );
    assert_eq!(Selectors::of(&nothing(), &evidence), Selectors::default());
}

#[test]
fn what_is_not_there_is_left_out_with_its_reason() {
    let id = "host".parse().unwrap();
    let pcrs = |pcr| PcrValues::new(HashAlgorithm::Sha256, [(pcr, vec![1; 32]), (16, vec![1; 32])].into()).unwrap();
    let (firmware, other) = (pcrs(0), pcrs(1));
    let (no_ek, bad_ek, no_policy) = (registrar(None), registrar(Some(vec![1, 2])), verifier(false, false, &[]));
    let evidence = |registrar, boot_log, pcrs| Evidence {
        id: &id,
        registrar: Some(registrar),
        pcrs: Some(pcrs),
        boot_log,
        verifier: &no_policy,
        now: SystemTime::UNIX_EPOCH,
    };
    let old = "its agent plugin is an older one, or its Keylime agent gave no such quote (see its own log)";
    for (selection, evidence, reason) in [
        (
            Selection { ek_hash: true, ..nothing() },
            evidence(&no_ek, None, &firmware),
            "ek_hash: the registrar holds no EK of this host".to_owned(),
        ),
        (
            Selection { ek_hash: true, ..nothing() },
            evidence(&bad_ek, None, &firmware),
            "ek_hash: the registrar's EK is not usable: ".to_owned(),
        ),
        (
            Selection { pcrs: mask(&[7]), ..nothing() },
            evidence(&no_ek, None, &firmware),
            format!("pcr: the node's quote does not cover PCR 7: {old}"),
        ),
        (
            Selection { secure_boot: true, ..nothing() },
            evidence(&no_ek, Some(b"any log"), &other),
            format!("secure_boot: the node's quote does not cover PCR 0: {old}"),
        ),
        (
            Selection { secure_boot: true, ..nothing() },
            evidence(&no_ek, None, &firmware),
            format!("secure_boot: the node sent no boot log: {old}"),
        ),
        (
            Selection { secure_boot: true, ..nothing() },
            evidence(&no_ek, Some(b"not a log"), &firmware),
            "secure_boot: the node's boot log is malformed: ".to_owned(),
        ),
    ] {
        let made = Selectors::of(&selection, &evidence);
        assert!(made.values.is_empty(), "{made:?}");
        let [left_out] = &made.left_out[..] else { panic!("{made:?}") };
        assert!(left_out.starts_with(&reason), "{left_out}");
    }
    let made = Selectors::of(&Selection { policy: true, ..nothing() }, &evidence(&no_ek, None, &firmware));
    assert_eq!(made, Selectors::default());
}
