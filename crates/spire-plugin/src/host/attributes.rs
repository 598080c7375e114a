// SPDX-License-Identifier: Apache-2.0
//! The checks of SPIRE server on what its plugin says an agent is.

use spire_proto::server_nodeattestor as proto;
use tonic::Status;

use crate::{SpiffeId, TrustDomain};

/// Longest ID or selector value that every database of SPIRE stores, in characters.
const MAX_STORED: usize = 255;

/// What a node was attested to be, after SPIRE server's checks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentAttributes {
    /// The agent's SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Selector values, sorted and without repetitions. Their type is the plugin's configured name.
    pub selector_values: Vec<String>,
    /// Whether the agent attests again in place of renewing its SVID.
    pub can_reattest: bool,
    /// What SPIRE accepts although it should not be so, one sentence each.
    pub warnings: Vec<String>,
}

impl AgentAttributes {
    /// Checks what the server plugin named `name` has sent. The error is the status SPIRE server would end
    /// `AttestAgent` with.
    pub(super) fn check(
        name: &str,
        trust_domain: &TrustDomain,
        attributes: proto::AgentAttributes,
    ) -> Result<Self, Status> {
        if attributes.spiffe_id.is_empty() {
            return Err(Status::internal(super::prefixed(name, "plugin response missing agent ID")));
        }
        let id: SpiffeId =
            attributes.spiffe_id.parse().map_err(|error| Status::internal(format!("invalid agent ID: {error}")))?;
        if id.path() == "/spire/server" {
            return Err(Status::internal("agent ID cannot collide with the server ID"));
        }
        let stranger = format!("\"{id}\" is not a member of trust domain \"{trust_domain}\"");
        if id.trust_domain() != trust_domain {
            return Err(Status::internal(format!("failed to sign X509 SVID: invalid X509-SVID ID: {stranger}")));
        }
        if id.path().is_empty() {
            return Err(Status::internal(format!(
                "failed to sign X509 SVID: invalid X509-SVID ID: {stranger}; path is empty"
            )));
        }

        let mut warnings = Vec::new();
        if !id.path().starts_with(&format!("/spire/agent/{name}/")) {
            warnings.push(format!(
                "\"{id}\" is not in the agent namespace for attestor \"{name}\"; future releases of SPIRE refuse it"
            ));
        }
        let mut selector_values = attributes.selector_values;
        selector_values.sort_unstable();
        selector_values.dedup();
        if selector_values.iter().any(String::is_empty) {
            warnings.push("a selector value is empty".to_owned());
        }
        if selector_values.iter().chain([&attributes.spiffe_id]).any(|text| text.chars().count() > MAX_STORED) {
            warnings.push(format!("the ID or a selector value is longer than {MAX_STORED} characters"));
        }
        Ok(Self { spiffe_id: id, selector_values, can_reattest: attributes.can_reattest, warnings })
    }
}
