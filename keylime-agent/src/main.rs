// SPDX-License-Identifier: Apache-2.0
//! The `keylime_agent` program: wires configuration, logging and the agent together.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use keylime_agent::cli::Arguments;
use keylime_agent::config::{Notice, Sources};
use keylime_agent::{Config, StartError};
use service::Report;
use service::logging::Logging;
use service::options::Problems;

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
    let Arguments { check_config } = Arguments::parse();
    tpm::tcti::silence_library_log();
    let filter = std::env::var("RUST_LOG").ok();
    let logging = Logging { filter: filter.as_deref(), ..LOGGING };
    // A check says what is wrong and what is odd, whatever the filter.
    let logging = if check_config { Logging { filter: Some("warn"), ..LOGGING } } else { logging };
    // A slip in the filter is no reason not to attest the host.
    if let Err(error) = logging.init() {
        if let Err(error) = LOGGING.init() {
            return fail(FAILED, &Report(&error));
        }
        tracing::warn!("environment variable RUST_LOG: {}: using '{}'", Report(&error), LOGGING.default);
    }
    let inspection = match Config::inspect(&Sources::system()) {
        Ok(inspection) => inspection,
        Err(problems) => return fail_all(if check_config { FAILED } else { WRONG }, &problems),
    };
    if check_config {
        // Whoever reads it may have seen enough and closed the pipe.
        let _ = write!(std::io::stdout(), "{inspection}");
    }
    for notice in &inspection.notices {
        match notice {
            Notice::Warning(text) => tracing::warn!("{text}"),
            Notice::Info(text) => tracing::info!("{text}"),
            Notice::Debug(text) => tracing::debug!("{text}"),
        }
    }
    if let Some(problems) = &inspection.problems {
        let code = fail_all(if check_config { FAILED } else { WRONG }, problems);
        // What is wrong with the files is worth knowing at the same time, if the user is known whose rights count.
        if !inspection.is_wrong("run_as")
            && let Err(error) = keylime_agent::check(&inspection.config)
        {
            fail_start(FAILED, &error);
        }
        return code;
    }
    let result =
        if check_config { keylime_agent::check(&inspection.config) } else { keylime_agent::run(&inspection.config) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_configuration() && !check_config => fail_start(WRONG, &error),
        Err(error) => fail_start(FAILED, &error),
    }
}

fn fail_all(code: u8, problems: &Problems) -> ExitCode {
    problems.iter().for_each(|problem| {
        fail(code, problem);
    });
    ExitCode::from(code)
}

fn fail_start(code: u8, error: &StartError) -> ExitCode {
    error.reasons().for_each(|reason| {
        fail(code, &Report(reason));
    });
    if error.is_unregistered() {
        tracing::error!("Exiting due to registration failure.");
    }
    ExitCode::from(code)
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
