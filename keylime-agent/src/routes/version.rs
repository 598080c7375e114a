// SPDX-License-Identifier: Apache-2.0
//! `GET /version`: which API versions are enabled.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::MethodRouter;

use super::{answer, get_only};
use crate::agent::Agent;

pub(super) fn resource() -> MethodRouter<Arc<Agent>> {
    get_only(get)
}

/// The newest version, which is all that old servers read, and the list of all.
async fn get(State(agent): State<Arc<Agent>>) -> Response {
    let versions: Vec<_> = agent.api_versions.iter().map(|version| format!("\"{version}\"")).collect();
    let newest = versions.last().map_or("\"\"", String::as_str);
    let all = versions.join(",");
    answer::success(&format!(r#"{{"supported_version":{newest},"supported_versions":[{all}]}}"#))
}
