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
            fail(&Report(&error));
            return ExitCode::from(FAILED);
        }
        tracing::warn!("environment variable RUST_LOG: {}: using '{}'", Report(&error), LOGGING.default);
    }
    let failed = if check_config { FAILED } else { WRONG };
    let inspection = match Config::inspect(&Sources::system()) {
        Ok(inspection) => inspection,
        Err(problems) => {
            fail_all(&problems);
            return end(check_config, failed, problems.iter().count());
        }
    };
    if check_config {
        // Whoever reads it may have seen enough and closed the pipe.
        let _ = write!(std::io::stdout(), "{inspection}");
    }
    let files: Vec<_> = inspection.config.origins.files().map(|file| file.display().to_string()).collect();
    let files = if files.is_empty() { "no file".to_owned() } else { files.join(", ") };
    tracing::info!("keylime_agent {} (spire-keylime), configuration: {files}", env!("CARGO_PKG_VERSION"));
    for notice in &inspection.notices {
        match notice {
            Notice::Warning(text) => tracing::warn!("{text}"),
            Notice::Info(text) => tracing::info!("{text}"),
            Notice::Debug(text) => tracing::debug!("{text}"),
        }
    }
    if let Some(problems) = &inspection.problems {
        fail_all(problems);
        let mut count = problems.iter().count();
        // What is wrong with the files is worth knowing at the same time, if the user is known whose rights count.
        if !inspection.is_wrong("run_as")
            && let Err(error) = keylime_agent::check(&inspection.config)
        {
            fail_start(&error);
            count += error.reasons().count();
        }
        return end(check_config, failed, count);
    }
    let result =
        if check_config { keylime_agent::check(&inspection.config) } else { keylime_agent::run(&inspection.config) };
    match result {
        Ok(()) if check_config => end(true, 0, 0),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if error.is_configuration() { failed } else { FAILED };
            fail_start(&error);
            end(check_config, code, error.reasons().count())
        }
    }
}

/// Ends with this status; a check with its verdict, which is what people look at first.
fn end(check_config: bool, code: u8, problems: usize) -> ExitCode {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    if check_config && problems > 0 {
        eprintln!("{}: the agent would not start", count(problems, "problem"));
    } else if check_config {
        match service::logging::warnings() {
            0 => eprintln!("the agent would start"),
            number => eprintln!("the agent would start, with {}", count(number, "warning")),
        }
    }
    ExitCode::from(code)
}

fn fail_all(problems: &Problems) {
    problems.iter().for_each(|problem| {
        fail(problem);
    });
}

fn fail_start(error: &StartError) {
    error.reasons().for_each(|reason| {
        fail(&Report(reason));
    });
    if error.is_unregistered() {
        tracing::error!("Exiting due to registration failure.");
    }
}

/// Says why the program ends: in the log, or without it where there is none yet or a filter hides it.
fn fail(reason: &dyn std::fmt::Display) {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{reason}");
    } else {
        eprintln!("Error: {reason}");
    }
}
