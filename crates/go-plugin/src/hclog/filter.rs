// SPDX-License-Identifier: Apache-2.0
//! Which events become log lines: a level, and other levels for targets that begin with a given word.

use tracing::{Metadata, level_filters::LevelFilter};

/// Libraries below the plugin whose debug lines tell of every frame and would drown the plugin's own.
const TRANSPORT: [&str; 7] = ["h2", "hyper", "hyper_util", "reqwest", "rustls", "tonic", "tower"];

/// Levels by target. The longest matching target decides.
#[derive(Debug)]
pub(crate) struct Filter {
    default: LevelFilter,
    /// Targets with their levels, longest first.
    targets: Vec<(String, LevelFilter)>,
}

impl Filter {
    /// Reads `LEVEL` and `TARGET=LEVEL` parts separated by commas; the second value holds the parts that are neither.
    ///
    /// Without a level of its own the rest is `debug`, since the host filters again by its own level, and the
    /// transport libraries are at `warn`.
    pub(crate) fn parse(text: &str) -> (Self, Vec<&str>) {
        let mut filter = Self { default: LevelFilter::DEBUG, targets: Vec::new() };
        let mut rejected = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                None => match part.parse() {
                    Ok(level) => filter.default = level,
                    Err(_) => rejected.push(part),
                },
                Some((target, level)) => match level.trim().parse() {
                    Ok(level) => filter.targets.push((target.trim().to_owned(), level)),
                    Err(_) => rejected.push(part),
                },
            }
        }
        for library in TRANSPORT {
            if !filter.targets.iter().any(|(target, _)| target == library) {
                let level = filter.default.min(LevelFilter::WARN);
                filter.targets.push((library.to_owned(), level));
            }
        }
        filter.targets.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        (filter, rejected)
    }

    /// Whether events of this place are logged.
    pub(crate) fn allows(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level(metadata.target())
    }

    /// The most verbose level of all.
    pub(crate) fn max(&self) -> LevelFilter {
        self.targets.iter().map(|(_, level)| *level).fold(self.default, LevelFilter::max)
    }

    fn level(&self, target: &str) -> LevelFilter {
        let covers = |prefix: &str| match target.strip_prefix(prefix) {
            Some(rest) => rest.is_empty() || rest.starts_with("::"),
            None => false,
        };
        self.targets.iter().find(|(prefix, _)| covers(prefix)).map_or(self.default, |(_, level)| *level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_target_decides() {
        let (filter, rejected) = Filter::parse(" info , my=trace, my::quiet=off,h2=debug");
        assert!(rejected.is_empty());
        for (target, level) in [
            ("other", LevelFilter::INFO),
            ("my", LevelFilter::TRACE),
            ("my::part", LevelFilter::TRACE),
            ("mine", LevelFilter::INFO),
            ("my::quiet::deep", LevelFilter::OFF),
            ("h2::codec", LevelFilter::DEBUG),
            ("hyper::proto", LevelFilter::WARN),
        ] {
            assert_eq!(filter.level(target), level, "{target}");
        }
        assert_eq!(filter.max(), LevelFilter::TRACE);
    }

    #[test]
    fn the_default_is_debug_without_the_transport() {
        let (filter, _) = Filter::parse("");
        assert_eq!(filter.level("anything"), LevelFilter::DEBUG);
        assert_eq!(filter.level("tonic::transport"), LevelFilter::WARN);
        let (filter, _) = Filter::parse("error");
        assert_eq!(filter.level("tonic::transport"), LevelFilter::ERROR);
        assert_eq!(filter.max(), LevelFilter::ERROR);
    }

    #[test]
    fn parts_that_mean_nothing_are_named() {
        let (filter, rejected) = Filter::parse("loud,my=loudest,warn");
        assert_eq!(rejected, ["loud", "my=loudest"]);
        assert_eq!(filter.level("my"), LevelFilter::WARN);
    }
}
