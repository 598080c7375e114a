// SPDX-License-Identifier: Apache-2.0
use std::time::{Duration, Instant};

use super::*;

/// A body in one line: `key=value`, `key "label"{...}`, texts in quotes, numbers bare.
fn show(body: &Body) -> String {
    let items: Vec<_> = body
        .items
        .iter()
        .map(|item| {
            let labels: String = item.labels.iter().map(|label| format!(" {label:?}")).collect();
            format!("{}{labels}={}", item.key, show_value(&item.value))
        })
        .collect();
    items.join(" ")
}

fn show_value(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        Value::Number(number) => number.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null => "null".to_owned(),
        Value::List(values) => format!("[{}]", values.iter().map(show_value).collect::<Vec<_>>().join(" ")),
        Value::Object(body) => format!("{{{}}}", show(body)),
    }
}

#[track_caller]
fn accepts(rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        match parse(text) {
            Ok(body) => assert_eq!(show(&body), *expected, "{text}"),
            Err(error) => panic!("{text}\n{error}"),
        }
    }
}

#[track_caller]
fn refuses(rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        match parse(text) {
            Ok(body) => panic!("{text}\n{}", show(&body)),
            Err(error) => assert_eq!(error.to_string(), *expected, "{text}"),
        }
    }
}

#[test]
fn items_and_keys() {
    accepts(&[
        ("", ""),
        (" \t\r\n", ""),
        ("# nothing", ""),
        ("\u{feff}a = 1", "a=1"),
        ("a = 1", "a=1"),
        ("a=1 b=2", "a=1 b=2"),
        ("a = 1, b = 2,", "a=1 b=2"),
        ("a = 1\r\nb = 2\r\n", "a=1 b=2"),
        ("_a-b.c9 = 1", "_a-b.c9=1"),
        ("größe = 1", "größe=1"),
        ("\"a b\" = 1", "a b=1"),
        ("a {}", "a={}"),
        ("a { b = 1 c { d = 2 } }", "a={b=1 c={d=2}}"),
        ("a = { b = 1, \"c\" = 2 }", "a={b=1 c=2}"),
        ("a \"x\" y { b = 1 }", "a \"x\" \"y\"={b=1}"),
        ("a { b = 1 } a { b = 2 }", "a={b=1} a={b=2}"),
        ("A = 1\na = 2", "A=1 a=2"),
    ]);
}

#[test]
fn strings() {
    accepts(&[
        (r#"a = """#, r#"a="""#),
        (r#"a = "ü/\\""#, r#"a="ü/\\""#),
        (r#"a = "\a\b\f\n\r\t\v\"\/""#, r#"a="\u{7}\u{8}\u{c}\n\r\t\u{b}\"/""#),
        (r#"a = "\101\x41\u00e9\U0001F600""#, r#"a="AAé😀""#),
        (r#"a = "\xC3\xA9\303\251""#, r#"a="éé""#),
        (r#"a = "\ud83d\ude00""#, r#"a="😀""#),
        (r#"a = "$x {y} $""#, r#"a="$x {y} $""#),
        (r#"a = "${b} ${c("d", {e = "\n"})} }""#, r#"a="${b} ${c(\"d\", {e = \"\\n\"})} }""#),
        ("a = \"${\r\n}\"", r#"a="${\n}""#),
        (r#""k\u0065y" = "$HOME""#, r#"key="$HOME""#),
    ]);
}

#[test]
fn numbers_keep_their_text() {
    for number in [
        "0",
        "9002",
        "-5",
        "0x1F",
        "-0Xff",
        "0644",
        "1.50",
        "-0.5",
        ".5",
        "1.",
        "0159.5",
        "1e9",
        "1.5E-3",
        "2e+8",
        "12345678901234567890",
    ] {
        accepts(&[
            (&format!("a = {number}"), &format!("a={number}")),
            (&format!("a = [{number}]"), &format!("a=[{number}]")),
        ]);
    }
}

#[test]
fn other_values() {
    accepts(&[
        ("a = true b = false", "a=true b=false"),
        ("a = []", "a=[]"),
        ("a = [1, \"b\", true, [2], {c = 3},]", "a=[1 \"b\" true [2] {c=3}]"),
        ("a =\n  \"next line\"", "a=\"next line\""),
        ("a =\n  \"next line\"\nb = 1", "a=\"next line\" b=1"),
        ("a =\n  \"next line\"\n\"b\" = 1", "a=\"next line\" b=1"),
        ("a =\n  true", "a=true"),
    ]);
}

#[test]
fn comments() {
    accepts(&[
        ("# one\na = 1 # two\n// three\nb /* four\n */ = /**/ 2 // five", "a=1 b=2"),
        ("a = [ # one\n 1, // two\n /* three */ 2 ]", "a=[1 2]"),
        ("a = \"# no // comment /* here\"", "a=\"# no // comment /* here\""),
    ]);
}

#[test]
fn heredocs() {
    accepts(&[
        ("a = <<EOF\none\n two \"x\" ${y}\nEOF\nb = 1", "a=\"one\\n two \\\"x\\\" ${y}\\n\" b=1"),
        ("a = <<EOF\nEOF\n", "a=\"\""),
        ("a = <<EOF\r\none\r\nEOF\r\n", "a=\"one\\n\""),
        ("a = <<EOF\n EOFX\nEOF", "a=\" EOFX\\n\""),
        ("a = <<EOF\none\n  EOF\n", "a=\"one\\n  \""),
        ("a = <<-EOF\n    one\n      two\n    EOF\n", "a=\"one\\n  two\\n\""),
        ("a = <<-EOF\n    one\n  two\n    EOF\n", "a=\"    one\\n  two\\n\""),
        ("a = [<<A\none\nA\n, <<B\ntwo\nB\n]", "a=[\"one\\n\" \"two\\n\"]"),
    ]);
}

#[test]
fn text_as_spire_prints_it_from_json() {
    accepts(&[
        ("\"host\" = \"h\"\n\n\"port\" = 5", "host=\"h\" port=5"),
        ("\"a\" = \n\n\"b\" = 1", "a=null b=1"),
        ("\"a\" = \n\n\"b\" = {\n  \"c\" = \n}\n\n\"d\" = ", "a=null b={c=null} d=null"),
        ("\"a\" = \n\nb = 1", "a=null b=1"),
        ("\"a\" = \n\n\"b\" \"c\" {}", "a=\"b\" c={}"),
        ("\"a\" = {\n  \"x\" = 1\n}\n\n\"a\" = {\n  \"x\" = 2\n}", "a={x=1} a={x=2}"),
        ("\"a\" = \"\\/dev\\/tpm0\"", "a=\"/dev/tpm0\""),
    ]);
}

#[test]
fn json() {
    accepts(&[
        ("{}", ""),
        (" \n{ } \n", ""),
        (
            r#"{"a": "x", "b": 9002, "c": true, "d": false, "e": null, "f": [1, "y", null, [], {}], "g": {"h": -1.5e3}}"#,
            r#"a="x" b=9002 c=true d=false e=null f=[1 "y" null [] {}] g={h=-1.5e3}"#,
        ),
        (r#"{"a": "\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00 ${x"}"#, r#"a="\"\\/\u{8}\u{c}\n\r\té😀 ${x""#),
    ]);
    refuses(&[
        ("{", "line 1, column 2: expected a quoted key, found the end of the text"),
        ("{a: 1}", "line 1, column 2: expected a quoted key, found a word without quotes"),
        ("{\"a\" = 1}", "line 1, column 6: expected `:` after the key, found `=`"),
        ("{\"a\": }", "line 1, column 7: expected a value, found `}`"),
        ("{\"a\": nil}", "line 1, column 7: expected a value, found a word without quotes"),
        ("{\"a\": 1\n\"b\": 2}", "line 2, column 1: expected `,` or `}`, found a string"),
        ("{\"a\": 1,}", "line 1, column 9: expected a quoted key, found `}`"),
        ("{\"a\": [1 2]}", "line 1, column 10: expected `,` or `]`, found a number"),
        ("{\"a\": [1,]}", "line 1, column 10: expected a value, found `]`"),
        ("{\"a\": 1, \"a\": 2}", "line 1, column 10: `a` was already set at line 1, column 2"),
        ("{} {", "line 1, column 4: expected the end of the text, found `{`"),
        ("{} // x", "line 1, column 4: illegal character `/`"),
        ("{\"a\": 'x'}", "line 1, column 7: illegal character `'`"),
        ("{\"a\": \"x", "line 1, column 7: expected a closing `\"` on the same line as the string that starts here"),
        ("{\"a\": \"\t\"}", "line 1, column 8: illegal character `\\t`"),
        ("{\"a\": \"\\x41\"}", "line 1, column 8: unknown escape in a string, write `\\\\` for a backslash"),
        ("{\"a\": \"\\ud83d\"}", "line 1, column 8: the escape does not name a character"),
        ("{\"a\": 1x}", "line 1, column 7: malformed number, text needs double quotes"),
    ]);
}

#[test]
fn each_error_has_its_place_and_text() {
    refuses(&[
        ("a", "line 1, column 2: expected `=` or `{` after the key, found the end of the text"),
        ("a b", "line 1, column 4: expected `{` after the labels, found the end of the text"),
        ("a \"b\" = 1", "line 1, column 7: expected `{` after the labels, found `=`"),
        ("a 5", "line 1, column 3: expected `=` or `{` after the key, found a number"),
        ("a = host", "line 1, column 5: expected a value (text needs double quotes), found a word without quotes"),
        ("a = = 1", "line 1, column 5: expected a value (text needs double quotes), found `=`"),
        ("a = ]", "line 1, column 5: expected a value (text needs double quotes), found `]`"),
        ("= 1", "line 1, column 1: expected a key, found `=`"),
        ("a = 1 }", "line 1, column 7: expected a key, found `}`"),
        ("a = 1,, b = 2", "line 1, column 7: expected a key, found `,`"),
        ("a {\n  b = 1", "line 2, column 8: expected a key or `}`, found the end of the text"),
        ("a {\n  true = 1\n}", "line 2, column 3: expected a key or `}`, found `true`"),
        ("a { <<X\nX\n}", "line 1, column 5: expected a key or `}`, found a heredoc"),
        ("a = [1", "line 1, column 7: expected `,` or `]`, found the end of the text"),
        ("a = [1 2]", "line 1, column 8: expected `,` or `]`, found a number"),
        ("a = [,]", "line 1, column 6: expected a value or `]` (text needs double quotes), found `,`"),
        ("a = 1\nä = 2; b = 3", "line 2, column 6: illegal character `;`"),
        ("a = 'x'", "line 1, column 5: illegal character `'`"),
        ("a = 1 + 2", "line 1, column 7: illegal character `+`"),
        ("a: 1", "line 1, column 2: illegal character `:`"),
        ("a = \u{1}", "line 1, column 5: illegal character `\\u{1}`"),
        ("a = \"\0\"", "line 1, column 6: illegal character `\\0`"),
        ("a = 1\n  a = 2", "line 2, column 3: `a` was already set at line 1, column 1"),
        ("a = 1\na = {}", "line 2, column 1: `a` was already set at line 1, column 1"),
        ("a = {\n b = 1\n \"b\" = 2 }", "line 3, column 2: `b` was already set at line 2, column 2"),
        ("a = \"x\n\"", "line 1, column 5: expected a closing `\"` on the same line as the string that starts here"),
        ("a = \"x", "line 1, column 5: expected a closing `\"` on the same line as the string that starts here"),
        ("a = \"${\"", "line 1, column 5: expected a closing `\"` on the same line as the string that starts here"),
        ("a = \"\\q\"", "line 1, column 6: unknown escape in a string, write `\\\\` for a backslash"),
        ("a = \"C:\\'\"", "line 1, column 8: unknown escape in a string, write `\\\\` for a backslash"),
        ("a = \"\\", "line 1, column 6: unknown escape in a string, write `\\\\` for a backslash"),
        ("a = \"\\08\"", "line 1, column 6: the escape does not name a character"),
        ("a = \"\\777\"", "line 1, column 6: the escape does not name a character"),
        ("a = \"\\xf\"", "line 1, column 6: the escape does not name a character"),
        ("a = \"\\ud800x\"", "line 1, column 6: the escape does not name a character"),
        ("a = \"\\ud800\\ud800\"", "line 1, column 6: the escape does not name a character"),
        ("a = \"\\UFFFFFFFF\"", "line 1, column 6: the escape does not name a character"),
        ("a = \"\\xff\"", "line 1, column 5: the escapes of the string that starts here do not make UTF-8"),
        ("a = 127.0.0.1", "line 1, column 5: malformed number, text needs double quotes"),
        ("a = 9002x", "line 1, column 5: malformed number, text needs double quotes"),
        ("a = 0x", "line 1, column 5: malformed number, text needs double quotes"),
        ("a = 089", "line 1, column 5: malformed number, text needs double quotes"),
        ("a = 1e", "line 1, column 5: malformed number, text needs double quotes"),
        ("a = 1_000", "line 1, column 5: malformed number, text needs double quotes"),
        ("a = -", "line 1, column 5: malformed number, text needs double quotes"),
        ("a = .", "line 1, column 5: malformed number, text needs double quotes"),
        ("a = /* x", "line 1, column 5: expected `*/` to close the comment that starts here"),
        ("a = /", "line 1, column 5: illegal character `/`"),
        (
            "a = <EOF",
            "line 1, column 5: expected a heredoc to start with `<<` or `<<-`, a tag of letters and digits, \
             and the line's end",
        ),
        (
            "a = <<\n\n",
            "line 1, column 5: expected a heredoc to start with `<<` or `<<-`, a tag of letters and digits, \
             and the line's end",
        ),
        (
            "a = <<E F\nE F\n",
            "line 1, column 5: expected a heredoc to start with `<<` or `<<-`, a tag of letters and digits, \
             and the line's end",
        ),
        ("a = <<EOF", "line 1, column 5: expected a line with only `EOF` to close the heredoc that starts here"),
        (
            "a = <<EOF\nx\nEOF x\n",
            "line 1, column 5: expected a line with only `EOF` to close the heredoc that starts here",
        ),
        ("a = <<EOF\nx\0\nEOF", "line 2, column 2: illegal character `\\0`"),
    ]);
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("a = {", "}"), ("a {", "}"), ("a = [[", "]]")] {
        let levels = open.matches(['{', '[']).count();
        let nested = |depth: usize| {
            let times = depth / levels;
            if levels == 2 {
                format!("a = {}{}", "[".repeat(depth), "]".repeat(depth))
            } else {
                format!("{}{}", open.repeat(times), close.repeat(times))
            }
        };
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        let error = parse(&nested(MAX_DEPTH + 2)).unwrap_err().to_string();
        assert!(error.ends_with(": nested more than 32 levels deep"), "{error}");
    }
    let json = |depth: usize| format!("{{\"a\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&json(MAX_DEPTH - 1)).is_ok());
    assert_eq!(parse(&json(MAX_DEPTH)).unwrap_err().to_string(), "line 1, column 38: nested more than 32 levels deep");
    assert!(parse(&json(100_000)).is_err());
    assert!(parse(&"a{".repeat(100_000)).is_err());
}

#[test]
fn long_text_is_refused_at_once() {
    let start = Instant::now();
    let error = parse(&"x".repeat(10 << 20)).unwrap_err();
    assert_eq!(error.to_string(), "the text has 10485760 bytes, at most 1048576 are accepted");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn text_of_the_greatest_length_takes_no_longer_than_its_length() {
    // Shapes in which a reader with a slip would go over the rest of the text again and again.
    for unit in ["k% = 1 ", "k% =\n", "\"k%\" = \n\n", "b {}\n", "# x\n", "k% = <<A\nB\nA\n", "k% = \"${{}}\\n\" "] {
        let mut text = String::new();
        for n in 0.. {
            let item = unit.replace('%', &n.to_string());
            if text.len() + item.len() > MAX_TEXT {
                break;
            }
            text.push_str(&item);
        }
        let start = Instant::now();
        parse(&text).unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{unit}");
    }
}

const SAMPLE: &str = r##"
# comment
keylime_agent_host = "127.0.0.1" // host
keylime_agent_port = "9002"
"quoted" = 0x1F, list = [1, "two", [true], {a = 1},]
block "label" { nested { deep = -1.5e-3 } }
/* more */ text = "\u00e9\x41\101\n${x("y")} \U0001F600"
doc = <<-EOF
  line
  EOF
null =
other = false
last = <<X
end
X"##;

const SAMPLE_JSON: &str = r#"{"a": "\u00e9\n", "b": [1, -2.5e3, true, null, {"c": {}}], "d": false}"#;

#[test]
fn no_prefix_or_slip_panics() {
    for sample in [SAMPLE, SAMPLE_JSON] {
        parse(sample).unwrap();
        for (end, _) in sample.char_indices() {
            let _ = parse(&sample[..end]);
            // Each character replaced by one that means something elsewhere.
            for other in ["\"", "{", "}", "[", "<", "\\", "\n", "=", "0", "é", "\0", "$"] {
                let tail = sample[end..].chars().as_str();
                let rest = &tail[tail.chars().next().map_or(0, char::len_utf8)..];
                let _ = parse(&format!("{}{other}{rest}", &sample[..end]));
            }
        }
    }
}
