// SPDX-License-Identifier: Apache-2.0
//! Reads typed options out of [`Layered`] settings and collects every problem, so that all are reported together.
//!
//! Values are taken as leniently as configuration files in the field need it: numbers and booleans may be quoted, and a
//! list may be an array or a text such as `a, b` or `['a', 'b']`.

use std::collections::BTreeSet;
use std::fmt;

use crate::layered::{Layered, Setting, Source};
use crate::{Secret, did_you_mean};

/// What is wrong with one option or source. The text says all a reader needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that is wrong with a configuration; one line per problem. Never empty when returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl Problems {
    /// The problems, in the order found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

/// A setting that no option reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The name as written.
    pub name: String,
    /// Where it is written.
    pub source: Source,
    /// The option that was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown option '{}' ({})", self.name, self.source)?;
        match &self.suggestion {
            Some(name) => write!(f, ": did you mean '{name}'?"),
            None => Ok(()),
        }
    }
}

/// Reads options one by one. Every method that returns `None` for a set option has noted a problem.
#[derive(Debug)]
pub struct Options<'a> {
    layered: &'a Layered,
    known: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Options<'a> {
    /// A reader of these settings.
    #[must_use]
    pub fn new(layered: &'a Layered) -> Self {
        Self { layered, known: BTreeSet::new(), problems: Vec::new() }
    }

    /// The setting of an option as it was written, marking the option as known.
    pub fn setting(&mut self, name: &str) -> Option<&'a Setting> {
        self.known.insert(name.to_owned());
        self.layered.setting(name)
    }

    /// A text; numbers and booleans are taken as they are written.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let setting = self.setting(name)?;
        let text = scalar(&setting.value);
        if text.is_none() {
            self.expected(name, "a string", None);
        }
        text
    }

    /// A text that `parse` turns into a value. Its error text completes the sentence "option 'x' (source): …".
    pub fn parsed<T, E: fmt::Display>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(name, error);
                None
            }
        }
    }

    /// A boolean, also written as text: true, yes, on, 1 and their opposites, letter case ignored.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let text = scalar(&self.setting(name)?.value);
        let value = text.as_deref().and_then(|text| match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        });
        if value.is_none() {
            self.expected(name, "true or false", text.as_deref());
        }
        value
    }

    /// A decimal number between `min` and `max`, both included, also written as text.
    pub fn number(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        let text = scalar(&self.setting(name)?.value);
        let value =
            text.as_deref().and_then(|text| text.trim().parse().ok()).filter(|number| (min..=max).contains(number));
        if value.is_none() {
            let wanted = format!("a number from {min} to {max}");
            self.expected(name, &wanted, text.as_deref());
        }
        value
    }

    /// A TCP port, 1 to 65535.
    pub fn port(&mut self, name: &str) -> Option<u16> {
        let number = self.number(name, 1, u64::from(u16::MAX))?;
        u16::try_from(number).ok()
    }

    /// A list of texts: an array, or one text in which commas or white space separate the members, with or without
    /// brackets around all and quotes around each. Empty members are dropped.
    pub fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let setting = self.setting(name)?;
        let list = match &setting.value {
            toml::Value::Array(members) => members.iter().map(scalar).collect(),
            value => scalar(value).map(|text| split_list(&text)),
        };
        if list.is_none() {
            self.expected(name, "a list of strings", None);
        }
        list
    }

    /// A password or other secret, never repeated in a problem.
    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        self.text(name).map(Secret::from)
    }

    /// Notes a problem with an option; the text completes "option 'x' (source): …".
    pub fn problem(&mut self, name: &str, text: impl fmt::Display) {
        let problem = match self.layered.setting(name) {
            Some(setting) => format!("option '{name}' ({}): {text}", setting.source),
            None => format!("option '{name}': {text}"),
        };
        self.problems.push(Problem(problem));
    }

    /// Notes a problem that belongs to no single option.
    pub fn general_problem(&mut self, text: impl fmt::Display) {
        self.problems.push(Problem(text.to_string()));
    }

    /// The settings that nothing has asked for so far.
    #[must_use]
    pub fn unknown(&self) -> Vec<Unknown> {
        self.layered
            .iter()
            .filter(|(name, _)| !self.known.contains(*name))
            .map(|(name, setting)| Unknown {
                name: name.to_owned(),
                source: setting.source.clone(),
                suggestion: did_you_mean(name, self.known.iter().map(String::as_str)).map(str::to_owned),
            })
            .collect()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every problem noted, if there is one.
    pub fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }

    fn expected(&mut self, name: &str, wanted: &str, found: Option<&str>) {
        match found {
            Some(found) => self.problem(name, format_args!("expected {wanted}, found '{found}'")),
            None => self.problem(name, format_args!("expected {wanted}")),
        }
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

fn split_list(text: &str) -> Vec<String> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    inner
        .split(|c: char| c == ',' || c.is_whitespace())
        .map(|member| member.trim_matches(['\'', '"']))
        .filter(|member| !member.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layered(text: &str) -> Layered {
        let mut layered = Layered::new();
        let table: toml::Table = toml::from_str(text).unwrap();
        for (name, value) in table {
            layered.set(&name, value, Source::File("f".into()));
        }
        layered
    }

    #[test]
    fn values_may_be_quoted() {
        let layered = layered("port = \"9002\"\nbare = 9002\nyes = \"True\"\nno = false\nversion = 2.4\none = 1");
        let mut options = Options::new(&layered);
        assert_eq!(options.port("port"), Some(9002));
        assert_eq!(options.port("bare"), Some(9002));
        assert_eq!(options.boolean("yes"), Some(true));
        assert_eq!(options.boolean("no"), Some(false));
        assert_eq!(options.boolean("one"), Some(true));
        assert_eq!(options.text("version").as_deref(), Some("2.4"));
        assert_eq!(options.text("missing"), None);
        assert_eq!(options.finish(), Ok(()));
    }

    #[test]
    fn lists_have_many_spellings() {
        let wanted = vec!["/a/ca.crt".to_owned(), "/b/ca.crt".to_owned()];
        for spelling in [
            "['/a/ca.crt', '/b/ca.crt']",
            "\"['/a/ca.crt', '/b/ca.crt']\"",
            "'[\"/a/ca.crt\",\"/b/ca.crt\"]'",
            "\"/a/ca.crt, /b/ca.crt\"",
            "\"/a/ca.crt /b/ca.crt\"",
            "\" /a/ca.crt,,/b/ca.crt, \"",
        ] {
            let layered = layered(&format!("x = {spelling}"));
            let mut options = Options::new(&layered);
            assert_eq!(options.list("x").as_ref(), Some(&wanted), "{spelling}");
        }
        let layered = layered("x = \"\"\ny = \"[]\"");
        let mut options = Options::new(&layered);
        assert_eq!(options.list("x"), Some(vec![]));
        assert_eq!(options.list("y"), Some(vec![]));
    }

    #[test]
    fn all_problems_are_reported_together() {
        let layered = layered("a = \"x\"\nb = 70000\nc = {}\nd = [[]]\ne = \"maybe\"\nf = 0");
        let mut options = Options::new(&layered);
        assert_eq!(options.number("a", 0, 5), None);
        assert_eq!(options.port("b"), None);
        assert_eq!(options.text("c"), None);
        assert_eq!(options.list("d"), None);
        assert_eq!(options.boolean("e"), None);
        assert_eq!(options.port("f"), None);
        assert_eq!(options.parsed("a", |_| Err::<(), _>("is not nice")), None);
        options.problem("unset", "is needed");
        options.general_problem("nothing fits");
        let problems = options.finish().unwrap_err();
        assert_eq!(problems.iter().count(), 9);
        assert_eq!(
            problems.to_string(),
            "option 'a' (f): expected a number from 0 to 5, found 'x'\n\
             option 'b' (f): expected a number from 1 to 65535, found '70000'\n\
             option 'c' (f): expected a string\n\
             option 'd' (f): expected a list of strings\n\
             option 'e' (f): expected true or false, found 'maybe'\n\
             option 'f' (f): expected a number from 1 to 65535, found '0'\n\
             option 'a' (f): is not nice\n\
             option 'unset': is needed\n\
             nothing fits"
        );
    }

    #[test]
    fn secrets_are_not_repeated() {
        let layered = layered("password = [\"hunter2\"]");
        let mut options = Options::new(&layered);
        assert!(options.secret("password").is_none());
        assert_eq!(options.finish().unwrap_err().to_string(), "option 'password' (f): expected a string");
    }

    #[test]
    fn unknown_settings_get_a_suggestion() {
        let layered = layered("registrar_prot = 1\nwhatever = 2");
        let mut options = Options::new(&layered);
        options.port("registrar_port");
        let unknown: Vec<_> = options.unknown().iter().map(ToString::to_string).collect();
        assert_eq!(
            unknown,
            ["unknown option 'registrar_prot' (f): did you mean 'registrar_port'?", "unknown option 'whatever' (f)"]
        );
    }
}
