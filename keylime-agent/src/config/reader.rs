// SPDX-License-Identifier: Apache-2.0
//! Reads options one by one, with their defaults, and keeps what each of them came to.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use service::Secret;
use service::layered::Layered;
use service::options::{Options, Problems};

use super::values::{self, Host};
use super::{Effective, Notice, Shown};

/// Takes the options out of the settings. Each method gives the option's default for one that is not set, and for one
/// that has a problem, which is noted.
pub(super) struct Reader<'a> {
    /// For what has no method here.
    pub(super) options: Options<'a>,
    /// See [`super::sources::Read`].
    pub(super) uuid_is_in_environment: bool,
    notices: Vec<Notice>,
    effective: Vec<Effective>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(layered: &'a Layered, notices: Vec<Notice>) -> Self {
        Self { options: Options::new(layered), uuid_is_in_environment: false, notices, effective: Vec::new() }
    }

    /// Everything that was read, what to say of it, and what is wrong.
    pub(super) fn finish(self) -> (Vec<Effective>, Vec<Notice>, Option<Problems>) {
        (self.effective, self.notices, self.options.finish().err())
    }

    pub(super) fn warn(&mut self, text: String) {
        self.notices.push(Notice::Warning(text));
    }

    /// Warns about an option; the text completes "option 'x' (source) ".
    pub(super) fn warn_of(&mut self, name: &str, text: impl fmt::Display) {
        let source = self.options.setting(name).map(|setting| format!(" ({})", setting.source)).unwrap_or_default();
        self.warn(format!("option '{name}'{source}{text}"));
    }

    pub(super) fn warn_of_empty(&mut self, name: &str, used: &Path) {
        self.warn(format!("Empty string provided in configuration option {name}, using default {}", used.display()));
    }

    /// Keeps what an option came to.
    pub(super) fn note(&mut self, name: &'static str, value: Shown, has_effect: bool) {
        let source = self.options.setting(name).map(|setting| setting.source.clone());
        self.effective.push(Effective { name, value, source, has_effect });
    }

    /// Keeps what an option came to, unless it was set to something wrong.
    fn note_if<T: Serialize>(&mut self, name: &'static str, is_right: bool, value: T) {
        let is_set = self.options.setting(name).is_some();
        let shown = if is_set && !is_right { Shown::Wrong } else { Shown::value(value) };
        self.note(name, shown, true);
    }

    fn found_or<T: Serialize + Clone>(&mut self, name: &'static str, found: Option<T>, default: T) -> T {
        let is_right = found.is_some();
        let value = found.unwrap_or(default);
        self.note_if(name, is_right, value.clone());
        value
    }

    pub(super) fn text(&mut self, name: &'static str, default: &str) -> String {
        let found = self.options.text(name);
        self.found_or(name, found, default.to_owned())
    }

    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        let found = self.options.boolean(name);
        self.found_or(name, found, default)
    }

    pub(super) fn number(&mut self, name: &'static str, range: std::ops::RangeInclusive<u64>, default: u64) -> u64 {
        let found = self.options.number(name, *range.start(), *range.end());
        self.found_or(name, found, default)
    }

    pub(super) fn port(&mut self, name: &'static str, default: u16) -> u16 {
        let found = self.options.port(name);
        self.found_or(name, found, default)
    }

    pub(super) fn secret(&mut self, name: &'static str) -> Secret {
        let secret = self.options.secret(name).unwrap_or_default();
        let shown = if secret.expose().is_empty() { Shown::value("") } else { Shown::Hidden };
        self.note(name, shown, true);
        secret
    }

    /// A value that `parse` makes of the text and `show` turns into the text that means the same.
    pub(super) fn parsed<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, E>,
        show: impl FnOnce(&T) -> String,
    ) -> T {
        let found = self.options.parsed(name, parse);
        let is_right = found.is_some();
        let value = found.unwrap_or(default);
        let shown = show(&value);
        self.note_if(name, is_right, shown);
        value
    }

    pub(super) fn host(&mut self, name: &'static str) -> Host {
        let default = Host::Address(std::net::Ipv4Addr::LOCALHOST.into());
        self.parsed(name, default, Host::parse, Host::to_string)
    }

    /// A list as it is written; the caller notes what it comes to.
    pub(super) fn list(&mut self, name: &'static str) -> Option<Vec<String>> {
        self.options.list(name)
    }

    pub(super) fn file(&mut self, keylime_dir: &Path, name: &'static str, default: &str) -> PathBuf {
        let found = self.options.text(name);
        let is_right = found.is_some();
        let path = values::path_in(keylime_dir, found.as_deref().unwrap_or("default"), default);
        if found.is_some_and(|text| text.is_empty()) {
            self.warn_of_empty(name, &path);
        }
        self.note_if(name, is_right, path.to_string_lossy());
        path
    }
}
