// SPDX-License-Identifier: Apache-2.0
//! Readers of options that are lists or one word of a few, and options that exclude each other.
//!
//! As Go reads HCL into a slice, one value without brackets is a list of one.

use std::ops::RangeInclusive;

use super::{Options, kind};
use crate::{hcl::Value, text::shorten};

/// Longest list accepted, in elements.
pub const MAX_LIST: usize = 64;

impl Options {
    /// A list of texts, in their order; `None` if the option is not given, null or an empty text.
    ///
    /// An element may be a bare number, which is taken as written, but not an empty text. At most [`MAX_LIST`]
    /// elements; an empty list is one that is given.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        let allowed = format!("a list of at most {MAX_LIST} texts in double quotes");
        self.list(key, &allowed, "text in double quotes, not empty", |text| (!text.is_empty()).then(|| text.to_owned()))
    }

    /// A list of whole numbers, each in `range`, with or without quotes; otherwise as [`strings`](Self::strings).
    pub fn numbers(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<Vec<u32>> {
        let element = format!("a whole number from {} to {}", range.start(), range.end());
        let allowed = format!("a list of at most {MAX_LIST} whole numbers from {} to {}", range.start(), range.end());
        self.list(key, &allowed, &element, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// One whole number in `range`, with or without quotes.
    pub fn number(&mut self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let read = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parsed(key, &allowed, read).unwrap_or(default)
    }

    /// One of `choices`, each a word as it is written and what it stands for. Letter case counts, as in SPIRE's own
    /// options. Not given, null and an empty text all mean `default`.
    pub fn choice<T: Clone>(&mut self, key: &'static str, choices: &[(&str, T)], default: T) -> T {
        self.parsed(key, &words(choices), |text| chosen(choices, text)).unwrap_or(default)
    }

    /// A list of which each element is one of `choices`, in the order given, repetitions included; otherwise as
    /// [`strings`](Self::strings).
    pub fn choices<T: Clone>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<Vec<T>> {
        let element = words(choices);
        let allowed = format!("a list of at most {MAX_LIST} of {element}");
        self.list(key, &allowed, &element, |text| chosen(choices, text))
    }

    /// Whether `key` is in the text with a value: neither null nor an empty text. Reads nothing, so it makes no
    /// option known.
    pub fn given(&self, key: &str) -> bool {
        self.items.iter().any(|(item, _)| {
            item.key.eq_ignore_ascii_case(key)
                && match &item.value {
                    Value::Null => false,
                    Value::Text(text) => !text.is_empty(),
                    _ => true,
                }
        })
    }

    /// Notes a problem if both options are [given](Self::given), and tells whether they are. `reason` is one clause
    /// that says why they exclude each other or what to do.
    pub fn exclude(&mut self, key: &'static str, other: &'static str, reason: &str) -> bool {
        let both = self.given(key) && self.given(other);
        if both {
            self.problem(format!("`{key}` and `{other}` exclude each other: {reason}"));
        }
        both
    }

    /// A list of what `read` makes of each element's text. `allowed` describes the list, `element` an element.
    fn list<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        element: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let values = match self.take(key)? {
            Value::List(values) => values,
            Value::Text(text) if text.is_empty() => return None,
            Value::Text(text) | Value::Number(text) => {
                let one = read(&text);
                if one.is_none() {
                    self.refuse(key, &text, element);
                }
                return one.map(|one| vec![one]);
            }
            value => {
                self.wrong(key, &value, allowed);
                return None;
            }
        };
        if values.len() > MAX_LIST {
            self.problem(format!("`{key}`: found a list of {}, allowed is {allowed}", values.len()));
            return None;
        }
        let mut read_all = Some(Vec::with_capacity(values.len()));
        for (place, value) in (1..).zip(&values) {
            let read = match value {
                Value::Text(text) | Value::Number(text) => {
                    let read = read(text);
                    if read.is_none() {
                        let found = shorten(text);
                        self.problem(format!("`{key}`, element {place}: found `{found}`, allowed is {element}"));
                    }
                    read
                }
                value => {
                    self.problem(format!("`{key}`, element {place}: found {}, allowed is {element}", kind(value)));
                    None
                }
            };
            // One wrong element makes no list, but each is reported.
            read_all = read_all.zip(read).map(|(mut all, one)| {
                all.push(one);
                all
            });
        }
        read_all
    }
}

fn chosen<T: Clone>(choices: &[(&str, T)], text: &str) -> Option<T> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| choice.clone())
}

/// The words as a sentence has them: `a`, `b` or `c`.
fn words<T>(choices: &[(&str, T)]) -> String {
    let mut text = String::new();
    for (place, (word, _)) in (1..).zip(choices) {
        let before = match place {
            1 => "",
            place if place == choices.len() => " or ",
            _ => ", ",
        };
        text.push_str(before);
        text.push('`');
        text.push_str(word);
        text.push('`');
    }
    text
}

#[cfg(test)]
mod tests;
