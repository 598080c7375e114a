// SPDX-License-Identifier: Apache-2.0
//! The command line. It is nearly empty: everything is configured in `agent.conf` and the environment.

use clap::Parser;

/// A Keylime agent for the pull model: registers this host's TPM with a Keylime registrar
/// and answers the quote requests of a Keylime verifier.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "keylime_agent", version, verbatim_doc_comment, after_help = CONFIGURATION)]
pub struct Arguments {
    /// Prints the value of each option and where it is from, checks all options and the files
    /// that they name, and ends: with status 0, or 1 if the agent would not start
    #[arg(long, verbatim_doc_comment)]
    pub check_config: bool,
}

const CONFIGURATION: &str = "\
Configuration, the later ones overriding the earlier ones:
  /usr/etc/keylime/agent.conf, /usr/etc/keylime/agent.conf.d/*
  /etc/keylime/agent.conf, /etc/keylime/agent.conf.d/*
  KEYLIME_AGENT_<OPTION>  environment variable for any option, in upper case

Other environment variables:
  KEYLIME_AGENT_CONFIG  one file to read instead of those above
  KEYLIME_DIR           working directory (option keylime_dir)
  TCTI                  how to reach the TPM (option tcti), such as device:/dev/tpmrm0
  RUST_LOG              log filter, such as keylime_agent=debug

Exit status: 0 after SIGTERM or SIGINT, 1 if the agent cannot start, register or go on,
2 if the configuration or the command line is wrong.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn refused(argument: &str) -> clap::Error {
        Arguments::try_parse_from(["keylime_agent", argument]).unwrap_err()
    }

    #[test]
    fn arguments() {
        Arguments::command().debug_assert();
        let parse = |arguments: &[&str]| Arguments::try_parse_from(arguments).unwrap();
        assert_eq!(parse(&["keylime_agent"]), Arguments { check_config: false });
        assert_eq!(parse(&["keylime_agent", "--check-config"]), Arguments { check_config: true });
        for help in ["-h", "--help"] {
            let help = refused(help);
            assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
            let text = help.to_string();
            assert!(text.starts_with("A Keylime agent for the pull model: "), "{text}");
            assert!(text.contains("--check-config"), "{text}");
            assert!(text.contains("-V, --version"), "{text}");
            assert!(text.trim_end().ends_with(CONFIGURATION), "{text}");
        }
        let version = refused("-V");
        assert_eq!((version.kind(), version.exit_code()), (ErrorKind::DisplayVersion, 0));
        assert_eq!(version.to_string(), format!("keylime_agent {}\n", env!("CARGO_PKG_VERSION")));
        for argument in ["--port", "agent.conf", "-c"] {
            let wrong = refused(argument);
            assert_eq!((wrong.kind(), wrong.exit_code()), (ErrorKind::UnknownArgument, 2));
            let text = wrong.to_string();
            assert!(text.starts_with(&format!("error: unexpected argument '{argument}' found\n")), "{text}");
        }
    }
}
