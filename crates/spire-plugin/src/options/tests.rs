// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::hcl;

fn options(text: &str) -> Options {
    Options::new(hcl::parse(text).unwrap())
}

/// Reads one option of each kind and returns what was read and all problems.
fn read(text: &str) -> (String, Option<String>, bool, u16, Duration, String) {
    let mut options = options(text);
    let range = Duration::from_millis(500)..=Duration::from_secs(5400);
    let read = (
        options.string("agent_host", "127.0.0.1"),
        options.optional_string("agent_ca_cert"),
        options.boolean("use_tls", false),
        options.port("agent_port", 9002),
        options.duration("interval", Duration::from_secs(10), range),
    );
    let ok = options.ok();
    let problems = options.finish();
    assert!(!ok || problems.texts.iter().all(|text| text.contains("unknown option")), "{problems}");
    (read.0, read.1, read.2, read.3, read.4, problems.to_string())
}

#[test]
fn defaults_and_values() {
    let default = ("127.0.0.1".to_owned(), None, false, 9002, Duration::from_secs(10), String::new());
    for text in [
        "",
        "agent_host = \"\" agent_ca_cert = \"\" agent_port = \"\" interval = \"\"",
        r#"{"agent_host": null, "agent_ca_cert": null, "use_tls": null, "agent_port": null, "interval": null}"#,
    ] {
        assert_eq!(read(text), default, "{text}");
    }
    let given = ("h".to_owned(), Some("/ca".to_owned()), true, 1, Duration::from_millis(61_500), String::new());
    for text in [
        "agent_host = \"h\" agent_ca_cert = \"/ca\" use_tls = true agent_port = 1 interval = \"1m1.5s\"",
        "AGENT_HOST = \"h\" Agent_CA_Cert = \"/ca\" use_TLS = true agent_Port = \"1\" Interval = \"1m1s500ms\"",
        r#"{"agent_host": "h", "agent_ca_cert": "/ca", "use_tls": true, "agent_port": 1, "interval": "61500ms"}"#,
    ] {
        assert_eq!(read(text), given, "{text}");
    }
}

#[test]
fn text_takes_a_bare_number_as_written() {
    let mut options = options("a = 0x1F b = 1.50 c = 12345678901234567890");
    assert_eq!(options.string("a", ""), "0x1F");
    assert_eq!(options.string("b", ""), "1.50");
    assert_eq!(options.string("c", ""), "12345678901234567890");
    assert!(options.finish().is_empty());
}

#[test]
fn each_problem_names_option_found_and_allowed() {
    let time = "allowed is a time from `500ms` to `1h30m`, for example `1m30s`";
    for (text, problem) in [
        ("agent_host = true", "`agent_host`: found `true`, allowed is text in double quotes"),
        ("agent_host = [\"h\"]", "`agent_host`: found a list, allowed is text in double quotes"),
        ("agent_host { a = 1 }", "`agent_host`: found a block, allowed is text in double quotes"),
        ("agent_ca_cert = false", "`agent_ca_cert`: found `false`, allowed is text in double quotes"),
        ("use_tls = \"true\"", "`use_tls`: found text in double quotes, allowed is `true` or `false`, without quotes"),
        ("use_tls = 1", "`use_tls`: found a number, allowed is `true` or `false`, without quotes"),
        ("use_tls = [true]", "`use_tls`: found a list, allowed is `true` or `false`, without quotes"),
        ("use_tls {}", "`use_tls`: found a block, allowed is `true` or `false`, without quotes"),
        ("agent_port = 0", "`agent_port`: found `0`, allowed is a port from 1 to 65535"),
        ("agent_port = \"70000\"", "`agent_port`: found `70000`, allowed is a port from 1 to 65535"),
        ("agent_port = \"90 02\"", "`agent_port`: found `90 02`, allowed is a port from 1 to 65535"),
        ("agent_port = 0x2329", "`agent_port`: found `0x2329`, allowed is a port from 1 to 65535"),
        ("agent_port = true", "`agent_port`: found `true`, allowed is a port from 1 to 65535"),
        ("agent_port = [1]", "`agent_port`: found a list, allowed is a port from 1 to 65535"),
        ("agent_port {}", "`agent_port`: found a block, allowed is a port from 1 to 65535"),
        ("interval = true", &format!("`interval`: found `true`, {time}")),
        ("interval = [\"1s\"]", &format!("`interval`: found a list, {time}")),
        ("interval = 10", &format!("`interval`: found `10`, {time}")),
        ("interval = \"499ms\"", &format!("`interval`: found `499ms`, {time}")),
        ("interval = \"2h\"", &format!("`interval`: found `2h`, {time}")),
        ("interval = \"-1s\"", &format!("`interval`: found `-1s`, {time}")),
        ("interval = \"1d\"", &format!("`interval`: found `1d`, {time}")),
        ("interval = \"s\"", &format!("`interval`: found `s`, {time}")),
        ("interval = \"1.2.3s\"", &format!("`interval`: found `1.2.3s`, {time}")),
        ("interval = \"999999999999999999999999h\"", &format!("`interval`: found `999999999999999999999999h`, {time}")),
        ("interval = {}", &format!("`interval`: found a block, {time}")),
        ("agent_prot = 1", "`agent_prot`: unknown option, did you mean `agent_port`?"),
        ("Use_TSL = true", "`Use_TSL`: unknown option, did you mean `use_tls`?"),
        (
            "verifier = \"x\"",
            "`verifier`: unknown option, known are `agent_host`, `agent_ca_cert`, `use_tls`, `agent_port`, `interval`",
        ),
        (
            "agent_host = \"a\"\nAgent_Host = \"b\"",
            "`agent_host`: given at line 1, column 1 and again at line 2, column 1, allowed is once",
        ),
        ("agent_port = \"a\\nb\\u202e\"", "`agent_port`: found `a\\nb\\u{202e}`, allowed is a port from 1 to 65535"),
        (
            &format!("agent_port = \"{}\"", "9".repeat(65)),
            &format!("`agent_port`: found `{}...`, allowed is a port from 1 to 65535", "9".repeat(64)),
        ),
    ] {
        assert_eq!(read(text).5, problem, "{text}");
    }
}

#[test]
fn all_problems_are_reported_together() {
    let mut options = options("agent_port = 0\nuse_tls = 1\nagent_hots = \"x\"");
    options.port("agent_port", 9002);
    options.boolean("use_tls", false);
    options.string("agent_host", "127.0.0.1");
    options.refuse("agent_host", "x", "an address");
    options.problem("`a` and `b` exclude each other");
    assert_eq!(
        options.finish().to_string(),
        "`agent_port`: found `0`, allowed is a port from 1 to 65535; \
         `use_tls`: found a number, allowed is `true` or `false`, without quotes; \
         `agent_host`: found `x`, allowed is an address; \
         `a` and `b` exclude each other; \
         `agent_hots`: unknown option, did you mean `agent_host`?"
    );
}

#[test]
fn a_flood_of_problems_is_cut() {
    let text: String = (0..1000).map(|n| format!("o{n} = 1\n")).collect();
    let mut options = options(&text);
    options.string("host", "");
    let texts = options.finish().into_texts();
    assert_eq!(texts.len(), 21);
    assert_eq!(texts[20], "980 more problems");
}

#[test]
fn durations_are_printed_as_they_are_read() {
    for text in ["0s", "1ms", "1s", "1m1s", "1h", "1h1m1s1ms", "25h"] {
        let time = parse_duration(text).unwrap();
        assert_eq!(AsGoDuration(time).to_string(), format!("`{text}`"));
    }
}
