// SPDX-License-Identifier: Apache-2.0
//! The command line, which is nearly empty: everything is configured in `agent.conf` and the environment.

use std::ffi::OsString;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the agent.
    Run,
    /// Print this text to standard output and end with success.
    Print(String),
    /// The command line is wrong, for this reason.
    Wrong(String),
}

const HELP: &str = "\
A Keylime agent for the pull model: registers this host's TPM with a Keylime registrar
and answers the quote requests of a Keylime verifier.

Usage: keylime_agent [OPTION]

Options:
  -h, --help     Print this help
  -V, --version  Print the version

Configuration, the later ones overriding the earlier ones:
  /usr/etc/keylime/agent.conf, /usr/etc/keylime/agent.conf.d/*
  /etc/keylime/agent.conf, /etc/keylime/agent.conf.d/*
  KEYLIME_AGENT_<OPTION>  environment variable for any option, in upper case

Other environment variables:
  KEYLIME_AGENT_CONFIG  one file to read instead of those above
  KEYLIME_DIR           working directory (option keylime_dir)
  TCTI                  how to reach the TPM (option tcti), such as device:/dev/tpmrm0
  RUST_LOG              log filter, such as keylime_agent=debug

Exit status: 0 after SIGTERM or SIGINT, 1 if the agent cannot start or register,
2 if the configuration or the command line is wrong.";

/// Reads the arguments, the program's name not among them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Command {
    let mut arguments = arguments.into_iter();
    let Some(first) = arguments.next() else {
        return Command::Run;
    };
    match first.to_str() {
        Some("-h" | "--help") => Command::Print(HELP.to_owned()),
        Some("-V" | "--version") => Command::Print(format!("keylime_agent {}", env!("CARGO_PKG_VERSION"))),
        _ => Command::Wrong(format!("unexpected argument '{}', see keylime_agent --help", first.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let of = |arguments: &[&str]| parse(arguments.iter().map(OsString::from));
        assert_eq!(of(&[]), Command::Run);
        for help in ["-h", "--help"] {
            assert_eq!(of(&[help]), Command::Print(HELP.to_owned()));
        }
        let version = format!("keylime_agent {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(of(&["-V"]), Command::Print(version));
        assert_eq!(
            of(&["--port"]),
            Command::Wrong("unexpected argument '--port', see keylime_agent --help".to_owned())
        );
    }
}
