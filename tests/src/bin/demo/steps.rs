// SPDX-License-Identifier: Apache-2.0
//! Prints what happens, one step after the other, with the time each took.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The numbered steps of the demo.
#[derive(Debug)]
pub(crate) struct Steps {
    number: u32,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { number: 0 }
    }

    /// Runs a step that answers its value and what to tell of it.
    pub(crate) fn run<T>(&mut self, title: &str, step: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        self.timed(title, || {
            let start = Instant::now();
            step().map(|(value, told)| (value, told, start.elapsed()))
        })
    }

    /// As [`Steps::run`], for a step that measures the time that matters itself.
    pub(crate) fn timed<T>(&mut self, title: &str, step: impl FnOnce() -> Result<(T, String, Duration)>) -> Result<T> {
        self.number += 1;
        print!("{:2}  {title} ... ", self.number);
        let _shown = std::io::stdout().flush();
        let (value, told, took) = step().with_context(|| format!("step {} failed: {title}", self.number))?;
        println!("{}\n      {told}", seconds(took));
        Ok(value)
    }
}

/// A time as a person reads it: milliseconds below a second.
fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.0} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
