// SPDX-License-Identifier: Apache-2.0
//! Which API versions are served.

use keylime_api::version::{ApiVersion, SUPPORTED};

const NONE: &str =
    "No supported version found in 'api_versions' configuration option; using default supported versions";

/// The versions that the `api_versions` option selects, ascending and never empty, and what to warn about.
pub(super) fn select(written: &[String]) -> (Vec<ApiVersion>, Vec<String>) {
    let mut versions = Vec::new();
    let mut warnings = Vec::new();
    for word in written {
        match word.as_str() {
            "default" => versions.extend(SUPPORTED),
            "latest" => versions.extend(SUPPORTED.last()),
            other => match other.parse().ok().filter(|v| SUPPORTED.contains(v)) {
                Some(version) => versions.push(version),
                None => warnings.push(format!(
                    "Skipping API version \"{other}\" obtained from 'api_versions' configuration option"
                )),
            },
        }
    }
    if versions.is_empty() {
        warnings.push(NONE.to_owned());
        versions.extend(SUPPORTED);
    }
    versions.sort();
    versions.dedup();
    (versions, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections() {
        let all = "2.1 2.2 2.3 2.4 2.5 2.6";
        let skipped = |v| format!("Skipping API version \"{v}\" obtained from 'api_versions' configuration option");
        for (written, expected, warnings) in [
            ("default", all, vec![]),
            ("latest", "2.6", vec![]),
            ("2.6 2.1 2.1", "2.1 2.6", vec![]),
            ("2.1 3.0", "2.1", vec![skipped("3.0")]),
            ("new", all, vec![skipped("new"), NONE.to_owned()]),
            ("", all, vec![NONE.to_owned()]),
        ] {
            let words: Vec<_> = written.split_whitespace().map(str::to_owned).collect();
            let (versions, got) = select(&words);
            let shown: Vec<_> = versions.iter().map(ToString::to_string).collect();
            assert_eq!(shown.join(" "), expected);
            assert_eq!(got, warnings);
        }
    }
}
