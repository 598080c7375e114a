// SPDX-License-Identifier: Apache-2.0
//! The options about selectors: which groups are made, and what they need.

use std::path::PathBuf;
use std::sync::Arc;

use ek_certificate::EkTrust;
use spire_plugin::{Options, Problems};
use tpm_wire::payload::Wanted;
use tpm_wire::pcr::PcrMask;

use super::QuoteVerification;

/// A group of selectors, as `selectors` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    AgentId,
    EkHash,
    Tpm,
    Pcr,
    SecureBoot,
    Policy,
}

const GROUPS: [(&str, Group); 6] = [
    ("agent_id", Group::AgentId),
    ("ek_hash", Group::EkHash),
    ("tpm", Group::Tpm),
    ("pcr", Group::Pcr),
    ("secure_boot", Group::SecureBoot),
    ("policy", Group::Policy),
];

/// The PCR whose log shows secure boot, and the one of the firmware that measured it.
const SECURE_BOOT_PCRS: [u8; 2] = [7, 0];

/// A PCR that any program with access to the TPM can set back to zero (PC Client Platform TPM Profile, "PCR Attributes").
const RESETTABLE_PCR: u8 = 23;

/// Which selectors an attestation makes.
#[derive(Debug)]
pub struct Selection {
    /// `agent_id:…`.
    pub agent_id: bool,
    /// `ek_hash:…`.
    pub ek_hash: bool,
    /// `tpm:…`, with the authorities that EK certificates are verified against.
    pub tpm: Option<Arc<EkTrust>>,
    /// `pcr:…` of these PCRs.
    pub pcrs: PcrMask,
    /// `secure_boot:…`.
    pub secure_boot: bool,
    /// `policy:…`.
    pub policy: bool,
    /// The file or folder of [`Self::tpm`].
    pub ek_ca_path: Option<PathBuf>,
    /// Why [`Self::tpm`] is not what the path has now.
    pub kept: Problems,
}

impl Selection {
    /// Reads the options; `None` after a problem. Authorities that cannot be used may be those of `now`.
    pub(super) fn read(options: &mut Options, verification: QuoteVerification, now: Option<&Self>) -> Option<Self> {
        let given = options.choices("selectors", &GROUPS);
        let groups_read = given.is_some();
        let pcrs = options.numbers("selector_pcrs", 0..=23);
        let pcrs_read = pcrs.is_some();
        let pcrs = pcrs.filter(|list| !list.is_empty());
        let ek_ca_path = options.optional_string("ek_ca_path");

        let insecure = verification == QuoteVerification::InsecureVerifierOnly;
        let groups = given.unwrap_or_else(|| match insecure {
            true => vec![Group::AgentId],
            false => vec![Group::AgentId, Group::EkHash],
        });
        let has = |group| groups.contains(&group);
        if insecure && groups.iter().any(|group| !matches!(group, Group::AgentId | Group::Policy)) {
            options.problem(
                "`selectors`: with `insecure_verifier_only_quote_verification` only `agent_id` and `policy` can be had, \
                 because nothing else is verified",
            );
        }
        for (option, given, group) in
            [("selector_pcrs", pcrs.is_some(), Group::Pcr), ("ek_ca_path", ek_ca_path.is_some(), Group::Tpm)]
        {
            let name = GROUPS.iter().find(|(_, listed)| *listed == group).map_or("", |(name, _)| name);
            // What could not be read has had its problem, and is not missed on top of it.
            let unread = |key, read: bool| !read && options.given(key);
            if unread("selectors", groups_read) || group == Group::Pcr && unread("selector_pcrs", pcrs_read) {
                continue;
            }
            match (given, has(group)) {
                (true, false) => {
                    options.problem(format!("`{option}` needs `{name}` in `selectors`: add it, or remove `{option}`"))
                }
                (false, true) => {
                    options.problem(format!("`selectors`: `{name}` needs `{option}`: set it, or remove `{name}`"))
                }
                _ => {}
            }
        }
        let pcrs = pcrs.unwrap_or_default();
        for (pcr, why) in [(10, "every file that is measured changes it"), (16, "each quote sets it")] {
            if pcrs.contains(&pcr) {
                options.problem(format!("`selector_pcrs`: PCR {pcr} cannot be a selector: {why}"));
            }
        }
        let ek_ca_path = ek_ca_path.map(PathBuf::from).filter(|_| has(Group::Tpm));
        let mut kept = Problems::default();
        let tpm = ek_ca_path.as_deref().and_then(|path| match EkTrust::load(path) {
            Ok(trust) => Some(Arc::new(trust)),
            Err(problems) => {
                // Where all is refused anyway, all problems are told together.
                let old = now.and_then(|now| now.tpm.clone()).filter(|_| options.ok());
                for problem in problems {
                    let text = format!("`ek_ca_path`: {problem}");
                    if old.is_some() { kept.push(text) } else { options.problem(text) }
                }
                old
            }
        });
        options.ok().then(|| Self {
            agent_id: has(Group::AgentId),
            ek_hash: has(Group::EkHash),
            tpm,
            pcrs: pcrs.iter().fold(PcrMask::EMPTY, |mask, pcr| mask.with(*pcr as u8)),
            secure_boot: has(Group::SecureBoot),
            policy: has(Group::Policy),
            ek_ca_path,
            kept,
        })
    }

    /// What the node's quote has to come with.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let firmware = SECURE_BOOT_PCRS.into_iter().filter(|_| self.secure_boot);
        Wanted { pcrs: firmware.fold(self.pcrs, PcrMask::with), boot_log: self.secure_boot }
    }

    /// The files that were read, and the path that they were found by: in a folder one may be added.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.ek_ca_path.iter().cloned().chain(self.tpm.iter().flat_map(|trust| trust.files())).collect()
    }

    /// What should be put right although it works.
    pub(super) fn warnings(&self) -> Vec<String> {
        let strays =
            self.tpm.iter().flat_map(|trust| trust.certificates()).filter(|certificate| !certificate.reaches_anchor);
        let resettable = self.pcrs.contains(RESETTABLE_PCR).then(|| {
            "selector_pcrs: PCR 23 is no evidence of how the host booted: any program with access to the TPM can reset it"
                .to_owned()
        });
        let strays = strays.map(|certificate| {
            format!(
                "ek_ca_path: \"{}\" in {} does not lead to a root of the store, so no TPM is verified by it: add the \
                     certificate of its issuer",
                certificate.subject,
                certificate.file.display()
            )
        });
        resettable.into_iter().chain(strays).collect()
    }
}
