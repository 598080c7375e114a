// SPDX-License-Identifier: Apache-2.0
//! The `keylime_agent` program: wires configuration, logging and the agent together.

use std::process::ExitCode;

use keylime_agent::Config;
use keylime_agent::cli::{self, Command};
use keylime_agent::config::{Notice, Sources};
use service::logging::Logging;

/// The agent cannot start or register.
const FAILED: u8 = 1;
/// The configuration or the command line is wrong.
const WRONG: u8 = 2;

/// `keylime` and `keylime_agent` are the targets that filters for the stock agent name.
const LOGGING: Logging<'_> = Logging {
    filter: None,
    default: "info",
    aliases: &[("keylime_agent", &["keylime", "tpm", "tls", "service"]), ("keylime", &["tpm", "tls", "service"])],
};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Command::Run => {}
        Command::Print(text) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Command::Wrong(text) => {
            eprintln!("Error: {text}");
            return ExitCode::from(WRONG);
        }
    }
    tpm::tcti::silence_library_log();
    let filter = std::env::var("RUST_LOG").ok();
    let logging = Logging { filter: filter.as_deref(), ..LOGGING };
    if let Err(error) = logging.init() {
        eprintln!("Error: {error}");
        return ExitCode::from(WRONG);
    }
    let (config, notices) = match Config::load(&Sources::system()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in problems.iter() {
                tracing::error!("{problem}");
            }
            eprintln!("Error: the configuration is wrong");
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
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("Error: {error}");
            ExitCode::from(if error.is_configuration() { WRONG } else { FAILED })
        }
    }
}
