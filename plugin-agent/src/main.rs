// SPDX-License-Identifier: Apache-2.0
//! `keylime-attestor-agent`: run by the SPIRE agent, never by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    go_plugin::plugin::run(spire_plugin::handshake(), keylime_attestor_agent::about(), keylime_attestor_agent::routes)
}
