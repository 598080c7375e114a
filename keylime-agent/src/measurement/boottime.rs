// SPDX-License-Identifier: Apache-2.0
//! When the kernel was started. The verifier compares it between quotes: after a reboot the IMA list starts anew, also
//! where it is already longer than the old one was.

/// `btime` of `/proc/stat`: seconds since 1970, or `None` where the kernel does not tell.
pub(crate) fn read() -> Option<u64> {
    std::fs::read_to_string("/proc/stat").ok().as_deref().and_then(parse)
}

fn parse(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|value| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line() {
        assert_eq!(parse("cpu  1 2\nbtime 1700000000\nprocesses 1\n"), Some(1_700_000_000));
        assert_eq!(parse("cpu 1\n"), None);
        assert_eq!(parse("btime x\n"), None);
        assert!(read().is_some_and(|time| time > 1_000_000_000));
    }
}
