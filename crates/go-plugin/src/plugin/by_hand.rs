// SPDX-License-Identifier: Apache-2.0
//! What a plugin tells a person who starts it.

use std::{ffi::OsStr, fmt::Write};

use crate::Handshake;

/// What a plugin says about itself to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Name of the program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// One line: what the plugin does, and for which host.
    pub summary: &'static str,
    /// How it is used: where the host's configuration names it, with an example. May have several lines.
    pub usage: &'static str,
}

/// Text for standard error, and the exit status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) status: u8,
}

/// The reply to a start that is not a host's, `None` if it is one.
pub(crate) fn reply(
    about: &About,
    handshake: &Handshake,
    argument: Option<&OsStr>,
    cookie: Option<&OsStr>,
) -> Option<Reply> {
    let argument = argument.and_then(OsStr::to_str);
    match argument {
        Some("--version" | "-V") => Some(Reply { text: format!("{} {}\n", about.name, about.version), status: 0 }),
        Some("--help" | "-h") => Some(Reply { text: explanation(about), status: 0 }),
        _ if cookie == Some(OsStr::new(&*handshake.cookie_value)) => None,
        _ => {
            let mut text = explanation(about);
            let state = match cookie {
                None => "is not set",
                Some(_) => "has another value",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "\nNot started: no host has started this program (the variable {} {state}).",
                handshake.cookie_key
            );
            Some(Reply { text, status: 1 })
        }
    }
}

fn explanation(about: &About) -> String {
    let About { name, version, summary, usage } = about;
    let usage = usage.trim_end();
    format!(
        "{name} {version}\n{summary}\n\n\
         This program is a plugin: the program that uses it starts it, it is not meant to be started by hand.\n\n\
         {usage}\n\n\
         Options:\n  -h, --help     say this\n  -V, --version  say the version\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About = About {
        name: "kv-plugin",
        version: "1.2.3",
        summary: "A key-value store.",
        usage: "Give its path to kv-host.",
    };

    fn ask(argument: Option<&str>, cookie: Option<&str>) -> Option<Reply> {
        let handshake = Handshake::new("KV", "yes", 1);
        reply(&ABOUT, &handshake, argument.map(OsStr::new), cookie.map(OsStr::new))
    }

    #[test]
    fn a_host_is_let_through() {
        assert_eq!(ask(None, Some("yes")), None);
        assert_eq!(ask(Some("--anything"), Some("yes")), None);
    }

    #[test]
    fn a_person_is_told_what_it_is() {
        let text = "kv-plugin 1.2.3\nA key-value store.\n\n\
            This program is a plugin: the program that uses it starts it, it is not meant to be started by hand.\n\n\
            Give its path to kv-host.\n\n\
            Options:\n  -h, --help     say this\n  -V, --version  say the version\n";
        let help = ask(Some("--help"), None).unwrap();
        assert_eq!((help.text.as_str(), help.status), (text, 0));

        for (argument, cookie, state) in
            [(None, None, "is not set"), (Some("serve"), None, "is not set"), (None, Some("no"), "has another value")]
        {
            let reply = ask(argument, cookie).unwrap();
            let end = format!("\nNot started: no host has started this program (the variable KV {state}).\n");
            assert_eq!(reply.text, format!("{text}{end}"));
            assert_eq!(reply.status, 1);
        }
    }

    #[test]
    fn the_version_is_one_line() {
        for cookie in [None, Some("yes")] {
            let reply = ask(Some("--version"), cookie).unwrap();
            assert_eq!((reply.text.as_str(), reply.status), ("kv-plugin 1.2.3\n", 0));
        }
    }
}
