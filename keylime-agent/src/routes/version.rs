// SPDX-License-Identifier: Apache-2.0
//! `GET /version`: which API versions are enabled.

use super::answer::{self, Answer};
use crate::agent::Agent;

/// The newest version, which is all that old servers read, and the list of all.
pub(super) fn get(agent: &Agent) -> Answer {
    let versions: Vec<_> = agent.api_versions.iter().map(|version| format!("\"{version}\"")).collect();
    let newest = versions.last().map_or("\"\"", String::as_str);
    let all = versions.join(",");
    answer::success(&format!(r#"{{"supported_version":{newest},"supported_versions":[{all}]}}"#))
}
