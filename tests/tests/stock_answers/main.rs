// SPDX-License-Identifier: Apache-2.0
//! The same requests to the stock Rust agent and to ours, on equal TPMs and with equal settings: what is answered is
//! the same, field by field, but for the differences of one table. With mTLS each answers as without it. Which clients and
//! which TLS they take is compared likewise.
//!
//! The stock agent's answers are recorded, so that ours is held to them where the stock agent cannot be had.
//! `UPDATE_RECORDINGS=1` writes the recording anew.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod clients;
mod differences;
mod handshakes;
mod http;
mod requests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::{Map, Value, json};
use test_support::ima::{ImaList, Template};
use test_support::payload::encrypt;
use test_support::{
    KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, KeylimeServers, Swtpm, SwtpmOptions, bin, require,
};
use tls::rustls::ClientConfig;
use tls::rustls::client::Resumption;
use tls::{ClientTls, Identity, Trust};
use tpm_wire::hash::HashAlgorithm;
use tpm_wire::public::{AkPublic, Public};
use tpm_wire::quote::QuoteString;
use tpm_wire::verify::{node_key_matches, verify_quote};

use differences::Differences;
use http::Place;
use requests::{ForAgent, Request};

/// Limit for what an agent does in the background.
const LIMIT: Duration = Duration::from_secs(20);
/// The recordings.
const ANSWERS: &str = "answers.json";
const HANDSHAKES: &str = "handshakes.json";
/// The halves of the key, whose bytes are all the same.
const HALVES: [u8; 2] = [0x35, 0x53];

/// The answers by the names of their requests, each with the members `status`, `content-type`, `allow` and `body`. What
/// cannot be the same twice is replaced by what was found out about it.
type Answers = BTreeMap<String, Value>;

#[test]
fn our_agent_answers_as_the_stock_agent_does() {
    let (Some(()), Some(_)) = (require::swtpm(), require::keylime()) else { return };
    let ours = answers_with_and_without_tls(&bin::built("keylime_agent").unwrap());
    let stock = load(ANSWERS);
    assert!(ours.len() > 500, "{} requests", ours.len());
    let stock = stock.keys().map(|name| (name.clone(), counterpart(&stock, name).clone())).collect();
    compare(&stock, &ours, differences::ANSWERS);
}

#[test]
fn our_agent_takes_the_clients_that_the_stock_agent_takes() {
    let (Some(()), Some(_)) = (require::swtpm(), require::keylime()) else { return };
    let ours = handshakes::outcomes(&bin::built("keylime_agent").unwrap());
    compare(&load(HANDSHAKES), &ours, differences::HANDSHAKES);
}

/// Fails for each difference that is not in the table, and for each row of the table without a difference.
fn compare(stock: &Answers, ours: &Answers, table: &'static [differences::Difference]) {
    assert_eq!(stock.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>(), "the recording is of other requests");
    let mut known = Differences::new(table);
    let mut report = String::new();
    for (name, stock) in stock {
        for (field, stock, ours) in differing(stock, ours.get(name).unwrap()) {
            if !known.explain(name, &field, &stock, &ours) {
                writeln!(report, "{name}\n  {field}\n    stock: {stock}\n    ours:  {ours}").unwrap();
            }
        }
    }
    assert!(report.is_empty(), "differences that nobody has explained:\n{report}");
    assert_eq!(known.unused(), Vec::<&str>::new(), "differences that are no more");
}

#[test]
fn the_recording_is_what_the_stock_agent_answers_today() {
    let (Some(()), Some(_)) = (require::swtpm(), require::keylime()) else { return };
    let (Some(stock), Some(())) = (require::stock_agent(), require::root()) else { return };
    is_recorded(ANSWERS, &answers_with_and_without_tls(&stock));
}

#[test]
fn the_recording_is_which_clients_the_stock_agent_takes_today() {
    let (Some(()), Some(_)) = (require::swtpm(), require::keylime()) else { return };
    let (Some(stock), Some(())) = (require::stock_agent(), require::root()) else { return };
    is_recorded(HANDSHAKES, &handshakes::outcomes(&stock));
}

fn is_recorded(name: &str, today: &Answers) {
    if std::env::var_os("UPDATE_RECORDINGS").is_some() {
        save(name, today);
    }
    let recorded = load(name);
    for (name, answer) in today {
        assert_eq!(recorded.get(name), Some(answer), "{name}");
    }
    assert_eq!(recorded.len(), today.len());
}

#[test]
fn the_differences_are_documented() {
    let page = std::fs::read_to_string(bin::workspace().join("docs/keylime-agent.md")).unwrap();
    let (_, section) = page.split_once("## Differences from the stock agent").unwrap();
    for row in differences::ANSWERS.iter().chain(differences::HANDSHAKES) {
        assert!(section.contains(&format!("\n| {} |", row.documented)), "not in the documentation: {}", row.documented);
    }
}

/// What an agent answers, which must be the same with and without mTLS.
fn answers_with_and_without_tls(binary: &Path) -> Answers {
    let servers = &KeylimeServers::start(&KeylimeOptions::default()).unwrap();
    let [plain, tls] = std::thread::scope(|scope| {
        let threads = [false, true].map(|mtls| scope.spawn(move || answers(binary, servers, mtls)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(tls.len() > 400, "{} requests over mTLS", tls.len());
    for (name, answer) in &tls {
        assert_eq!(plain.get(name), Some(answer), "{name} without mTLS, and over it");
    }
    plain
}

/// Starts an agent and sends it all requests.
fn answers(binary: &Path, servers: &KeylimeServers, mtls: bool) -> Answers {
    let tpm = Swtpm::start(SwtpmOptions::default()).unwrap();
    let mut list = ImaList::new(&tpm).unwrap();
    let measured: Vec<_> = (0..requests::ENTRIES).map(|n| format!("/usr/bin/program-\"{n}\"\\")).collect();
    let measured: Vec<_> = measured.iter().map(|name| (name, name.as_bytes())).collect();
    list.measure(&tpm, Template::Ng, &measured).unwrap();
    let boot_log = tpm.scratch().write("binary_bios_measurements", (0..=255).collect::<Vec<u8>>()).unwrap();
    tpm.pcr_extend(15).unwrap();
    let options = KeylimeAgentOptions { mtls, ..KeylimeAgentOptions::new(binary) };
    let options = options
        .env("KEYLIME_AGENT_IMA_ML_PATH", list.path().display().to_string())
        .env("KEYLIME_AGENT_MEASUREDBOOT_ML_PATH", boot_log.display().to_string());
    let agent = KeylimeAgent::start(&tpm.tcti, servers, &options).unwrap();
    let facts = Facts::of(&agent, servers);
    let mut requests = requests::all(&facts.for_agent());
    if mtls {
        // A handshake for each takes its time, and the versions are answered alike.
        requests
            .retain(|request| !["/v2.1/", "/v2.2/", "/v2.3/"].iter().any(|begin| request.target.starts_with(begin)));
    }
    requests.iter().map(|request| (request.name.clone(), facts.ask(request))).collect()
}

/// What is known of an agent before it is asked.
struct Facts {
    place: Place,
    id: String,
    ak: AkPublic,
    /// The payload key's public part in PEM.
    pubkey: String,
}

impl Facts {
    fn of(agent: &KeylimeAgent, servers: &KeylimeServers) -> Self {
        let id = agent.id().unwrap();
        let ak = Public::decode_2b(&servers.registered_ak(&id).unwrap()).unwrap().try_into().unwrap();
        let pubkey = agent.get("/v2.5/keys/pubkey").unwrap();
        let pubkey = pubkey.results().get("pubkey").and_then(Value::as_str).unwrap().to_owned();
        let certificate = agent.folder.join("server-cert.crt");
        let tls = certificate.exists().then(|| {
            let (cert, key) = (servers.client_cert(), servers.client_key());
            let identity = Some(Identity { cert, key, password: None });
            let settings = ClientTls { ca: Trust::Files(vec![certificate]), identity, server_name: None };
            // The stock agent does not bear a resumed session.
            let mut config = ClientConfig::clone(&settings.build().unwrap());
            config.resumption = Resumption::disabled();
            Arc::new(config)
        });
        Self { place: Place { port: agent.port, tls }, id, ak, pubkey }
    }

    fn for_agent(&self) -> ForAgent {
        let [u, v] = HALVES;
        let key = [u ^ v; 32];
        let encrypted = |byte: u8, length: usize| encrypt(&self.pubkey, &vec![byte; length]).unwrap();
        ForAgent {
            u: encrypted(u, 32),
            v: encrypted(v, 32),
            short: encrypted(u, 16),
            odd: encrypted(u, 31),
            auth_tag: hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA384, &key), self.id.as_bytes()).as_ref()),
        }
    }

    fn ask(&self, request: &Request) -> Value {
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let begun = Instant::now();
        let answer = loop {
            let answer = http::send(&self.place, request.method, &request.target, &headers, request.body.as_deref());
            let answer = answer.unwrap_or_else(|error| panic!("{}: {error:#}", request.name));
            if !request.until_success || answer.status == 200 || begun.elapsed() > LIMIT {
                break answer;
            }
        };
        let body = match std::str::from_utf8(&answer.body) {
            Ok("") => Value::Null,
            Ok(text) => serde_json::from_str(text).unwrap_or_else(|_| json!({ "text": text })),
            Err(_) => json!({ "bytes": answer.body.len() }),
        };
        let nonce = request.target.split(['?', '&']).find_map(|part| part.strip_prefix("nonce=")).unwrap_or_default();
        json!({
            "status": answer.status,
            "content-type": answer.header("content-type"),
            "allow": answer.header("allow"),
            "body": self.comparable(body, &nonce.replace("%61", "a")),
        })
    }

    /// An answer's body with words in place of what is another value each time, or for each agent.
    fn comparable(&self, mut body: Value, nonce: &str) -> Value {
        let Some(results) = body.get_mut("results").and_then(Value::as_object_mut) else { return shortened(body) };
        for (name, value) in results.iter_mut() {
            let told = match (name.as_str(), &*value) {
                ("quote", Value::String(quote)) => self.told_by_quote(quote, nonce),
                ("pubkey", Value::String(key)) if *key == self.pubkey => told_by_pem(key),
                ("agent_uuid", Value::String(id)) if *id == self.id => "the id".to_owned(),
                ("ak_handle", Value::Number(handle)) if handle.as_u64().is_some_and(|handle| handle < 1 << 32) => {
                    "a number of 32 bits".to_owned()
                }
                ("boottime", Value::Number(time)) if time.is_u64() => "a time".to_owned(),
                _ => continue,
            };
            *value = Value::String(told);
        }
        shortened(body)
    }

    /// Whether a quote verifies, how it is built, and what it is of.
    fn told_by_quote(&self, text: &str, nonce: &str) -> String {
        let quote: QuoteString = match text.parse() {
            Ok(quote) => quote,
            Err(error) => return format!("no quote: {error}"),
        };
        let bank = HashAlgorithm::Sha256;
        let verified = match verify_quote(&quote, &self.ak, nonce.as_bytes(), bank) {
            Ok(verified) => verified,
            Err(error) => return format!("a quote that does not verify: {error}"),
        };
        let lengths: Vec<_> = text.split(':').map(|part| part.len().to_string()).collect();
        let bound = match node_key_matches(&verified.pcrs, &self.pubkey) {
            Some(true) => "bound to the payload key",
            Some(false) => "bound to another key",
            None => "bound to no key",
        };
        let mut told = format!("good, {bound}, parts of {} characters, {} PCRs", lengths.join(", "), bank.name());
        for (pcr, value) in verified.pcrs.iter() {
            match pcr {
                16 => told.push_str(" 16"),
                _ => write!(told, " {pcr}={}", hex(value.get(..4).unwrap())).unwrap(),
            }
        }
        told
    }
}

fn told_by_pem(pem: &str) -> String {
    let lines: Vec<_> = pem.split('\n').collect();
    let der = STANDARD.decode(lines.get(1..lines.len().saturating_sub(2)).unwrap_or_default().concat());
    let first = lines.first().copied().unwrap_or_default();
    format!("{first}, {} lines of {} bytes", lines.len(), der.map_or(0, |der| der.len()))
}

/// Long runs of one character, which requests are made of, as their number.
fn shortened(value: Value) -> Value {
    match value {
        Value::String(text) => {
            let mut out = String::new();
            let mut rest = text.chars().peekable();
            while let Some(character) = rest.next() {
                let mut run = 1;
                while rest.next_if_eq(&character).is_some() {
                    run += 1;
                }
                match run {
                    ..100 => out.extend(std::iter::repeat_n(character, run)),
                    _ => write!(out, "({run} x {character})").unwrap(),
                }
            }
            Value::String(out)
        }
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, shortened(value))).collect(),
        other => other,
    }
}

/// What the stock agent answered. It may not know our newest version yet, whose answers are those of the one before.
fn counterpart<'a>(stock: &'a Answers, name: &str) -> &'a Value {
    let recorded = stock.get(name).unwrap();
    let refused = recorded.pointer("/body/status").and_then(Value::as_str) == Some("API version not supported: v2.6");
    // An answer to HEAD shows no more than its status.
    let refused = refused || (name.starts_with("HEAD ") && recorded.get("status") == Some(&json!(400)));
    let before = name.replace("/v2.6/", "/v2.5/");
    if refused { stock.get(&before).unwrap_or_else(|| panic!("not asked for: {before}")) } else { recorded }
}

/// The fields in which two answers differ, with both values; one that is missing is shown as `absent`. Answers with
/// another status differ as a whole.
fn differing(stock: &Value, ours: &Value) -> Vec<(String, String, String)> {
    if stock.get("status") != ours.get("status") {
        let [stock, ours] = [stock, ours].map(|answer| {
            let text = answer.pointer("/body/status").or(answer.get("why")).and_then(Value::as_str).unwrap_or_default();
            format!("{} {text}", answer.get("status").unwrap())
        });
        return vec![("answer".to_owned(), stock, ours)];
    }
    let (stock, ours) = (fields(stock), fields(ours));
    let names: std::collections::BTreeSet<_> = stock.keys().chain(ours.keys()).collect();
    let value = |of: &BTreeMap<String, String>, name: &String| of.get(name).map_or("absent", String::as_str).to_owned();
    let both = names.into_iter().map(|name| (name.clone(), value(&stock, name), value(&ours, name)));
    both.filter(|(_, stock, ours)| stock != ours).collect()
}

/// All values of an answer, with where they are: `status`, `body.results.quote`.
fn fields(value: &Value) -> BTreeMap<String, String> {
    fn add(path: &str, value: &Value, all: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (name, value) in members {
                    let dot = if path.is_empty() { "" } else { "." };
                    add(&format!("{path}{dot}{name}"), value, all);
                }
            }
            Value::String(text) => drop(all.insert(path.to_owned(), text.clone())),
            other => drop(all.insert(path.to_owned(), other.to_string())),
        }
    }
    let mut all = BTreeMap::new();
    add("", value, &mut all);
    all
}

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stock-agent").join(name)
}

fn load(name: &str) -> Answers {
    let text = std::fs::read_to_string(recording(name)).unwrap();
    let all: Map<String, Value> = serde_json::from_str(&text).unwrap();
    all.into_iter().collect()
}

/// One answer a line, so that changes can be read.
fn save(name: &str, answers: &Answers) {
    let lines: Vec<_> = answers.iter().map(|(name, answer)| format!("{}: {answer}", json!(name))).collect();
    std::fs::create_dir_all(recording(name).parent().unwrap()).unwrap();
    std::fs::write(recording(name), format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
