// SPDX-License-Identifier: Apache-2.0
//! The requests, in the order in which they are sent: both agents see the same history.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// One request.
pub(crate) struct Request {
    /// Method, target and, where there is more than that, what else: unique, and the same for both agents.
    pub(crate) name: String,
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Vec<u8>>,
    /// Sent again until the answer is 200: what it asks for is made in the background.
    pub(crate) until_success: bool,
}

/// What only this agent can be sent.
pub(crate) struct ForAgent {
    /// Halves of keys, encrypted for the agent: U and V of 32 bytes, one of 16 and one of 31 bytes.
    pub(crate) u: Vec<u8>,
    pub(crate) v: Vec<u8>,
    pub(crate) short: Vec<u8>,
    pub(crate) odd: Vec<u8>,
    /// HMAC of the agent's id under the key, in hex.
    pub(crate) auth_tag: String,
}

const VERSIONS: [&str; 6] = ["2.1", "2.2", "2.3", "2.4", "2.5", "2.6"];
const RESOURCES: [&str; 8] = [
    "agent/info",
    "keys/pubkey",
    "keys/ukey",
    "keys/vkey",
    "keys/verify",
    "quotes/identity",
    "quotes/integrity",
    "notifications/revocation",
];
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const JSON: (&str, &str) = ("Content-Type", "application/json");
/// Three entries; so many the measurement list of the agents has, too.
pub(crate) const ENTRIES: usize = 3;
/// As long as a nonce may be.
const LONGEST: usize = 64;

/// Collects requests.
#[derive(Default)]
struct Table(Vec<Request>);

impl Table {
    /// Without headers and body. What is in several lists is sent once.
    fn plain(&mut self, method: &'static str, target: impl Into<String>) {
        let target = target.into();
        let name = format!("{method} {target}");
        if self.0.iter().any(|other| other.name == name) {
            return;
        }
        self.push(Request { name, method, target, headers: Vec::new(), body: None, until_success: false });
    }

    fn get(&mut self, target: impl Into<String>) {
        self.plain("GET", target);
    }

    /// A POST with a JSON body, called `label` in the name.
    fn post(&mut self, target: &str, label: &str, body: impl Into<Vec<u8>>) {
        self.post_with(target, label, &[JSON], body);
    }

    fn post_with(&mut self, target: &str, label: &str, headers: &[(&'static str, &str)], body: impl Into<Vec<u8>>) {
        self.push(Request {
            name: format!("POST {target} ({label})"),
            method: "POST",
            target: target.to_owned(),
            headers: headers.iter().map(|&(name, value)| (name, value.to_owned())).collect(),
            body: Some(body.into()),
            until_success: false,
        });
    }

    fn push(&mut self, request: Request) {
        assert!(self.0.iter().all(|other| other.name != request.name), "{} twice", request.name);
        self.0.push(request);
    }
}

/// All requests.
pub(crate) fn all(agent: &ForAgent) -> Vec<Request> {
    let mut table = Table::default();
    resources(&mut table);
    unknown_paths(&mut table);
    quotes(&mut table);
    measurement_list(&mut table);
    verify(&mut table, "no key yet");
    bodies(&mut table);
    revocations(&mut table);
    keys(&mut table, agent);
    table.0
}

/// Each method of each resource of each version, without parameters and bodies.
fn resources(table: &mut Table) {
    for method in METHODS {
        table.plain(method, "/version");
        for version in VERSIONS {
            for resource in RESOURCES {
                table.plain(method, format!("/v{version}/{resource}"));
            }
        }
    }
    for method in ["TRACE", "BREW"] {
        for target in ["/version", "/v2.5/quotes/identity", "/v2.5/keys/x", "/v2.5/x", "/x"] {
            table.plain(method, target);
        }
    }
}

fn unknown_paths(table: &mut Table) {
    for method in METHODS {
        for target in [
            "/",
            "/x",
            "/version/",
            "/versions",
            "/v1.0/keys/pubkey",
            "/v2.0/quotes/identity?nonce=abc",
            "/v2.7/version",
            "/v3.0/agents",
            "/v2.5",
            "/v2.5/",
            "/v2.5/x",
        ] {
            table.plain(method, target);
        }
    }
    for target in [
        "/version?x=1",
        "/version/x",
        "/Version",
        "//version",
        "/v2",
        "/v2/",
        "/v2/keys/pubkey",
        "/v2.",
        "/v2.x/keys",
        "/v.5/keys",
        "/v2.5x/keys",
        "/V2.5/keys/pubkey",
        "/v02.5/keys/pubkey",
        "/v2.50/keys/pubkey",
        "/v2.5.1/keys/pubkey",
        "/v0.0",
        "/v10.20/x",
        "/v2.0",
        "/v2.0/",
        "/v3.0",
        "/x/v2.0",
        "/x/v2.0/keys",
        "/index.html",
        "/v2.5/version",
        "/v2.7/%41",
    ] {
        table.get(target);
    }
    // The sub-interfaces, with what is beside the resources.
    for version in ["2.1", "2.5", "2.6"] {
        for method in ["GET", "POST", "PUT", "HEAD"] {
            for path in [
                "agent",
                "agent/",
                "agent/x",
                "agent/info/",
                "keys",
                "keys/",
                "keys/x",
                "keys/x/y",
                "keys/pubkey/",
                "quotes",
                "quotes/",
                "quotes/x",
                "quotes/identity/",
                "notifications",
                "notifications/",
                "notifications/x",
                "notifications/revocation/",
            ] {
                table.plain(method, format!("/v{version}/{path}"));
            }
        }
    }
    for path in [
        "keys/pubkey?x=1",
        "keys/%70ubkey",
        "KEYS/pubkey",
        "/keys/pubkey",
        "keys//pubkey",
        "keys/./pubkey",
        "keys/../keys/pubkey",
        "agents",
        "keysx",
        "x/y/z",
        "keys/pubkey;x",
        "keys/pubkey%2f",
    ] {
        table.get(format!("/v2.5/{path}"));
    }
}

/// Parameters of the quotes.
fn quotes(table: &mut Table) {
    for version in VERSIONS {
        table.get(format!("/v{version}/quotes/identity?nonce=1234567890ABCDEFabcd"));
        table.get(format!("/v{version}/quotes/integrity?nonce=1234567890ABCDEFabcd&mask=0x408000&partial=0"));
        table.get(format!("/v{version}/quotes/integrity?nonce=1234567890ABCDEFabcd&mask=0x408000&partial=1"));
    }
    let longest = "a".repeat(LONGEST);
    let longer = "a".repeat(LONGEST + 1);
    let nonces = [
        "", "a", "0", "a-b", "a_b", "a+b", "a%20b", "a%2Bb", "%C3%A9", "%ff", "%", "%zz", "%00", "a%0Ab", "%61bc",
        "\"", "a=b",
    ];
    for nonce in
        nonces.iter().map(|nonce| (*nonce).to_owned()).chain([longest.clone(), longer.clone(), "a".repeat(4000)])
    {
        table.get(format!("/v2.5/quotes/identity?nonce={nonce}"));
        table.get(format!("/v2.5/quotes/integrity?nonce={nonce}&mask=0x408000&partial=1"));
    }
    for query in [
        "",
        "&",
        "x=1",
        "Nonce=abc",
        "nonce",
        "nonce=abc&",
        "&nonce=abc",
        "nonce=abc&x=1",
        "nonce=abc&nonce=abc",
        "nonce=abc;x=1",
        "nonce=abc&mask=0x1&partial=0",
    ] {
        table.get(format!("/v2.5/quotes/identity?{query}"));
    }
    for query in [
        "",
        "nonce=abc",
        "mask=0x1",
        "partial=1",
        "nonce=abc&mask=0x1",
        "nonce=abc&partial=1",
        "mask=0x1&partial=1",
        "partial=1&mask=0x800000&nonce=abc",
        "nonce=abc&nonce=abc&mask=0x1&partial=1",
        "nonce=abc&mask=0x1&mask=0x1&partial=1",
        "nonce=abc&mask=0x1&partial=1&partial=1",
        "nonce=abc&mask=0x1&partial=1&ima_ml_entry=0&ima_ml_entry=0",
        "nonce=abc&mask=0x800000&partial=1&x=1",
        "nonce&mask&partial",
        "nonce=&mask=&partial=",
        "nonce=-&mask=-&partial=-",
    ] {
        table.get(format!("/v2.5/quotes/integrity?{query}"));
    }
    let f = "f".repeat(65);
    for mask in [
        "",
        "0",
        "0x0",
        "0x",
        "x",
        "0X8000",
        "1",
        "0x1",
        "800000",
        "0x800000",
        "0x10000",
        "0xffffff",
        "0xFFFFFF",
        "ffffff",
        "0x1000000",
        "0x80000000",
        "0xffffffff",
        "0x100000000",
        "0x0000000000800000",
        "-1",
        "%2B1",
        "g",
        "0xg",
        "1.0",
        "0x 1",
        "%C3%A9",
        &f,
    ] {
        table.get(format!("/v2.5/quotes/integrity?nonce=abc&mask={mask}&partial=1"));
    }
    for partial in ["", "0", "1", "2", "00", "01", "true", "-1", "a", "%30", &longer] {
        table.get(format!("/v2.5/quotes/integrity?nonce=abc&mask=0x800000&partial={partial}"));
    }
    table.push(Request {
        name: "GET /v2.5/quotes/identity?nonce=abc (with a body)".to_owned(),
        method: "GET",
        target: "/v2.5/quotes/identity?nonce=abc".to_owned(),
        headers: vec![("Content-Type", "text/plain".to_owned())],
        body: Some(b"body".to_vec()),
        until_success: false,
    });
    for (name, value) in [("Accept", "text/html"), ("Accept-Encoding", "gzip, br"), ("Authorization", "Bearer x")] {
        table.push(Request {
            name: format!("GET /v2.5/quotes/identity?nonce=abc ({name}: {value})"),
            method: "GET",
            target: "/v2.5/quotes/identity?nonce=abc".to_owned(),
            headers: vec![(name, value.to_owned())],
            body: None,
            until_success: false,
        });
    }
}

/// Which part of the IMA list is sent, and which list with which PCR.
fn measurement_list(table: &mut Table) {
    let last = ENTRIES - 1;
    let next = ENTRIES + 1;
    let entries = [
        "",
        "0",
        "1",
        &last.to_string(),
        &ENTRIES.to_string(),
        &next.to_string(),
        "1000000",
        "18446744073709551615",
        "18446744073709551616",
        "-1",
        "%2B1",
        "01",
        "1.0",
        "0x1",
        "a",
        "%201",
    ]
    .map(str::to_owned);
    for entry in entries {
        for partial in [0, 1] {
            table.get(format!("/v2.5/quotes/integrity?nonce=abc&mask=0x400&partial={partial}&ima_ml_entry={entry}"));
        }
    }
    for mask in ["0x400", "0x401", "0x1", "0x800000", "0x0", "0x10401"] {
        table.get(format!("/v2.5/quotes/integrity?nonce=abcd&mask={mask}&partial=0"));
    }
    table.get("/v2.1/quotes/integrity?nonce=abc&mask=0x401&partial=1&ima_ml_entry=1");
}

/// The HMAC that shows that the agent has the key.
fn verify(table: &mut Table, when: &str) {
    let longer = "a".repeat(LONGEST + 1);
    for query in [
        "",
        "?",
        "?x=1",
        "?challenge",
        "?challenge=",
        "?challenge=abc",
        "?challenge=a-b",
        "?challenge=a%20b",
        "?challenge=%C3%A9",
        "?challenge=%ff",
        "?challenge=abc&challenge=abc",
        "?challenge=abc&x=1",
        "?Challenge=abc",
        &format!("?challenge={longer}"),
    ] {
        let target = format!("/v2.5/keys/verify{query}");
        table.push(Request {
            name: format!("GET {target} ({when})"),
            method: "GET",
            target,
            headers: Vec::new(),
            body: None,
            until_success: false,
        });
    }
}

/// Bodies that are not what they should be.
fn bodies(table: &mut Table) {
    for (target, good) in [
        ("/v2.5/keys/ukey", json!({"auth_tag": "00", "encrypted_key": "*"}).to_string()),
        ("/v2.5/keys/vkey", json!({"encrypted_key": "*"}).to_string()),
        ("/v2.5/notifications/revocation", json!({"msg": "{}", "signature": ""}).to_string()),
    ] {
        for (label, body) in [
            ("an empty body", ""),
            ("a brace", "{"),
            ("an empty object", "{}"),
            ("an empty list", "[]"),
            ("null", "null"),
            ("a number", "1"),
            ("no JSON", "encrypted_key=AAAA"),
            ("members of other types", r#"{"auth_tag":1,"encrypted_key":2,"msg":3,"signature":4}"#),
            ("null members", r#"{"auth_tag":null,"encrypted_key":null,"msg":null,"signature":null}"#),
            ("another member alone", r#"{"x":1}"#),
        ] {
            table.post(target, label, body);
        }
        table.post(target, "bytes that are no text", [b'{', b'"', 0xff, b'"', b'}'].as_slice());
        table.post(target, "text after the object", format!("{good} x"));
        table.post(target, "a byte order mark", format!("\u{feff}{good}"));
        let doubled = good.replacen('{', &format!("{{{},", good.trim_matches(['{', '}'])), 1);
        table.post(target, "doubled members", doubled);
        for (label, headers) in [
            ("no content type", &[] as &[_]),
            ("a content type with charset", &[("Content-Type", "application/json; charset=utf-8")]),
            ("a content type in capitals", &[("Content-Type", "Application/JSON")]),
            ("text/plain", &[("Content-Type", "text/plain")]),
            ("a form's content type", &[("Content-Type", "application/x-www-form-urlencoded")]),
            ("application/problem+json", &[("Content-Type", "application/problem+json")]),
            ("no content type at all", &[("Content-Type", "")]),
        ] {
            table.post_with(target, label, headers, good.clone());
        }
        table.post(&format!("{target}?x=1"), "a query", good.clone());
        // 2 MiB are allowed. What is announced to be more is refused without being sent.
        table.post_with(target, "2 MiB and a byte", &[JSON, ("Content-Length", "2097153")], "");
        let mut filled = good.into_bytes();
        filled.resize(2 << 20, b' ');
        table.post(target, "2 MiB", filled);
    }
}

fn revocations(table: &mut Table) {
    let target = "/v2.5/notifications/revocation";
    for version in VERSIONS {
        let body = json!({"msg": "{}", "signature": ""}).to_string();
        table.post(&format!("/v{version}/notifications/revocation"), "an unsigned message", body);
    }
    for (label, body) in [
        ("no signature", r#"{"msg":"{}"}"#),
        ("no message", r#"{"signature":""}"#),
        ("a signature in no base64", r#"{"msg":"{}","signature":"*"}"#),
        ("a message that is no JSON", r#"{"msg":"x","signature":"none"}"#),
        ("one more member", r#"{"msg":"{}","signature":"","x":1}"#),
    ] {
        table.post(target, label, body);
    }
}

/// Halves of keys, and what comes of them.
fn keys(table: &mut Table, agent: &ForAgent) {
    let (ukey, vkey) = ("/v2.5/keys/ukey", "/v2.5/keys/vkey");
    let tag = "00".repeat(48);
    let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
    let u_body = |key: &str, tag: &str| json!({"encrypted_key": key, "auth_tag": tag}).to_string();
    let v_body = |key: &str| json!({"encrypted_key": key}).to_string();
    let mut cut = agent.u.clone();
    cut.pop();
    let long = [agent.u.as_slice(), &[0]].concat();
    let unpadded = base64(&agent.u).trim_end_matches('=').to_owned();
    for (label, key) in [
        ("an empty key", String::new()),
        ("a key in no base64", "*".to_owned()),
        ("a key without padding", unpadded),
        ("a key with a line break", format!("{}\n", base64(&agent.u))),
        ("a key of three bytes", "AAAA".to_owned()),
        ("a key a byte too short", base64(&cut)),
        ("a key a byte too long", base64(&long)),
        ("a key of zeros", base64(&[0; 256])),
        ("a key of ones", base64(&[0xff; 256])),
        ("a half of 31 bytes", base64(&agent.odd)),
    ] {
        table.post(ukey, label, u_body(&key, &tag));
        table.post(vkey, label, v_body(&key));
    }
    let u = base64(&agent.u);
    for (label, tag) in [
        ("an empty tag", String::new()),
        ("a tag of one digit", "0".to_owned()),
        ("a tag of no digits", "xx".repeat(48)),
        ("a tag of 47 bytes", "00".repeat(47)),
        ("a tag of 49 bytes", "00".repeat(49)),
        ("a tag in capitals", "AB".repeat(48)),
    ] {
        table.post(ukey, label, u_body(&u, &tag));
    }
    table.post(ukey, "no tag", json!({"encrypted_key": u}).to_string());
    table.post(ukey, "no key", json!({"auth_tag": tag}).to_string());
    for (label, payload) in [
        ("a payload of null", json!(null)),
        ("a payload of a number", json!(1)),
        ("an empty payload", json!("")),
        ("a payload in no base64", json!("*")),
        ("a payload of no cipher text", json!("AAAA")),
        ("a payload of 1 MiB", json!(STANDARD.encode(vec![0; 1 << 20]))),
    ] {
        table.post(ukey, label, json!({"encrypted_key": u, "auth_tag": tag, "payload": payload}).to_string());
    }
    table.post(ukey, "an unknown member", json!({"encrypted_key": u, "auth_tag": tag, "x": 1}).to_string());
    table.post(vkey, "a tag for V", json!({"encrypted_key": base64(&agent.short), "auth_tag": tag}).to_string());
    table.post(ukey, "a half of 16 bytes", u_body(&base64(&agent.short), &tag));
    for version in VERSIONS {
        table.post(&format!("/v{version}/keys/ukey"), "U", u_body(&u, &agent.auth_tag));
        table.post(&format!("/v{version}/keys/vkey"), "V", v_body(&base64(&agent.v)));
        let target = format!("/v{version}/keys/verify?challenge=1234567890ABCDEFabcd");
        table.push(Request {
            name: format!("GET {target} (until the key is there)"),
            method: "GET",
            target,
            headers: Vec::new(),
            body: None,
            until_success: true,
        });
    }
    verify(table, "with the key");
}
