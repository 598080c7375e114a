// SPDX-License-Identifier: Apache-2.0
//! A "Keylime agent" in an attacker's hands: passes everything on from the true one, but the quotes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use e2e::Host;
use serde_json::{Value, json};
use test_support::scratch::Scratch;

type Forge = dyn Fn(&str, String) -> String + Send + Sync;

/// Listens on a Unix socket until the test ends.
pub(crate) struct HostileAgent {
    socket: PathBuf,
    _scratch: Scratch,
}

impl HostileAgent {
    /// `forge` gets the nonce that was asked for and the true quote over it, and answers the quote to send.
    pub(crate) fn start(host: &Host, forge: impl Fn(&str, String) -> String + Send + Sync + 'static) -> Result<Self> {
        let scratch = Scratch::new("hostile")?;
        let socket = scratch.join("agent.sock");
        let listener = UnixListener::bind(&socket)?;
        let real = Arc::new(host.agent.caller());
        let forge: Arc<Forge> = Arc::new(forge);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (real, forge) = (Arc::clone(&real), Arc::clone(&forge));
                thread::spawn(move || {
                    // A plugin that goes away is nobody's loss.
                    let _ended = serve(stream, &|path| real.get(path).map(|answer| answer.body), &*forge);
                });
            }
        });
        Ok(Self { socket, _scratch: scratch })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

fn serve(stream: UnixStream, real: &dyn Fn(&str) -> Result<Value>, forge: &Forge) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut answers = stream;
    while let Some(request) = lines.next().transpose()? {
        let path = request.split(' ').nth(1).context("no path")?.to_owned();
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let mut body = real(&path)?;
        if let Some((_, query)) = path.split_once("nonce=") {
            let nonce = query.split('&').next().unwrap_or_default();
            let quote = body["results"]["quote"].as_str().context("no quote")?.to_owned();
            body["results"]["quote"] = json!(forge(nonce, quote));
        }
        let body = body.to_string();
        write!(
            answers,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}
