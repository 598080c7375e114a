// SPDX-License-Identifier: Apache-2.0
//! Medians, ratios, and the table they are printed in.

use std::fmt;
use std::time::{Duration, Instant};

/// A figure of the report.
#[derive(Debug)]
struct Row {
    what: String,
    ours: String,
    other: String,
    ratio: String,
    goal: String,
    reached: &'static str,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// What a figure is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// At most this, in the figure's own unit.
    AtMost(f64),
    /// At least this, in the figure's own unit.
    AtLeast(f64),
    /// At most this share of the other figure.
    ShareOf(f64),
    /// At least this many times the other figure.
    Times(f64),
    /// No goal is set.
    None,
}

impl Report {
    /// Adds a figure. `other` is the raw TPM's or the peer's, with its name.
    pub(crate) fn add(&mut self, what: &str, unit: &str, ours: f64, other: Option<(&str, f64)>, goal: Goal) {
        let ratio = other.map(|(_, other)| ours / other);
        let reached = match goal {
            Goal::AtMost(limit) => Some(ours <= limit),
            Goal::AtLeast(limit) => Some(ours >= limit),
            Goal::ShareOf(limit) => ratio.map(|ratio| ratio <= limit),
            Goal::Times(limit) => ratio.map(|ratio| ratio >= limit),
            Goal::None => None,
        };
        self.rows.push(Row {
            what: what.to_owned(),
            ours: format!("{} {unit}", three_digits(ours)),
            other: other.map(|(name, other)| format!("{} {unit} {name}", three_digits(other))).unwrap_or_default(),
            ratio: ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            goal: match goal {
                Goal::AtMost(limit) => format!("<= {limit} {unit}"),
                Goal::AtLeast(limit) => format!(">= {limit} {unit}"),
                Goal::ShareOf(limit) => format!("<= {limit} x"),
                Goal::Times(limit) => format!(">= {limit} x"),
                Goal::None => String::new(),
            },
            reached: match reached {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            },
        });
    }
}

/// With as many decimals as mean something.
fn three_digits(figure: f64) -> String {
    if figure < 100.0 { format!("{figure:.2}") } else { format!("{figure:.0}") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | ours | beside it | ratio | goal | reached |\n|---|---|---|---|---|---|")?;
        for Row { what, ours, other, ratio, goal, reached } in &self.rows {
            writeln!(f, "| {what} | {ours} | {other} | {ratio} | {goal} | {reached} |")?;
        }
        Ok(())
    }
}

/// Times of one thing.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The median in milliseconds; zero without samples.
    pub(crate) fn median_ms(&self) -> f64 {
        let mut times = self.0.clone();
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Runs something and takes its time.
pub(crate) fn timed<T>(samples: &mut Samples, what: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = what();
    samples.push(start.elapsed());
    value
}
