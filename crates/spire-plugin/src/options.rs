// SPDX-License-Identifier: Apache-2.0
//! Reads options out of a configuration body and collects every problem.
//!
//! An option is spelled once: the call that reads it has its name and default, and makes it known, so that
//! [`Options::finish`] can tell which keys of the text nobody asked for.
//!
//! As Go reads HCL into a struct: keys match whatever their case, a text option takes a bare number as well, a
//! boolean must be bare, one value counts as a list of one, and an empty string counts as not given.

mod lists;
pub mod plugins;

use std::{fmt, ops::RangeInclusive, time::Duration};

pub use lists::MAX_LIST;

use plugins::Plugin;

use crate::{
    hcl::{Body, Item, Value},
    text::shorten,
};

/// Most problems reported; the rest is counted.
const MAX_PROBLEMS: usize = 20;

/// What is wrong with a configuration: one text for each problem, fit for one line of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    texts: Vec<String>,
    more: usize,
}

impl Problems {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Adds a problem. Texts beyond the first twenty are only counted.
    pub fn push(&mut self, text: impl Into<String>) {
        if self.texts.len() < MAX_PROBLEMS {
            self.texts.push(text.into());
        } else {
            self.more += 1;
        }
    }

    /// The texts, and one that says how many more there are.
    pub fn into_texts(self) -> Vec<String> {
        let mut texts = self.texts;
        if self.more > 0 {
            texts.push(format!("{} more problems", self.more));
        }
        texts
    }
}

impl fmt::Display for Problems {
    /// All texts in one line, joined with `; `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.clone().into_texts().join("; "))
    }
}

/// The options of one configuration text.
///
/// A reader whose option is wrong notes the problem and returns the default, so that one pass finds all problems;
/// [`ok`](Self::ok) tells whether there was any.
#[derive(Debug)]
pub struct Options {
    items: Vec<(Item, bool)>,
    known: Vec<&'static str>,
    /// A plugin whose options may have come into this text.
    other: Option<&'static Plugin>,
    problems: Problems,
}

impl Options {
    /// Takes the items of `body`.
    pub fn new(body: Body) -> Self {
        let items = body.items.into_iter().map(|item| (item, false)).collect();
        Self { items, known: Vec::new(), other: None, problems: Problems::default() }
    }

    /// Lets [`finish`](Self::finish) tell when an unknown option is one of `other`.
    pub fn tell_from(&mut self, other: &'static Plugin) {
        self.other = Some(other);
    }

    /// A text option. Not given, empty and null all mean `default`.
    pub fn string(&mut self, key: &'static str, default: &str) -> String {
        self.optional_string(key).unwrap_or_else(|| default.to_owned())
    }

    /// A text option without default. Empty and null count as not given.
    pub fn optional_string(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::Text(text) | Value::Number(text) => Some(text).filter(|text| !text.is_empty()),
            value => {
                self.wrong(key, &value, "text in double quotes");
                None
            }
        }
    }

    /// An option that is `true` or `false` without quotes.
    pub fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(value) => {
                self.wrong(key, &value, "`true` or `false`, without quotes");
                default
            }
        }
    }

    /// A port, with or without quotes.
    pub fn port(&mut self, key: &'static str, default: u16) -> u16 {
        self.optional_port(key).unwrap_or(default)
    }

    /// As [`port`](Self::port), without default.
    pub fn optional_port(&mut self, key: &'static str) -> Option<u16> {
        let read = |text: &str| text.parse().ok().filter(|port| *port != 0);
        self.parsed(key, "a port from 1 to 65535", read)
    }

    /// A span of time as Go writes it: numbers with the units `h`, `m`, `s` and `ms`, for example `1m30s` or `500ms`.
    pub fn duration(&mut self, key: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.optional_duration(key, range).unwrap_or(default)
    }

    /// As [`duration`](Self::duration), without default.
    pub fn optional_duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let allowed = format!(
            "a time from {} to {}, for example `1m30s`",
            AsGoDuration(*range.start()),
            AsGoDuration(*range.end())
        );
        let read = |text: &str| parse_duration(text).filter(|time| range.contains(time));
        self.parsed(key, &allowed, read)
    }

    /// Notes that `found`, the value of `key`, is not what is `allowed`.
    pub fn refuse(&mut self, key: &str, found: &str, allowed: &str) {
        self.problems.push(format!("`{key}`: found `{}`, allowed is {allowed}", shorten(found)));
    }

    /// Notes a problem that is not about one value alone. The text should name the options it is about.
    pub fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text);
    }

    /// Whether there has been no problem so far.
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// All problems, keys that no call asked for included.
    pub fn finish(mut self) -> Problems {
        let unknown = self.items.iter().filter(|(_, used)| !used).map(|(item, _)| &item.key);
        for key in unknown {
            let key = shorten(key);
            let of_other = |other: &&Plugin| other.options.iter().any(|option| option.eq_ignore_ascii_case(&key));
            if let Some(other) = self.other.filter(of_other) {
                self.problems.push(format!("`{key}`: unknown option here, it is one of {}", other.name));
                continue;
            }
            match closest(&key, &self.known) {
                Some(known) => self.problems.push(format!("`{key}`: unknown option, did you mean `{known}`?")),
                None => self.problems.push(format!("`{key}`: unknown option, known are `{}`", self.known.join("`, `"))),
            }
        }
        self.problems
    }

    /// The value of an option, unless it is absent or null.
    fn take(&mut self, key: &'static str) -> Option<Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let mut matching = self.items.iter_mut().filter(|(item, _)| item.key.eq_ignore_ascii_case(key));
        let (first, used) = matching.next()?;
        *used = true;
        let value = first.value.clone();
        let first = first.at;
        let mut again = None;
        for (item, used) in matching {
            *used = true;
            again = again.or(Some(item.at));
        }
        if let Some(again) = again {
            self.problems.push(format!("`{key}`: given at {first} and again at {again}, allowed is once"));
        }
        (value != Value::Null).then_some(value)
    }

    /// An option that `read` makes of its text; an empty text counts as not given.
    fn parsed<T>(&mut self, key: &'static str, allowed: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        match self.take(key)? {
            Value::Text(text) if text.is_empty() => None,
            Value::Text(text) | Value::Number(text) => {
                let value = read(&text);
                if value.is_none() {
                    self.refuse(key, &text, allowed);
                }
                value
            }
            value => {
                self.wrong(key, &value, allowed);
                None
            }
        }
    }

    /// Notes that an option has a value of the wrong kind.
    fn wrong(&mut self, key: &str, value: &Value, allowed: &str) {
        self.problems.push(format!("`{key}`: found {}, allowed is {allowed}", kind(value)));
    }
}

/// What a value is, for a text that says what was found.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "text in double quotes",
        Value::Number(_) => "a number",
        Value::Bool(true) => "`true`",
        Value::Bool(false) => "`false`",
        Value::Null => "nothing",
        Value::List(_) => "a list",
        Value::Object(_) => "a block",
    }
}

/// The option nearest to `key`, if one is near enough to be what was meant: at most one edit (insertion, deletion,
/// substitution, swap of neighbours) for each three characters, letter case ignored. `keylime_agent` suggests by the
/// same measure.
fn closest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_lowercase();
    let limit = (key.chars().count() / 3).max(1);
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&key, &known.to_lowercase()), *known))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Reads `1h`, `1m30s`, `1.5s` or `500ms`. Not negative, no bare number.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(unit_at)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Prints a time the way [`parse_duration`] reads it.
struct AsGoDuration(Duration);

impl fmt::Display for AsGoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("`0s`");
        }
        f.write_str("`")?;
        for (size, unit) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
            let rest = match unit {
                "h" => millis,
                "m" => millis % 3_600_000,
                "s" => millis % 60_000,
                _ => millis % 1_000,
            };
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
            }
        }
        f.write_str("`")
    }
}

#[cfg(test)]
mod tests;
