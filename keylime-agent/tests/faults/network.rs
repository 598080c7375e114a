// SPDX-License-Identifier: Apache-2.0
//! Callers that say nothing, too much, or too little at a time, and one that does not read what it has asked for.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt::RcvBuf};
use test_support::ca::LeafSpec;
use test_support::process::peak_rss_kib;
use test_support::{KeylimeAgent, KeylimeOptions, TestCa, wait};
use tls::rustls::pki_types::ServerName;
use tls::rustls::{ClientConfig, ClientConnection, StreamOwned};
use tls::{ClientTls, Identity, Trust};

use crate::honest::HonestVerifier;
use crate::support::watch::watched;
use crate::support::{LIMIT, Lab, options};

/// How long a long list is.
pub(crate) const LINES: usize = 500_000;

/// Connects from an address of this host, and does nothing.
fn connect_from(source: Ipv4Addr, port: u16) -> TcpStream {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = |ip, port| SockaddrIn::from(SocketAddrV4::new(ip, port));
    // What is not read stays with the agent, as it does where the network is no faster than the caller.
    setsockopt(&socket, RcvBuf, &(16 << 10)).unwrap();
    bind(socket.as_raw_fd(), &address(source, 0)).unwrap();
    nix::sys::socket::connect(socket.as_raw_fd(), &address(Ipv4Addr::LOCALHOST, port)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn connect(agent: &KeylimeAgent) -> TcpStream {
    connect_from(Ipv4Addr::LOCALHOST, agent.port)
}

pub(crate) fn client(agent: &KeylimeAgent, (cert, key): (&Path, &Path)) -> Arc<ClientConfig> {
    let settings = ClientTls {
        ca: Trust::Files(vec![agent.folder.join("server-cert.crt")]),
        identity: Some(Identity { cert: cert.to_owned(), key: key.to_owned(), password: None }),
        server_name: None,
    };
    settings.build().unwrap()
}

/// A connection with mTLS.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection whose handshake is done.
pub(crate) fn handshake(agent: &KeylimeAgent, config: &Arc<ClientConfig>) -> io::Result<Stream> {
    handshake_from(Ipv4Addr::LOCALHOST, agent.port, config)
}

/// As [`handshake`], from an address of this host, with the agent at this port.
pub(crate) fn handshake_from(source: Ipv4Addr, port: u16, config: &Arc<ClientConfig>) -> io::Result<Stream> {
    let name = ServerName::from(Ipv4Addr::LOCALHOST);
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, connect_from(source, port));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Everything until the other side ends the connection, in whatever way.
fn read_to_end(stream: &mut impl io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = [0; 64 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return all,
            Ok(read) => all.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the connection is still open"),
            Err(_) => return all,
        }
    }
}

/// The real verifier's count of good quotes.
fn quotes(lab: &Lab, id: &str) -> u64 {
    lab.servers.verifier_agent(id).unwrap().unwrap()["attestation_count"].as_u64().unwrap()
}

/// Writes an IMA list of [`LINES`]; where it is.
pub(crate) fn long_list(folder: &Path) -> PathBuf {
    let path = folder.join("ima");
    let mut list = io::BufWriter::new(std::fs::File::create(&path).unwrap());
    for n in 0..LINES {
        writeln!(list, "10 {n:040x} ima-ng sha256:{n:064x} /usr/bin/{n}").unwrap();
    }
    list.into_inner().unwrap();
    path
}

#[test]
fn bad_callers_do_not_disturb_the_verifier() {
    let Some(lab) = Lab::start(KeylimeOptions::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let ima = long_list(folder.path());
    let mut agent = lab.agent(&options().env("KEYLIME_AGENT_IMA_ML_PATH", ima.to_str().unwrap()));
    let id = agent.id().unwrap();
    lab.servers.enrol(&id, agent.port, None).unwrap();
    lab.servers.wait_verified(&id, LIMIT).unwrap();
    watched(&lab.servers, &id, || disturb(&lab, &mut agent, &id, folder.path()));
    let peak = peak_rss_kib(agent.part().pid()).unwrap();
    println!("peak memory {peak} kB with ten who do not read");
    assert!(peak < 60_000, "{peak} kB");
    // Those who are slow hold nothing else up.
    let start = Instant::now();
    assert!(agent.terminate().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Every bad caller at the same time.
fn disturb(lab: &Lab, agent: &mut KeylimeAgent, id: &str, folder: &Path) {
    let (cert, key) = (lab.servers.client_cert(), lab.servers.client_key());
    let admitted = client(agent, (&cert, &key));
    // The whole list, as the real verifier asks for it in the beginning.
    let whole = agent.get("/v2.5/quotes/integrity?nonce=abc&mask=0x400&partial=0").unwrap();
    let lines = whole.results()["ima_measurement_list"].as_str().unwrap();
    assert_eq!(lines.lines().count(), LINES);
    println!("peak memory {} kB with a list of {} kB", peak_rss_kib(agent.part().pid()).unwrap(), lines.len() / 1000);
    let verifier = HonestVerifier::of(lab, agent, Some(LINES));

    // Nothing is said, before the handshake; more of them than there is room for (256).
    let silent: Vec<_> = (0..300).map(|_| connect(agent)).collect();
    // A foreign certificate.
    let foreign = TestCa::root("foreign").unwrap().issue(&LeafSpec::new("client").client_only()).unwrap();
    let (foreign_cert, foreign_key) = foreign.write(folder, "client").unwrap();
    let foreign = client(agent, (&foreign_cert, &foreign_key));
    for _ in 0..10 {
        let mut stream = handshake(agent, &foreign).unwrap();
        let _ = stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(read_to_end(&mut stream), b"");
    }
    // Long lists that nobody reads.
    let mut readers: Vec<_> = (0..10).map(|_| handshake(agent, &admitted).unwrap()).collect();
    for reader in &mut readers {
        let request = "GET /v2.5/quotes/integrity?nonce=abc&mask=0x400&partial=0 HTTP/1.1\r\nhost: x\r\n\r\n";
        reader.write_all(request.as_bytes()).unwrap();
    }
    // A megabyte of headers, in one and in many.
    let long = format!("GET /version HTTP/1.1\r\nlong: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET /version HTTP/1.1\r\n{}\r\n", "name: value\r\n".repeat((1 << 20) / 13));
    for head in [long, many] {
        let mut stream = handshake(agent, &admitted).unwrap();
        // The agent may end the connection before it has all of it, and its answer may be lost then.
        let _ = stream.write_all(head.as_bytes());
        let answer = read_to_end(&mut stream);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    }
    // One byte at a time, of a TLS handshake and of a request.
    let mut in_handshake: Vec<_> = (0..10).map(|_| connect(agent)).collect();
    let mut in_head: Vec<_> = (0..10).map(|_| handshake(agent, &admitted).unwrap()).collect();
    let hello = [&[0x16, 3, 1, 2, 0][..], &[1; 512]].concat();
    let before = quotes(lab, id);
    for (n, byte) in b"GET /version HTTP/1.1\r\nhost: x\r\nslow: aaaaaaaaaaaa".iter().enumerate().take(22) {
        for stream in &mut in_handshake {
            let _ = stream.write_all(&hello[n..=n]);
        }
        for stream in &mut in_head {
            let _ = stream.write_all(&[*byte]);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    // Meanwhile it has had at least a quote in two seconds, its usual interval.
    let more = quotes(lab, id) - before;
    assert!(more >= 11, "{more}");
    // Twenty seconds after nothing more could be sent, the connections of those who do not read are ended.
    wait::until("the end of those who do not read", LIMIT, || {
        let ended = agent.part().log().matches(" ended: error writing a body to connection").count();
        Ok((ended >= readers.len()).then_some(()))
    })
    .unwrap();
    for mut reader in readers {
        let got = read_to_end(&mut reader);
        assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n") && got.len() < lines.len() / 2, "{} bytes", got.len());
    }
    for mut stream in in_handshake {
        assert!(read_to_end(&mut stream).len() < 100);
    }
    for mut stream in silent {
        assert_eq!(read_to_end(&mut stream), b"");
    }
    verifier.was_content();
}
