// SPDX-License-Identifier: Apache-2.0
//! Selectors: what an attestation has verified about a host, as values that registration entries
//! can ask for.
//!
//! A value stands for something that was verified in this very attestation, or it is not there. The
//! node can leave evidence out, and then lacks the selectors that need it, but cannot make any up.

use std::time::SystemTime;

use boot_log::{BootLog, SecureBoot};
use keylime_api::AgentId;
use keylime_api::registrar::RegistrarAgent;
use keylime_api::verifier::VerifierAgent;
use ring::digest::{SHA256, digest};
use tpm_wire::pcr::PcrValues;
use tpm_wire::public::Public;

use crate::config::Selection;

/// What was verified in an attestation.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The id that the quote was verified for.
    pub id: &'a AgentId,
    /// The registrar's record; its EK and AK were proven to be in one TPM when the host registered.
    pub registrar: Option<&'a RegistrarAgent>,
    /// The PCR values in the node's verified quote.
    pub pcrs: Option<&'a PcrValues>,
    /// The boot log that came with it, verified by nothing so far.
    pub boot_log: Option<&'a [u8]>,
    /// The verifier's last record.
    pub verifier: &'a VerifierAgent,
    /// When EK certificates have to be valid.
    pub now: SystemTime,
}

/// The selectors of one attestation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// The values, in the order of the documentation.
    pub values: Vec<String>,
    /// What could not be made, and why; for the log.
    pub left_out: Vec<String>,
}

impl Selectors {
    /// Makes the selectors that `selection` asks for.
    #[must_use]
    pub fn of(selection: &Selection, evidence: &Evidence<'_>) -> Self {
        let mut selectors = Self::default();
        if selection.agent_id {
            selectors.values.push(format!("agent_id:{}", evidence.id));
        }
        if selection.ek_hash {
            selectors.add("ek_hash", ek(evidence).map(|ek| vec![ek_hash(&ek)]));
        }
        if let Some(trust) = &selection.tpm {
            selectors.add("tpm", tpm(trust, evidence));
        }
        if !selection.pcrs.is_empty() {
            selectors.pcrs(selection, evidence);
        }
        if selection.secure_boot {
            selectors.add("secure_boot", secure_boot(evidence).map(|state| vec![state]));
        }
        if selection.policy {
            selectors.values.extend(policy(evidence.verifier));
        }
        selectors
    }

    fn add(&mut self, group: &str, made: Result<Vec<String>, String>) {
        match made {
            Ok(values) => self.values.extend(values),
            Err(why) => self.left_out.push(format!("{group}: {why}")),
        }
    }

    fn pcrs(&mut self, selection: &Selection, evidence: &Evidence<'_>) {
        let Some(pcrs) = evidence.pcrs else { return };
        for pcr in selection.pcrs.iter() {
            let made = match pcrs.get(pcr) {
                Some(value) => Ok(vec![format!("pcr:{}:{pcr}:{}", pcrs.bank(), hex::encode(value))]),
                None => Err(format!("the node's quote does not cover PCR {pcr}: {OLD_NODE}")),
            };
            self.add("pcr", made);
        }
    }
}

/// The PCR that tells one firmware from another.
const FIRMWARE_PCR: u8 = 0;

const OLD_NODE: &str = "its agent plugin is an older one, or its Keylime agent gave no such quote (see its own log)";

fn ek(evidence: &Evidence<'_>) -> Result<Public, String> {
    let ek = evidence.registrar.and_then(|registrar| registrar.ek_tpm.as_deref());
    let ek = ek.ok_or("the registrar holds no EK of this host")?;
    Public::decode_2b(ek).map_err(|error| format!("the registrar's EK is not usable: {error}"))
}

fn ek_hash(ek: &Public) -> String {
    format!("ek_hash:sha256:{}", hex::encode(digest(&SHA256, &ek.to_spki_der())))
}

fn tpm(trust: &ek_certificate::EkTrust, evidence: &Evidence<'_>) -> Result<Vec<String>, String> {
    let ek = ek(evidence)?;
    let certificate = evidence.registrar.and_then(|registrar| registrar.ek_certificate.as_deref());
    let certificate = certificate.ok_or("the registrar holds no EK certificate of this host")?;
    let model = trust.verify(certificate, &ek, evidence.now).map_err(|error| error.to_string())?;
    let values = [("manufacturer", model.manufacturer), ("model", model.model), ("version", model.version)];
    // Some makers leave one of the three empty.
    let given = values.into_iter().filter(|(_, value)| !value.is_empty());
    Ok(given.map(|(name, value)| format!("tpm:{name}:{value}")).collect())
}

fn secure_boot(evidence: &Evidence<'_>) -> Result<String, String> {
    let pcrs = evidence.pcrs.ok_or("no quote was verified")?;
    // Without it nothing ties the log to the firmware that wrote it.
    if pcrs.get(FIRMWARE_PCR).is_none() {
        return Err(format!("the node's quote does not cover PCR {FIRMWARE_PCR}: {OLD_NODE}"));
    }
    let log = evidence.boot_log.ok_or_else(|| format!("the node sent no boot log: {OLD_NODE}"))?;
    let log = BootLog::parse(log).map_err(|error| format!("the node's boot log is malformed: {error}"))?;
    let log = log.verify(pcrs).map_err(|error| format!("the node's boot log does not stand for its PCRs: {error}"))?;
    match log.secure_boot() {
        SecureBoot::On => Ok("secure_boot:on".to_owned()),
        SecureBoot::Off => Ok("secure_boot:off".to_owned()),
        _ => Err("the node's boot log does not show it".to_owned()),
    }
}

fn policy(record: &VerifierAgent) -> Vec<String> {
    let mut values = Vec::new();
    if record.has_runtime_policy {
        values.push("policy:runtime".to_owned());
    }
    if record.has_measured_boot_policy {
        values.push("policy:measured_boot".to_owned());
    }
    values.extend(record.expected_pcrs.iter().map(|pcr| format!("policy:pcr:{pcr}")));
    values
}

#[cfg(test)]
mod tests;
