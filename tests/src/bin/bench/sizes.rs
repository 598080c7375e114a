// SPDX-License-Identifier: Apache-2.0
//! Sizes of the binaries.

use std::env;
use std::path::Path;

use anyhow::{Context, Result};
use test_support::bin;

use crate::report::{Goal, Report};

/// Our binaries beside the peers'.
pub(crate) fn binaries(report: &mut Report) -> Result<()> {
    for (name, peer) in [
        ("keylime_agent", "PEER_KEYLIME_AGENT"),
        ("keylime-attestor-agent", "PEER_GO_AGENT_PLUGIN"),
        ("keylime-attestor-server", "PEER_GO_SERVER_PLUGIN"),
    ] {
        let ours = megabytes(&bin::built(name)?)?;
        let peer = env::var_os(peer).map(|path| megabytes(Path::new(&path))).transpose()?;
        report.add(&format!("binary `{name}`"), "MB", ours, peer.map(|peer| ("peer", peer)), Goal::AtMost(8.0));
    }
    Ok(())
}

fn megabytes(path: &Path) -> Result<f64> {
    let size = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    Ok(size as f64 / 1e6)
}
