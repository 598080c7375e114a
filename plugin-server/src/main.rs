// SPDX-License-Identifier: Apache-2.0
//! `keylime-attestor-server`: run by the SPIRE server, never by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    go_plugin::plugin::run(spire_plugin::handshake(), keylime_attestor_server::about(), keylime_attestor_server::routes)
}
