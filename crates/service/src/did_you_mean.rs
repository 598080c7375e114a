// SPDX-License-Identifier: Apache-2.0
//! Suggestions for misspelt names.

/// The candidate nearest to `word`, if one is near enough to be what was meant: at most one edit (insertion, deletion,
/// substitution, swap of neighbours) per three characters, letter case ignored.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn suggests_only_near_names() {
        let names = ["registrar_ip", "registrar_port", "ip", "port"];
        assert_eq!(did_you_mean("registrar_prot", names), Some("registrar_port"));
        assert_eq!(did_you_mean("Registrar_IP", names), Some("registrar_ip"));
        assert_eq!(did_you_mean("prt", names), Some("port"));
        assert_eq!(did_you_mean("quote_interval", names), None);
        assert_eq!(did_you_mean("", names), None);
    }
}
