// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::hcl;

#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Both,
    Local,
    Neither,
}

const BY: [(&str, By); 2] = [("both", By::Both), ("local", By::Local)];
const GROUPS: [(&str, u8); 3] = [("agent_id", 1), ("ek_hash", 2), ("pcr", 3)];

fn options(text: &str) -> Options {
    Options::new(hcl::parse(text).unwrap())
}

/// Reads one option of each kind and returns what was read and all problems.
#[allow(clippy::type_complexity, reason = "one value for each reader")]
fn read(text: &str) -> ((Option<Vec<String>>, Option<Vec<u32>>, By, Option<Vec<u8>>), String) {
    let mut options = options(text);
    let read = (
        options.strings("hosts"),
        options.numbers("pcrs", 0..=23),
        options.choice("by", &BY, By::Neither),
        options.choices("groups", &GROUPS),
    );
    options.exclude("hosts", "host", "set one of them");
    options.optional_string("host");
    (read, options.finish().to_string())
}

#[test]
fn what_is_not_given_is_not_there() {
    for text in [
        "",
        "hosts = \"\" pcrs = \"\" by = \"\" groups = \"\"",
        r#"{"hosts": null, "pcrs": null, "by": null, "groups": null}"#,
        "hosts = \n\"pcrs\" = \n\"by\" = \n\"groups\" = ",
    ] {
        assert_eq!(read(text), ((None, None, By::Neither, None), String::new()), "{text}");
    }
}

#[test]
fn lists_and_single_values() {
    let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    for (text, hosts, pcrs, by, groups) in [
        (
            "hosts = [\"a:1\", 2, ] PCRS = [0, \"7\", 23] By = \"both\" Groups = [\"pcr\", \"agent_id\"]",
            texts(&["a:1", "2"]),
            Some(vec![0, 7, 23]),
            By::Both,
            Some(vec![3, 1]),
        ),
        (
            r#"{"hosts": ["a:1", 2], "pcrs": [0, "7", 23], "by": "local", "GROUPS": ["pcr", "agent_id"]}"#,
            texts(&["a:1", "2"]),
            Some(vec![0, 7, 23]),
            By::Local,
            Some(vec![3, 1]),
        ),
        ("hosts = \"a:1\" pcrs = 7 groups = \"pcr\"", texts(&["a:1"]), Some(vec![7]), By::Neither, Some(vec![3])),
        (
            "hosts = 0x1F pcrs = \"7\" groups = [\"pcr\", \"pcr\"]",
            texts(&["0x1F"]),
            Some(vec![7]),
            By::Neither,
            Some(vec![3, 3]),
        ),
        ("hosts = [] pcrs = [] groups = []", texts(&[]), Some(vec![]), By::Neither, Some(vec![])),
    ] {
        assert_eq!(read(text), ((hosts, pcrs, by, groups), String::new()), "{text}");
    }
}

#[test]
fn each_problem_names_option_place_found_and_allowed() {
    let texts = "a list of at most 64 texts in double quotes";
    let numbers = "a list of at most 64 whole numbers from 0 to 23";
    let number = "a whole number from 0 to 23";
    let groups = "`agent_id`, `ek_hash` or `pcr`";
    let long = |element: &str| format!("[{}]", vec![element; 65].join(","));
    for (text, problem) in [
        ("hosts = true", format!("`hosts`: found `true`, allowed is {texts}")),
        ("hosts { a = 1 }", format!("`hosts`: found a block, allowed is {texts}")),
        (
            "hosts = [\"a\", false]",
            "`hosts`, element 2: found `false`, allowed is text in double quotes, not empty".into(),
        ),
        ("hosts = [[\"a\"]]", "`hosts`, element 1: found a list, allowed is text in double quotes, not empty".into()),
        ("hosts = [{}]", "`hosts`, element 1: found a block, allowed is text in double quotes, not empty".into()),
        ("hosts = [\"\"]", "`hosts`, element 1: found ``, allowed is text in double quotes, not empty".into()),
        (
            r#"{"hosts": ["a", null]}"#,
            "`hosts`, element 2: found nothing, allowed is text in double quotes, not empty".into(),
        ),
        (&format!("hosts = {}", long("\"a\"")), format!("`hosts`: found a list of 65, allowed is {texts}")),
        ("pcrs = true", format!("`pcrs`: found `true`, allowed is {numbers}")),
        ("pcrs = {}", format!("`pcrs`: found a block, allowed is {numbers}")),
        ("pcrs = 24", format!("`pcrs`: found `24`, allowed is {number}")),
        ("pcrs = \"x\"", format!("`pcrs`: found `x`, allowed is {number}")),
        ("pcrs = [0, 24]", format!("`pcrs`, element 2: found `24`, allowed is {number}")),
        ("pcrs = [-1]", format!("`pcrs`, element 1: found `-1`, allowed is {number}")),
        ("pcrs = [1.5]", format!("`pcrs`, element 1: found `1.5`, allowed is {number}")),
        ("pcrs = [0x7]", format!("`pcrs`, element 1: found `0x7`, allowed is {number}")),
        ("pcrs = [\"\"]", format!("`pcrs`, element 1: found ``, allowed is {number}")),
        (
            "pcrs = [99999999999999999999]",
            format!("`pcrs`, element 1: found `99999999999999999999`, allowed is {number}"),
        ),
        (
            "pcrs = [true, \"\\n\"]",
            format!(
                "`pcrs`, element 1: found `true`, allowed is {number}; `pcrs`, element 2: found `\\n`, allowed is {number}"
            ),
        ),
        (&format!("pcrs = {}", long("1")), format!("`pcrs`: found a list of 65, allowed is {numbers}")),
        ("by = \"Both\"", "`by`: found `Both`, allowed is `both` or `local`".into()),
        ("by = 1", "`by`: found `1`, allowed is `both` or `local`".into()),
        ("by = false", "`by`: found `false`, allowed is `both` or `local`".into()),
        ("by = [\"both\"]", "`by`: found a list, allowed is `both` or `local`".into()),
        ("by = {}", "`by`: found a block, allowed is `both` or `local`".into()),
        ("groups = true", format!("`groups`: found `true`, allowed is a list of at most 64 of {groups}")),
        ("groups = \"ek\"", format!("`groups`: found `ek`, allowed is {groups}")),
        ("groups = [\"pcr\", \"ek\"]", format!("`groups`, element 2: found `ek`, allowed is {groups}")),
        ("groups = [1]", format!("`groups`, element 1: found `1`, allowed is {groups}")),
        ("groups = [true]", format!("`groups`, element 1: found `true`, allowed is {groups}")),
        ("host = \"a\" HOSTS = []", "`hosts` and `host` exclude each other: set one of them".into()),
        ("hsots = []", "`hsots`: unknown option, did you mean `hosts`?".into()),
    ] {
        assert_eq!(read(text).1, problem, "{text}");
    }
}

#[test]
fn a_list_with_a_wrong_element_is_none() {
    assert_eq!(options("a = [\"x\", true]").strings("a"), None);
    assert_eq!(options("a = [1, 99]").numbers("a", 0..=23), None);
}

#[test]
fn options_exclude_each_other_only_where_both_have_a_value() {
    for text in ["", "a = 1", "b = 1", "a = 1 b = \"\"", r#"{"a": 1, "b": null}"#, "ab = 1 b = 1"] {
        assert!(!options(text).exclude("a", "b", "why"), "{text}");
    }
    for text in ["a = 1 b = false", "A = [] B {}"] {
        assert!(options(text).exclude("a", "b", "why"), "{text}");
    }
}
