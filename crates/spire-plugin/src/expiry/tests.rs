// SPDX-License-Identifier: Apache-2.0
use std::time::UNIX_EPOCH;

use super::*;
use crate::test_support::Log;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn at(since_birth: Duration) -> SystemTime {
    UNIX_EPOCH + 20_000 * DAY + since_birth
}

fn certificate(life: Duration) -> LoadedCertificate {
    LoadedCertificate { option: "cert", path: "/c.pem".into(), not_before: at(Duration::ZERO), not_after: at(life) }
}

#[test]
fn each_life_has_its_warning() {
    for (life, left) in [
        (3650 * DAY, 30 * DAY),
        (365 * DAY, 30 * DAY),
        (90 * DAY, 9 * DAY),
        (7 * DAY, DAY),
        (4 * DAY, DAY),
        (DAY, 6 * HOUR),
        (HOUR, HOUR / 4),
    ] {
        let certificate = certificate(life);
        let second = Duration::from_secs(1);
        for (age, stage) in [
            (Duration::ZERO, Stage::Good),
            (life / 2, Stage::Good),
            (life - left, Stage::Good),
            (life - left + second, Stage::Ending),
            (life, Stage::Ending),
            (life + second, Stage::Expired),
        ] {
            assert_eq!(certificate.stage(at(age)), stage, "{life:?} at {age:?}");
        }
    }
}

#[test]
fn a_validity_that_ends_before_it_begins_is_no_reason_to_panic() {
    let backwards = LoadedCertificate { not_before: at(DAY), not_after: at(Duration::ZERO), ..certificate(DAY) };
    assert_eq!(backwards.stage(at(Duration::ZERO)), Stage::Good);
    assert_eq!(backwards.stage(at(HOUR)), Stage::Expired);
}

#[test]
fn days_left_go_below_zero() {
    let certificate = certificate(10 * DAY);
    for (age, days) in [(Duration::ZERO, 10.0), (9 * DAY + 12 * HOUR, 0.5), (10 * DAY, 0.0), (11 * DAY, -1.0)] {
        assert!((certificate.days_left(at(age)) - days).abs() < 1e-4, "{age:?}");
    }
}

#[test]
fn each_stage_is_told_once() {
    let (log, metrics) = (Log::default(), Metrics::nowhere());
    let _guard = log.listen();
    let mut expiry = Expiry::new(vec![certificate(DAY)]);
    for age in [0, 12, 17] {
        expiry.check(at(age * HOUR), &metrics);
    }
    assert_eq!(log.take(), [""; 0]);
    for age in [19, 20] {
        expiry.check(at(age * HOUR), &metrics);
        // Another configuration with the same certificate.
        expiry.replace(vec![certificate(DAY)]);
    }
    assert_eq!(log.take(), ["WARN A certificate ends soon option=\"cert\" path=/c.pem hours_left=5.0"]);
    expiry.check(at(25 * HOUR), &metrics);
    expiry.check(at(26 * HOUR), &metrics);
    assert_eq!(log.take(), ["WARN A certificate has expired option=\"cert\" path=/c.pem"]);

    // A new one starts anew.
    expiry.replace(vec![certificate(2 * DAY)]);
    expiry.check(at(26 * HOUR), &metrics);
    assert_eq!(log.take(), [""; 0]);
    expiry.check(at(37 * HOUR), &metrics);
    assert_eq!(log.take().len(), 1);
}
