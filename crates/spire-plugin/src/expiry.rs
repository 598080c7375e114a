// SPDX-License-Identifier: Apache-2.0
//! Warns before the certificates of the configuration end, and counts the days.
//!
//! A certificate warns when less than a tenth of its life is left, but no sooner than 30 days before its end and no
//! later than a day before it; one that lives less than four days warns in its last quarter. So a certificate for a
//! year has 30 days left, one for 90 days nine, one for a week a day, one for 24 hours six hours. Whoever renews
//! certificates by program does so well before (at half or two thirds of their life as a rule), so a warning means
//! that this has failed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use crate::Metrics;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate that the configuration has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedCertificate {
    /// The option that names the file; also the label of the metric.
    pub option: &'static str,
    /// The file.
    pub path: PathBuf,
    /// First moment of its validity.
    pub not_before: SystemTime,
    /// Last moment of its validity.
    pub not_after: SystemTime,
}

impl LoadedCertificate {
    /// How far its life has gone.
    fn stage(&self, now: SystemTime) -> Stage {
        match self.not_after.duration_since(now) {
            Err(_) => Stage::Expired,
            Ok(left) => {
                let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
                let early = (life / 10).min(30 * DAY).max(DAY.min(life / 4));
                if left < early { Stage::Ending } else { Stage::Good }
            }
        }
    }

    /// Days to its end, negative after it.
    fn days_left(&self, now: SystemTime) -> f32 {
        let days = |time: Duration| time.as_secs_f32() / DAY.as_secs_f32();
        self.not_after.duration_since(now).map_or_else(|past| -days(past.duration()), days)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Good,
    Ending,
    Expired,
}

/// The certificates of the configuration in force, each with the stage that has been told.
#[derive(Debug)]
pub(crate) struct Expiry {
    certificates: Vec<(LoadedCertificate, Stage)>,
}

impl Expiry {
    pub(crate) fn new(certificates: Vec<LoadedCertificate>) -> Self {
        Self { certificates: certificates.into_iter().map(|certificate| (certificate, Stage::Good)).collect() }
    }

    /// Takes the certificates of a new configuration. What has been told of one that stays is not told again.
    pub(crate) fn replace(&mut self, certificates: Vec<LoadedCertificate>) {
        let old = std::mem::replace(self, Self::new(certificates)).certificates;
        for (certificate, told) in &mut self.certificates {
            if let Some((_, before)) = old.iter().find(|(known, _)| known == certificate) {
                *told = *before;
            }
        }
    }

    /// Warns of each certificate that has reached a new stage, and sets the gauge `certificate_days_left` of each
    /// option, which is that of the certificate that ends first. Returns whether there was a warning.
    pub(crate) fn check(&mut self, now: SystemTime, metrics: &Metrics) -> bool {
        let mut warned = false;
        let mut days = BTreeMap::new();
        for (certificate, told) in &mut self.certificates {
            let left = certificate.days_left(now);
            let first = days.entry(certificate.option).or_insert(left);
            *first = first.min(left);

            let stage = certificate.stage(now);
            if stage > *told {
                warned = true;
                let (option, path) = (certificate.option, certificate.path.display());
                match stage {
                    Stage::Good => {}
                    Stage::Ending => {
                        let hours = left * 24.0;
                        tracing::warn!(option, %path, hours_left = hours.round(), "A certificate ends soon");
                    }
                    Stage::Expired => tracing::warn!(option, %path, "A certificate has expired"),
                }
            }
            *told = stage;
        }
        for (option, days) in days {
            metrics.gauge("certificate_days_left", days, &[("option", option)]);
        }
        warned
    }
}

#[cfg(test)]
mod tests;
