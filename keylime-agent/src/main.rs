// SPDX-License-Identifier: Apache-2.0
//! The `keylime_agent` program: wires configuration, logging and the agent together.

use std::process::ExitCode;

use clap::Parser as _;
use keylime_agent::Config;
use keylime_agent::cli::Arguments;
use keylime_agent::config::{Notice, Sources};
use service::Report;
use service::logging::Logging;

/// The agent cannot start or register.
const FAILED: u8 = 1;
/// The configuration is wrong. clap says the same of a wrong command line.
const WRONG: u8 = 2;

/// `keylime` and `keylime_agent` are the targets that filters for the stock agent name.
const LOGGING: Logging<'_> = Logging {
    filter: None,
    default: "info",
    aliases: &[("keylime_agent", &["keylime", "tpm", "tls", "service"]), ("keylime", &["tpm", "tls", "service"])],
};

fn main() -> ExitCode {
    // Ends the program itself if there is something to print, with status 2 if an argument is wrong.
    let Arguments {} = Arguments::parse();
    tpm::tcti::silence_library_log();
    let filter = std::env::var("RUST_LOG").ok();
    let logging = Logging { filter: filter.as_deref(), ..LOGGING };
    if let Err(error) = logging.init() {
        return fail(WRONG, &Report(&error));
    }
    let (config, notices) = match Config::load(&Sources::system()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in problems.iter() {
                fail(WRONG, problem);
            }
            return ExitCode::from(WRONG);
        }
    };
    for notice in notices {
        match notice {
            Notice::Warning(text) => tracing::warn!("{text}"),
            Notice::Debug(text) => tracing::debug!("{text}"),
        }
    }
    match keylime_agent::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(if error.is_configuration() { WRONG } else { FAILED }, &Report(&error)),
    }
}

/// Says why the program ends: in the log, or without it where there is none yet or a filter hides it.
fn fail(code: u8, reason: &dyn std::fmt::Display) -> ExitCode {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{reason}");
    } else {
        eprintln!("Error: {reason}");
    }
    ExitCode::from(code)
}
