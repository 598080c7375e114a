// SPDX-License-Identifier: Apache-2.0
//! Waiting for a condition, never for a length of time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Shortest and longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Calls `look` until it answers `Some` or an error, or until `limit` has passed.
///
/// The pause between two looks grows from 1 to 20 ms, so the answer is at most 20 ms late.
///
/// # Errors
/// The error of `look`, or one that names `what` when the time is up.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            bail!("{what}: not within {:.1} s", limit.as_secs_f64());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        let found = until("third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn names_what_did_not_happen() {
        let error = until("the moon", Duration::from_millis(5), || Ok(None::<()>)).unwrap_err();
        assert_eq!(error.to_string(), "the moon: not within 0.0 s");
    }
}
