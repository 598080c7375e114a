// SPDX-License-Identifier: Apache-2.0
//! What the options came to and where each value is from, for people: a configuration file that would lead to the same,
//! but for the secrets.

use std::fmt;

use serde::Serialize;
use service::layered::Source;

/// Column at which the sources begin, where the values leave room.
const SOURCE_COLUMN: usize = 48;

/// An option and the value that counts.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The option's name.
    pub name: &'static str,
    /// Its value.
    pub value: Shown,
    /// Where it was set; `None` for the built-in default.
    pub source: Option<Source>,
    /// Whether the option means anything to this agent.
    pub has_effect: bool,
}

/// A value as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// In TOML.
    Value(String),
    /// Something that must not be shown.
    Hidden,
    /// Nothing, which has a meaning of its own.
    Nothing(&'static str),
    /// The option is set to something wrong, which a problem tells.
    Wrong,
}

impl Shown {
    /// A text, number, boolean or list of these.
    pub(super) fn value(value: impl Serialize) -> Self {
        // What JSON and TOML have in common.
        serde_json::to_string(&value).map_or(Self::Wrong, Self::Value)
    }

    /// A list as one text, which the stock agent takes, too; as an array where a member would fall apart in that.
    pub(super) fn list(members: &[String]) -> Self {
        let is_whole = |member: &String| !member.contains(|c: char| ",[]'\"".contains(c) || c.is_whitespace());
        if members.iter().all(is_whole) { Self::value(members.join(", ")) } else { Self::value(members) }
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, .. } = self;
        let line = match value {
            Shown::Value(value) if self.has_effect => format!("{name} = {value}"),
            Shown::Value(value) => format!("# {name} = {value}"),
            Shown::Hidden => format!("# {name} = (hidden)"),
            Shown::Nothing(meaning) => format!("# {name} = ({meaning})"),
            Shown::Wrong => format!("# {name} = (wrong)"),
        };
        write!(f, "{line:SOURCE_COLUMN$}  # ")?;
        match &self.source {
            Some(source) => write!(f, "{source}"),
            None => f.write_str("built-in default"),
        }
    }
}

/// The whole table, one option a line; what has no effect comes last, as comments.
pub(super) fn write(options: &[Effective], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "[agent]")?;
    for option in options.iter().filter(|option| option.has_effect) {
        writeln!(f, "{option}")?;
    }
    writeln!(f, "\n# Known, and without effect in this agent:")?;
    for option in options.iter().filter(|option| !option.has_effect) {
        writeln!(f, "{option}")?;
    }
    Ok(())
}
