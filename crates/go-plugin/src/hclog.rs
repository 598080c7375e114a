// SPDX-License-Identifier: Apache-2.0
//! A plugin's log as the host reads it: hclog's JSON, one object per line on standard error.

mod filter;
mod layer;
mod line;
mod sink;
mod time;

use std::{env, io};

use tracing_subscriber::layer::SubscriberExt;

use filter::Filter;
use layer::HclogLayer;
pub(crate) use line::MAX_LINE;
use sink::Sink;
pub(crate) use time::is_timestamp;

/// Selects what is logged, such as `info` or `debug,h2=trace`.
pub(crate) const ENV_FILTER: &str = "PLUGIN_LOG";

/// Sends the process's `tracing` events to standard error as hclog lines.
///
/// Does nothing if the application has installed a subscriber of its own.
///
/// # Errors
/// If standard error cannot be duplicated, which means that it is closed.
pub(crate) fn install() -> io::Result<()> {
    let value = env::var(ENV_FILTER).unwrap_or_default();
    let (filter, rejected) = Filter::parse(&value);
    let layer = HclogLayer::new(filter, Sink::stderr()?);
    let subscriber = tracing_subscriber::registry().with(layer);
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        for part in rejected {
            tracing::warn!(part, "{ENV_FILTER} has a part that is neither a level nor target=level; it is ignored");
        }
    }
    Ok(())
}
