// SPDX-License-Identifier: Apache-2.0
//! The options in the plugin's HCL block, and what is built from them.

mod keylime;
mod selection;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keylime_api::HttpSettings;
use keylime_api::pool::{RegistrarPool, VerifierPool, WarmUp};
use spire_plugin::options::plugins;
use spire_plugin::spiffe::SpiffeIdError;
use spire_plugin::{CoreConfig, LoadedCertificate, Options, PluginConfig, Problems, SpiffeId, TrustDomain};
use tracing::{info, warn};

pub use selection::Selection;

use keylime::Keylime;

/// Bounds of every call to the verifier and the registrar.
const HTTP: HttpSettings = HttpSettings {
    connect_timeout: Duration::from_secs(3),
    total_timeout: Duration::from_secs(10),
    // A verifier's record of a host carries its whole TPM policy.
    max_body: 1 << 20,
};

/// What `maximum_attestation_interval` may be: shorter than a quote interval would refuse every
/// host now and then, longer than a day would be no check.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// What `wait_for_verification` may be: a first round takes seconds, and SPIRE waits as long.
const WAITS: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(5 * 60);

/// Who verifies the signature, nonce and digest of the node's quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuoteVerification {
    /// This plugin, then the verifier.
    Both,
    /// This plugin alone.
    Local,
    /// The verifier alone, by an option that says `insecure`.
    InsecureVerifierOnly,
}

/// One accepted configuration. An attestation keeps the one it started with.
#[derive(Debug)]
pub struct ServerConfig {
    /// The trust domain that identities are made in.
    pub trust_domain: TrustDomain,
    /// The segment of the SPIFFE ID that stands for this attestor.
    pub spiffe_id_segment: String,
    /// The verifiers that vouch for hosts.
    pub verifiers: VerifierPool,
    /// The registrars that know their AKs.
    pub registrars: RegistrarPool,
    /// How old the verifier's last success may be; without it, what the verifier itself says.
    pub maximum_attestation_interval: Option<Duration>,
    /// Who verifies the quote.
    pub quote_verification: QuoteVerification,
    /// How long a host whose quote is good may wait for the verifier's first success.
    pub wait_for_verification: Duration,
    /// Which selectors are made.
    pub selection: Selection,
    /// Attestations at once from one address, where SPIRE tells it.
    pub maximum_attestations_per_source: usize,
    watched: Vec<PathBuf>,
    certificates: Vec<LoadedCertificate>,
    warnings: Vec<String>,
}

impl ServerConfig {
    /// As [`PluginConfig::build`], with bounds of the calls to Keylime other than the usual ones.
    pub fn build_within(core: &CoreConfig, options: &mut Options, http: HttpSettings) -> Option<Self> {
        Self::build_beside(core, options, http, None)
    }

    /// The same where `now` is in force.
    fn build_beside(core: &CoreConfig, options: &mut Options, http: HttpSettings, now: Option<&Self>) -> Option<Self> {
        options.tell_from(&plugins::AGENT);
        let keylime = Keylime::read(options, http);
        let quote_verification = quote_verification(options);
        let selection = Selection::read(options, quote_verification, now.map(|now| &now.selection));
        let maximum_attestation_interval = options.optional_duration("maximum_attestation_interval", INTERVALS);
        let wait_for_verification = options.duration("wait_for_verification", Duration::ZERO, WAITS);
        let maximum_attestations_per_source = options.number("maximum_attestations_per_source", 256, 1..=512) as usize;
        let spiffe_id_segment = options.string("spiffe_id_segment", "keylime");
        // The longest agent id makes the longest SPIFFE ID.
        if let Err(error) = spiffe_id(&core.trust_domain, &spiffe_id_segment, &"x".repeat(80)) {
            options.problem(format!("`spiffe_id_segment`: {error}"));
        }
        if !options.ok() {
            return None;
        }
        let (keylime, selection) = (keylime?, selection?);
        let mut warnings = keylime.warnings;
        if quote_verification == QuoteVerification::InsecureVerifierOnly {
            warnings.push(
                "insecure_verifier_only_quote_verification is set: take it that whoever knows the id of a verified host can \
                 attest as it. Remove it as soon as the registrar can be reached."
                    .to_owned(),
            );
        }
        warnings.extend(selection.warnings());
        let watched = keylime.files.into_iter().chain(selection.files()).collect();
        Some(Self {
            trust_domain: core.trust_domain.clone(),
            spiffe_id_segment,
            verifiers: keylime.verifiers,
            registrars: keylime.registrars,
            maximum_attestation_interval,
            quote_verification,
            wait_for_verification,
            selection,
            maximum_attestations_per_source,
            watched,
            certificates: keylime.certificates,
            warnings,
        })
    }

    /// `spiffe://<trust domain>/spire/agent/<segment>/<agent id>`.
    ///
    /// # Errors
    /// A segment or id that a SPIFFE ID cannot have; `build_within` has refused such segments.
    pub fn spiffe_id(&self, agent_id: &str) -> Result<SpiffeId, SpiffeIdError> {
        spiffe_id(&self.trust_domain, &self.spiffe_id_segment, agent_id)
    }
}

fn spiffe_id(domain: &TrustDomain, segment: &str, agent_id: &str) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::from_segments(domain, &["spire", "agent", segment, agent_id])
}

fn quote_verification(options: &mut Options) -> QuoteVerification {
    let choices = [("both", QuoteVerification::Both), ("local", QuoteVerification::Local)];
    let chosen = options.choice("quote_verification", &choices, QuoteVerification::Both);
    const INSECURE: &str = "insecure_verifier_only_quote_verification";
    if !options.boolean(INSECURE, false) {
        return chosen;
    }
    options.exclude(INSECURE, "quote_verification", "remove one of the two");
    QuoteVerification::InsecureVerifierOnly
}

impl PluginConfig for ServerConfig {
    fn build(core: &CoreConfig, options: &mut Options) -> Option<Self> {
        Self::build_within(core, options, HTTP)
    }

    /// The TPM vendors' authorities are apart from the TLS files, which must not end because of them.
    fn rebuild(core: &CoreConfig, options: &mut Options, now: &Self) -> Option<Self> {
        Self::build_beside(core, options, HTTP, Some(now))
    }

    fn kept(&self) -> Problems {
        self.selection.kept.clone()
    }

    fn watched_files(&self) -> Vec<PathBuf> {
        self.watched.clone()
    }

    fn certificates(&self) -> Vec<LoadedCertificate> {
        self.certificates.clone()
    }

    /// Connects to all neighbours, so that the first attestation finds the connections open and
    /// an operator finds a wrong address in the log before a node does.
    async fn configured(self: Arc<Self>) {
        for warning in &self.warnings {
            warn!("{warning}");
        }
        let (verifiers, registrars) = tokio::join!(self.verifiers.warm_up(), self.registrars.warm_up());
        for WarmUp { peer, outcome } in verifiers.into_iter().chain(registrars) {
            match outcome {
                Ok(version) => info!(peer, api_version = %version, "Connected to Keylime"),
                Err(error) => warn!(%error, "Keylime cannot be reached yet; each attestation tries again"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
