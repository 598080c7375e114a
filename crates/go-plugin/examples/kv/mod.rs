// SPDX-License-Identifier: Apache-2.0
//! What the key-value plugin and its hosts agree on.

use go_plugin::Handshake;

/// The host's audit service in the broker.
#[allow(dead_code, reason = "each example uses a part of this file")]
pub(crate) const AUDIT_SERVICE: u32 = 1;

/// Cookie and version.
pub(crate) fn handshake() -> Handshake {
    Handshake::new("KV_PLUGIN", "0d6ce1f6-kv", 1)
}

/// Generated from `kv.proto`.
#[allow(dead_code, missing_docs, unreachable_pub, reason = "each example uses a part of this file")]
pub(crate) mod proto {
    include!("generated.rs");
}
