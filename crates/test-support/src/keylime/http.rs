// SPDX-License-Identifier: Apache-2.0
//! Calls to Keylime's servers and agents with curl, a judge that shares no code with what is tested.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{self, Program};

/// What a server answered.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// HTTP status code.
    pub status: u16,
    /// Headers as received, one a line.
    pub headers: String,
    /// The body as JSON, or as a JSON string when it is something else.
    pub body: Value,
}

impl HttpAnswer {
    /// The member `results` of the body, Keylime's envelope.
    #[must_use]
    pub fn results(&self) -> &Value {
        self.body.get("results").unwrap_or(&Value::Null)
    }
}

/// The files of a TLS client.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientFiles<'a> {
    pub(super) ca: Option<&'a Path>,
    pub(super) cert: &'a Path,
    pub(super) key: &'a Path,
}

/// Sends a request; `args` are further arguments of curl.
pub(super) fn call(url: &str, files: Option<ClientFiles<'_>>, args: &[&str]) -> Result<HttpAnswer> {
    let mut curl = Program::new("curl")
        .args(["--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "20"])
        .args(["--write-out", "\n%{http_code} %{size_header}"]);
    if let Some(files) = files {
        curl = curl.args(["--cert".as_ref(), files.cert.as_os_str(), "--key".as_ref(), files.key.as_os_str()]);
        curl = match files.ca {
            Some(ca) => curl.args(["--cacert".as_ref(), ca.as_os_str()]),
            None => curl.args(["--insecure"]),
        };
    }
    let output = curl.args(args).args([url]).run(Duration::from_secs(30))?;
    let text = process::success(&format!("curl {url}"), output)?;
    let (answer, summary) = text.rsplit_once('\n').context("curl printed no summary")?;
    let (status, size) = summary.split_once(' ').context("curl printed no header size")?;
    let Some((headers, body)) = answer.split_at_checked(size.parse()?) else {
        bail!("curl {url}: header size {size} is beyond the answer");
    };
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    Ok(HttpAnswer { status: status.parse()?, headers: headers.to_owned(), body })
}
