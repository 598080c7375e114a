// SPDX-License-Identifier: Apache-2.0
//! In what our agent's answers differ from the stock agent's, and why.

/// One kind of difference.
pub(crate) struct Difference {
    /// Which requests: their names, with `*` for any text.
    requests: &'static [&'static str],
    /// Which field, what the stock agent has in it and what ours has, with `*` for any text. Where the status is another
    /// one the field is `answer`, which has the status and the text for both.
    field: &'static str,
    stock: &'static str,
    ours: &'static str,
    /// The first column of the row in the documentation, which gives the reason.
    pub(crate) documented: &'static str,
}

const fn row(
    documented: &'static str,
    requests: &'static [&'static str],
    field: &'static str,
    [stock, ours]: [&'static str; 2],
) -> Difference {
    Difference { requests, field, stock, ours, documented }
}

const VERSIONS: &str = "speaks API 2.1 to 2.5, in the release that was compared";
const LETTERS: &str = "takes letters of every alphabet for alphanumeric";
const NONCE: &str = "an empty nonce is quoted";
const HIGH_MASK: &str = "a mask with bits above 23 is answered with 500";
const MASK: &str = "a mask may begin with `0x` but not with `0X`, and may have any number of zeros before its digits";
const BOOTTIME: &str = "never sends `boottime`";
const LIST: &str = "sends the IMA list with every integrity quote";
const ENCODED: &str = "finds a resource under a percent-encoded name, such as `/keys/%70ubkey`";
const NULL: &str = "the `results` of a POST that succeeded are `null`";
const CONTENT_TYPE: &str = "a body whose `Content-Type` is not `application/json` is answered with 400";
const LARGE: &str = "a body of more than 2 MiB is answered with 400";
const UNSIGNED: &str = "a revocation message without `signature` is answered with 400";
const WORDS: &str = "after the colon of a refusal, the words of its libraries and the names of its types";
const LEADING_ZERO: &str = "a version with leading zeros, such as `/v02.5`, is repeated without them";
const NAMED: &str = "does not tell clients which authorities it trusts";
const ALERTS: &str = "the TLS alert of a refusal, and none to who speaks plain HTTP";
const HTTP2: &str = "speaks HTTP/2 too, and says so (ALPN)";
const EXCHANGES: &str = "key exchange with finite fields (DHE), X448 and P-521, too";
const RESUMED: &str = "breaks off when a client resumes a TLS session";
const VERSION_1: &str = "takes X.509 certificates of version 1, for clients and for their authorities";
const INTERMEDIATE: &str = "an intermediate in `trusted_client_ca` counts only beside its root";
const CA_CLIENT: &str = "takes an issued certificate with CA:TRUE for a client";
const CLIENT_P521: &str = "takes clients with P-521 keys";

const EVERY: &[&str] = &["*"];
const POST: &[&str] = &["POST *"];
/// Without content type and body.
const NO_BODY: &[&str] = &["POST /v2.*/keys/*key", "POST /v2.*/notifications/revocation"];
/// JSON that is not called so.
const OTHER_TYPE: &[&str] = &["POST /v2.5/keys/*key (*content type*)", "POST /v2.5/keys/*key (text/plain)"];
const QUOTES: &[&str] = &["GET /v2.*/quotes/*"];
const INTEGRITY: &[&str] = &["GET /v2.*/quotes/integrity?*"];
/// Quotes without PCR 10.
const NO_IMA: &[&str] = &[
    "*&mask=0&*",
    "*&mask=0x0&*",
    "*&mask=1&*",
    "*&mask=0x1&*",
    "*&mask=0x8000&*",
    "*&mask=0x10000&*",
    "*&mask=0x408000&*",
    "*mask=0x800000&*",
    "*&mask=800000&*",
];

/// Those of answers to requests.
pub(crate) const ANSWERS: &[Difference] = &[
    row(
        VERSIONS,
        EVERY,
        "body.status",
        [
            "Not Implemented: Use /2.1, * /2.5 or /version interfaces",
            "Not Implemented: Use /2.1, * /2.6 or /version interfaces",
        ],
    ),
    row(VERSIONS, &["GET /version*"], "body.results.supported_version", ["2.5", "2.6"]),
    row(
        VERSIONS,
        &["GET /version*"],
        "body.results.supported_versions",
        [r#"["2.1","2.2","2.3","2.4","2.5"]"#, r#"["2.1","2.2","2.3","2.4","2.5","2.6"]"#],
    ),
    row(LETTERS, QUOTES, "answer", ["200 Success", "400 * should be strictly alphanumeric: é"]),
    row(
        LETTERS,
        INTEGRITY,
        "body.status",
        ["mask should be a hex encoded 32-bit integer: é", "mask should be strictly alphanumeric: é"],
    ),
    row(
        LETTERS,
        &["GET /v2.5/keys/verify?challenge=%C3%A9 (no key yet)"],
        "body.status",
        ["Bootstrap key not yet available.", "Parameters should be strictly alphanumeric: é"],
    ),
    row(
        LETTERS,
        &["GET /v2.5/keys/verify?challenge=%C3%A9 (with the key)"],
        "answer",
        ["200 Success", "400 Parameters should be strictly alphanumeric: é"],
    ),
    row(NONCE, QUOTES, "answer", ["200 Success", "400 The nonce must not be empty"]),
    row(
        HIGH_MASK,
        INTEGRITY,
        "answer",
        ["500 Unable to retrieve quote", "400 mask should select PCRs 0 to 23 only: *"],
    ),
    row(MASK, INTEGRITY, "answer", ["400 mask should be a hex encoded 32-bit integer: 0X8000", "200 Success"]),
    row(
        MASK,
        INTEGRITY,
        "answer",
        ["200 Success", "400 mask should be a hex encoded 32-bit integer: 0x0000000000800000"],
    ),
    row(BOOTTIME, INTEGRITY, "body.results.boottime", ["absent", "a time"]),
    row(LIST, NO_IMA, "body.results.ima_measurement_list", ["10 *", "absent"]),
    row(LIST, NO_IMA, "body.results.ima_measurement_list_entry", ["0", "absent"]),
    row(ENCODED, &["GET /v2.5/keys/%70ubkey"], "answer", ["200 Success", "400 URI not supported, *"]),
    row(NULL, POST, "body.results", ["null", "{}"]),
    row(
        CONTENT_TYPE,
        NO_BODY,
        "body.status",
        ["Content type error", "Json deserialize error: EOF while parsing a value at line 1 column 0"],
    ),
    row(
        CONTENT_TYPE,
        OTHER_TYPE,
        "body.status",
        ["Content type error", "Invalid base64 encoding in encrypted_key: Invalid symbol 42, offset 0."],
    ),
    row(CONTENT_TYPE, POST, "answer", ["400 Content type error", "200 Success"]),
    row(
        LARGE,
        POST,
        "answer",
        ["400 JSON payload (* bytes) is larger than allowed *", "413 The request body is larger than 2097152 bytes"],
    ),
    row(
        UNSIGNED,
        &["POST /v2.5/notifications/revocation (*)"],
        "answer",
        ["400 Json deserialize error: missing field `signature` *", "200 Success"],
    ),
    row(
        WORDS,
        POST,
        "body.status",
        ["Invalid base64 encoding in *: base64 decode error: *", "Invalid base64 encoding in *: *"],
    ),
    row(
        WORDS,
        POST,
        "body.status",
        [
            "Failed to decrypt encrypted_key: Crypto error: *",
            "Failed to decrypt encrypted_key: it is not encrypted with RSA-OAEP (SHA-1) for this agent's public key",
        ],
    ),
    row(WORDS, POST, "body.status", ["Invalid decrypted key: *", "Invalid decrypted key: a key half has *"]),
    row(WORDS, POST, "body.status", ["Decrypted key is invalid: *", "Decrypted key is invalid: a key half has *"]),
    row(
        WORDS,
        POST,
        "body.status",
        ["Invalid hex encoding in auth_tag: from hex error: *", "Invalid hex encoding in auth_tag: *"],
    ),
    row(
        WORDS,
        POST,
        "body.status",
        [
            "auth tag length * does not correspond to valid SHA-384 HMAC",
            "Invalid auth_tag: auth_tag has * bytes, not 48",
        ],
    ),
    row(WORDS, POST, "body.status", ["Json deserialize error: *", "Json deserialize error: *"]),
    row(
        LEADING_ZERO,
        &["GET /v02.5/keys/pubkey"],
        "body.status",
        ["API version not supported: v2.5", "API version not supported: v02.5"],
    ),
];

/// Those of handshakes.
pub(crate) const HANDSHAKES: &[Difference] = &[
    row(NAMED, EVERY, "authorities named", ["false", "true"]),
    row(ALERTS, EVERY, "why", ["alert *", "alert *"]),
    row(ALERTS, &["plain HTTP", "no TLS at all"], "received", ["", "15030300020232"]),
    row(HTTP2, &["ALPN http/1.1"], "ALPN", ["http/1.1", "null"]),
    row(HTTP2, &["ALPN h2 and http/1.1"], "answer", ["\"refused\" without a word", "200 "]),
    row(EXCHANGES, &["RSA-2048: DHE-RSA-*"], "answer", ["200 ", "\"refused\" alert 40"]),
    row(EXCHANGES, &["group P-521", "group X448", "group ffdhe2048"], "answer", ["200 ", "\"refused\" alert 40"]),
    row(RESUMED, &["a resumed session, *"], "answer", ["\"refused\" alert 80", "200 "]),
    row(
        VERSION_1,
        &["client of version 1*", "client of a CA of version 1*"],
        "answer",
        ["200 ", "\"refused\" alert *"],
    ),
    row(INTERMEDIATE, &["client of a listed intermediate*"], "answer", ["\"refused\" alert 48", "200 "]),
    row(CA_CLIENT, &["client with CA:TRUE*"], "answer", ["200 ", "\"refused\" alert *"]),
    row(CLIENT_P521, &["client with a P-521 key*"], "answer", ["200 ", "\"refused\" alert *"]),
];

/// A table, and which of its rows were needed.
pub(crate) struct Differences {
    table: &'static [Difference],
    used: Vec<bool>,
}

impl Differences {
    pub(crate) fn new(table: &'static [Difference]) -> Self {
        Self { table, used: vec![false; table.len()] }
    }

    /// Whether a row explains this difference.
    pub(crate) fn explain(&mut self, request: &str, field: &str, stock: &str, ours: &str) -> bool {
        let mut explained = false;
        for (row, used) in self.table.iter().zip(&mut self.used) {
            if row.requests.iter().any(|pattern| like(request, pattern))
                && like(field, row.field)
                && like(stock, row.stock)
                && like(ours, row.ours)
            {
                *used = true;
                explained = true;
            }
        }
        explained
    }

    /// The rows that have explained nothing.
    pub(crate) fn unused(&self) -> Vec<&'static str> {
        self.table.iter().zip(&self.used).filter(|(_, used)| !**used).map(|(row, _)| row.stock).collect()
    }
}

/// Whether a text is as a pattern, in which `*` stands for any text.
fn like(text: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => text == pattern,
        Some((begin, rest)) => text.strip_prefix(begin).is_some_and(|text| {
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .any(|at| text.get(at..).is_some_and(|text| like(text, rest)))
        }),
    }
}
