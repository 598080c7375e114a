// SPDX-License-Identifier: Apache-2.0
//! Settings from several sources, the later ones overriding the earlier ones, each remembering where it came from.
//!
//! A source is a TOML file with one table of options, a folder of such files, or environment variables with a common
//! prefix. What the options mean is told by [`crate::options`] and its caller.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
        }
    }
}

/// One value and its origin. `Debug` leaves the value out, since it may be a password.
#[derive(Clone)]
pub struct Setting {
    /// The value as written; from the environment always a string.
    pub value: toml::Value,
    /// Where it was written.
    pub source: Source,
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Why a source could not be read. The texts name the file or variable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The file or folder exists but cannot be read, or must exist and does not.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not TOML. The message holds position and reason, not the offending line, which may be a password.
    #[error("{}: line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The parser's reason.
        message: String,
    },
    /// The name of the options' table is used for something else.
    #[error("{}: '{table}' must be a table, written [{table}]", path.display())]
    NotATable {
        /// The file.
        path: PathBuf,
        /// The name looked for.
        table: String,
    },
    /// The file has settings, and none in the options' table.
    #[error("{}: there is no table [{table}], so none of the file's options would count: it has {found}", path.display())]
    NoTable {
        /// The file.
        path: PathBuf,
        /// The name looked for.
        table: String,
        /// The first name at the file's top level.
        found: String,
    },
    /// An environment variable is not UTF-8.
    #[error("environment variable {variable} is not valid UTF-8")]
    Encoding {
        /// Its name.
        variable: String,
    },
}

/// The settings read so far.
#[derive(Clone, Debug, Default)]
pub struct Layered {
    settings: BTreeMap<String, Setting>,
    files: Vec<PathBuf>,
}

impl Layered {
    /// No settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the options in table `table` of the TOML file `path`. An empty file adds nothing.
    ///
    /// # Errors
    /// The file cannot be read or parsed, the table is not a table, or the file has other things only.
    pub fn file(&mut self, path: &Path, table: &str) -> Result<(), LayerError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| LayerError::Read { path: path.to_owned(), source })?;
        self.files.push(path.to_owned());
        self.text(&text, path, table)
    }

    /// As [`Layered::file`], but a file that does not exist adds nothing. Returns whether it exists.
    ///
    /// # Errors
    /// The file exists and cannot be read or parsed, or the table is not a table.
    pub fn optional_file(&mut self, path: &Path, table: &str) -> Result<bool, LayerError> {
        match self.file(path, table) {
            Err(LayerError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Adds all files in folder `dir`, in lexicographic order of their names; hidden files and sub-folders are left out.
    /// A folder that does not exist adds nothing. All files are tried; the problems of each are returned.
    pub fn snippets(&mut self, dir: &Path, table: &str) -> Vec<LayerError> {
        let failed = |source| vec![LayerError::Read { path: dir.to_owned(), source }];
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => return failed(error),
        };
        let mut paths = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => paths.push(entry.path()),
                Err(error) => return failed(error),
            }
        }
        paths.retain(|path| {
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            !hidden && path.is_file()
        });
        paths.sort();
        paths.iter().filter_map(|path| self.file(path, table).err()).collect()
    }

    /// Adds one option per environment variable that starts with `prefix`; the option's name is the rest in lower case.
    /// `variables` is an argument so that tests need not change the process's environment. Variables named in `except`
    /// are left out. All variables are tried; the problems of each are returned.
    pub fn environment(
        &mut self,
        prefix: &str,
        except: &[&str],
        variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Vec<LayerError> {
        let mut problems = Vec::new();
        for (variable, value) in variables {
            let Some(variable) = variable.to_str() else {
                continue;
            };
            let Some(name) = variable.strip_prefix(prefix).filter(|name| !name.is_empty()) else {
                continue;
            };
            if except.contains(&variable) {
                continue;
            }
            match value.into_string() {
                Ok(value) => {
                    self.set(&name.to_lowercase(), toml::Value::String(value), Source::Environment(variable.to_owned()))
                }
                Err(_) => problems.push(LayerError::Encoding { variable: variable.to_owned() }),
            }
        }
        problems
    }

    /// Sets one option, overriding what was there.
    pub fn set(&mut self, name: &str, value: toml::Value, source: Source) {
        self.settings.insert(name.to_owned(), Setting { value, source });
    }

    /// The setting of that name.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    /// The files that were read, in the order in which they were.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// All settings by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.settings.iter().map(|(name, setting)| (name.as_str(), setting))
    }

    fn text(&mut self, text: &str, path: &Path, table: &str) -> Result<(), LayerError> {
        let mut document: toml::Table = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            LayerError::Syntax {
                path: path.to_owned(),
                line: 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count(),
                message: error.message().to_owned(),
            }
        })?;
        match document.remove(table) {
            None => match document.into_iter().next() {
                None => Ok(()),
                Some((name, value)) => Err(LayerError::NoTable {
                    path: path.to_owned(),
                    table: table.to_owned(),
                    found: if value.is_table() { format!("[{name}]") } else { name },
                }),
            },
            Some(toml::Value::Table(options)) => {
                for (name, value) in options {
                    self.set(&name, value, Source::File(path.to_owned()));
                }
                Ok(())
            }
            Some(_) => Err(LayerError::NotATable { path: path.to_owned(), table: table.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of<'a>(layered: &'a Layered, name: &str) -> (&'a str, String) {
        let setting = layered.setting(name).unwrap();
        (setting.value.as_str().unwrap(), setting.source.to_string())
    }

    #[test]
    fn later_sources_override_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("agent.conf");
        let snippets = dir.path().join("agent.conf.d");
        std::fs::write(&main, "[agent]\na = \"main\"\nb = \"main\"\nc = \"main\"\n").unwrap();
        std::fs::create_dir(&snippets).unwrap();
        std::fs::write(snippets.join("20-b"), "[agent]\nb = \"twenty\"\nd = \"twenty\"").unwrap();
        std::fs::write(snippets.join("10-a"), "[agent]\nb = \"ten\"\nd = \"ten\"").unwrap();
        std::fs::write(snippets.join(".hidden"), "not toml").unwrap();

        let mut layered = Layered::new();
        assert!(layered.optional_file(&main, "agent").unwrap());
        assert!(layered.snippets(&snippets, "agent").is_empty());
        let environment = [("X_C", "env"), ("X_", "nothing"), ("OTHER", "x"), ("X_CONFIG", "x")]
            .map(|(name, value)| (name.into(), value.into()));
        assert!(layered.environment("X_", &["X_CONFIG"], environment).is_empty());

        assert_eq!(text_of(&layered, "a"), ("main", main.display().to_string()));
        let twenty = snippets.join("20-b").display().to_string();
        assert_eq!(text_of(&layered, "b"), ("twenty", twenty.clone()));
        assert_eq!(text_of(&layered, "d"), ("twenty", twenty));
        assert_eq!(text_of(&layered, "c"), ("env", "environment variable X_C".to_owned()));
        assert_eq!(layered.iter().count(), 4);
        assert_eq!(layered.files(), [main, snippets.join("10-a"), snippets.join("20-b")]);
    }

    #[test]
    fn each_problem_has_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.conf");
        let shown = path.display();
        let mut layered = Layered::new();

        let error = layered.file(&path, "agent").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {shown}: No such file or directory (os error 2)"));
        assert!(!layered.optional_file(&path, "agent").unwrap());

        std::fs::write(&path, "[agent]\npassword = hunter2\n").unwrap();
        let error = layered.file(&path, "agent").unwrap_err().to_string();
        assert!(error.starts_with(&format!("{shown}: line 2: ")), "{error}");
        assert!(!error.contains("hunter2"), "{error}");

        std::fs::write(&path, "agent = 1").unwrap();
        assert_eq!(
            layered.file(&path, "agent").unwrap_err().to_string(),
            format!("{shown}: 'agent' must be a table, written [agent]")
        );

        let bytes = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![0xff]);
        let problems = layered.environment("X_", &[], [("X_A".into(), bytes)]);
        assert_eq!(problems[0].to_string(), "environment variable X_A is not valid UTF-8");
    }

    #[test]
    fn a_file_of_other_tables_only_is_a_slip() {
        let mut layered = Layered::new();
        layered.text("[agent]\nb = 2\n[other]\na = 1\n", Path::new("f"), "agent").unwrap();
        layered.text("# nothing\n", Path::new("f"), "agent").unwrap();
        assert_eq!(layered.iter().count(), 1);
        for (text, found) in [("[agnt]\na = 1\n", "[agnt]"), ("port = 1\n", "port")] {
            assert_eq!(
                layered.text(text, Path::new("f"), "agent").unwrap_err().to_string(),
                format!("f: there is no table [agent], so none of the file's options would count: it has {found}")
            );
        }
    }

    #[test]
    fn debug_hides_values() {
        let mut layered = Layered::new();
        layered.text("[agent]\na = \"hunter2\"", Path::new("f"), "agent").unwrap();
        assert!(!format!("{layered:?}").contains("hunter2"));
    }
}
