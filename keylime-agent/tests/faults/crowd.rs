// SPDX-License-Identifier: Apache-2.0
//! Crowds of callers who may ask, with the real verifier among them.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use test_support::keylime::Server;
use test_support::process::peak_rss_kib;
use test_support::{KeylimeAgent, KeylimeOptions, ports, wait};
use tls::rustls::ClientConfig;

use crate::honest::HonestVerifier;
use crate::network::{LINES, Stream, client, handshake, handshake_from, long_list};
use crate::proxy::{Mode, Proxy};
use crate::support::watch::{Over, watched};
use crate::support::{LIMIT, Lab, options};

/// How long a caller waits after its connection was ended.
const BREATH: Duration = Duration::from_millis(50);

/// An address that is not the verifier's.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What the callers were answered: how often which status. 0 stands for a connection that was ended.
type Answers = BTreeMap<u16, u64>;

/// Has so many callers do the same while something else is done; each goes on until that is over.
fn crowd(callers: usize, each: impl Fn(&AtomicBool) -> Answers + Sync, meanwhile: impl FnOnce()) -> Answers {
    let over = AtomicBool::new(false);
    let mut answers = Answers::new();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(|| each(&over))).collect();
        {
            let _over = Over(&over);
            meanwhile();
        }
        for (status, count) in callers.into_iter().flat_map(|caller| caller.join().unwrap()) {
            *answers.entry(status).or_default() += count;
        }
    });
    println!("{answers:?}");
    answers
}

/// The settings of one that may ask.
fn admitted(lab: &Lab, agent: &KeylimeAgent) -> Arc<ClientConfig> {
    client(agent, (&lab.servers.client_cert(), &lab.servers.client_key()))
}

/// Asks for one quote after the other until it is over, on a connection that is kept for as long as the agent keeps it.
fn insist(source: Ipv4Addr, port: u16, config: &Arc<ClientConfig>, over: &AtomicBool) -> Answers {
    let mut answers = Answers::new();
    while !over.load(Ordering::Relaxed) {
        let mut stream = handshake_from(source, port, config).map(BufReader::new);
        while !over.load(Ordering::Relaxed) {
            let status = stream.as_mut().map_or(0, |stream| ask(stream).unwrap_or(0));
            *answers.entry(status).or_default() += 1;
            if status == 0 {
                thread::sleep(BREATH);
                break;
            }
        }
    }
    answers
}

/// The status of an answer that has been read to its end.
fn ask(stream: &mut BufReader<Stream>) -> io::Result<u16> {
    stream.get_mut().write_all(b"GET /v2.5/quotes/identity?nonce=abc HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(0);
        }
        match line.trim_end().split_once(' ') {
            None if line == "\r\n" => break,
            Some(("HTTP/1.1", rest)) => status = rest.get(..3).and_then(|code| code.parse().ok()),
            Some(("content-length:", value)) => length = value.parse().unwrap(),
            _ => {}
        }
    }
    io::copy(&mut stream.by_ref().take(length), &mut io::sink())?;
    Ok(status.unwrap_or_default())
}

/// Sends this, and then takes a little of the answer at a time, if there is any, until it is over.
fn dawdle(port: u16, config: &Arc<ClientConfig>, request: &str, over: &AtomicBool) -> io::Result<Answers> {
    let mut stream = handshake_from(ELSEWHERE, port, config)?;
    stream.write_all(request.as_bytes())?;
    stream.sock.set_read_timeout(Some(BREATH))?;
    let mut begin = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let mut piece = [0; 1024];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) if begin.len() < 12 => begin.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() != ErrorKind::WouldBlock => break,
            _ => thread::sleep(BREATH),
        }
    }
    let status = begin.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    Ok(status.map(|status| (status, 1)).into_iter().collect())
}

#[test]
fn a_crowd_does_not_lock_the_verifier_out() {
    let Some(mut lab) = Lab::start(KeylimeOptions::default()) else { return };
    let mut agent = lab.agent(&options());
    let (id, port, config) = (agent.id().unwrap(), agent.port, admitted(&lab, &agent));
    let payload = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(payload.path(), "payload").unwrap();
    lab.tenant(&agent, "add", &["-f", payload.path().to_str().unwrap()]);
    agent.part().wait_log("> Successfully decrypted payload", LIMIT).unwrap();
    let _held: Vec<_> = (0..256).map(|_| handshake(&agent, &config)).collect();
    let halves = |agent: &mut KeylimeAgent| agent.part().log().matches("/keys/vkey\n").count();
    let before = halves(&mut agent);
    let each = |over: &AtomicBool| insist(Ipv4Addr::LOCALHOST, port, &config, over);
    let answers =
        crowd(300, each, || {
            // A verifier that begins anew sends its half of the key again, once it has a quote.
            lab.servers.restart(Server::Verifier).unwrap();
            let sent = wait::until("the verifier's half of the key", 3 * LIMIT, || {
                Ok((halves(&mut agent) > before).then_some(()))
            });
            sent.unwrap();
            lab.servers.wait_verified(&id, LIMIT).unwrap();
            watched(&lab.servers, &id, || lab.wait_quotes(&id, 3));
        });
    assert!(answers.keys().all(|status| [0, 200, 500].contains(status)), "{answers:?}");
}

#[test]
fn slow_callers_do_not_lock_the_verifier_out() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let list = long_list(folder.path());
    let mut agent = lab.agent(&options().env("KEYLIME_AGENT_IMA_ML_PATH", list.to_str().unwrap()));
    let (id, port, config) = (agent.id().unwrap(), agent.port, admitted(&lab, &agent));
    lab.servers.enrol(&id, port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    let list = "GET /v2.5/quotes/integrity?nonce=abc&mask=0x400&partial=0 HTTP/1.1\r\nhost: x\r\n\r\n";
    let body =
        "POST /v2.5/keys/ukey HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n";
    let each = |request, over: &AtomicBool| dawdle(port, &config, request, over).unwrap_or_else(|_| [(0, 1)].into());
    // The first to ask for the end of a list waits until it has been looked through.
    let path = format!("/v2.5/quotes/integrity?nonce=abc&mask=0x400&partial=0&ima_ml_entry={LINES}");
    assert_eq!(agent.get(&path).unwrap().results()["ima_measurement_list_entry"], LINES);
    let verifier = HonestVerifier::of(&lab, &agent, Some(LINES));
    watched(&lab.servers, &id, || {
        // Long lists, of which a little is taken now and then: as many as one address may have answered at a time (72).
        let answers = crowd(90, |over| each(list, over), || drop(lab.wait_quotes(&id, 4)));
        assert!(answers.keys().eq([&200]) && answers[&200] >= 72, "{answers:?}");
        // Bodies that do not come: more than there are places.
        let answers = crowd(256, |over| each(body, over), || drop(lab.wait_quotes(&id, 4)));
        assert!(answers.keys().all(|status| [0, 408].contains(status)), "{answers:?}");
    });
    verifier.was_content();
    let peak = peak_rss_kib(agent.part().pid()).unwrap();
    println!("peak memory {peak} kB");
    assert!(peak < 60_000, "{peak} kB");
}

/// A TPM that takes so long for each command, there and back, as a discrete one does.
const SLOW: Duration = Duration::from_millis(150);

#[test]
fn one_source_does_not_take_a_slow_tpm_from_the_verifier() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let (_, real) = lab.tpm.tcti.rsplit_once('=').unwrap();
    let real: u16 = real.parse().unwrap();
    let reserved = ports::reserve_run::<2>().unwrap();
    let [data, control] = reserved.each_ref().map(ports::Port::number);
    // Fast until the host has been enrolled.
    let tpm = Proxy::start(data, Mode::To(real));
    let _control = Proxy::start(control, Mode::To(real + 1));
    let tcti = format!("swtpm:host=127.0.0.1,port={data}");
    let agent = KeylimeAgent::start(&tcti, &lab.servers, &options()).unwrap();
    let (id, port, config) = (agent.id().unwrap(), agent.port, admitted(&lab, &agent));
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    tpm.set(Mode::Late(real, SLOW));
    let each = |over: &AtomicBool| insist(ELSEWHERE, port, &config, over);
    let answers = watched(&lab.servers, &id, || {
        crowd(120, each, || {
            for _ in 0..3 {
                lab.wait_quotes(&id, 1);
            }
            tpm.set(Mode::To(real));
        })
    });
    assert!(answers.keys().all(|status| [0, 200, 500].contains(status)), "{answers:?}");
}
