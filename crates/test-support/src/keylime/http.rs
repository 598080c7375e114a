// SPDX-License-Identifier: Apache-2.0
//! Calls to Keylime's servers and agents with curl, a judge that shares no code with what is tested.

use std::ffi::OsStr;
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

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
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
    let mut all = Vec::new();
    if let Some(files) = files {
        all.extend(["--cert".as_ref(), files.cert.as_os_str(), "--key".as_ref(), files.key.as_os_str()]);
        match files.ca {
            Some(ca) => all.extend(["--cacert".as_ref(), ca.as_os_str()]),
            None => all.push("--insecure".as_ref()),
        }
    }
    all.extend(args.iter().map(OsStr::new));
    all.push(url.as_ref());
    curl(&all)
}

/// Runs curl with these arguments, a URL among them.
///
/// # Errors
/// When there is no HTTP answer; a status is no error.
pub fn curl<S: AsRef<OsStr>>(args: &[S]) -> Result<HttpAnswer> {
    let output = Program::new("curl")
        .args(["--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "20"])
        .args(["--write-out", "\n%{http_code} %{size_header}"])
        .args(args)
        .run(Duration::from_secs(30))?;
    let text = process::success("curl", output)?;
    let (answer, summary) = text.rsplit_once('\n').context("curl printed no summary")?;
    let (status, size) = summary.split_once(' ').context("curl printed no header size")?;
    let Some((headers, body)) = answer.split_at_checked(size.parse()?) else {
        bail!("curl: header size {size} is beyond the answer");
    };
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    Ok(HttpAnswer { status: status.parse()?, headers: headers.to_owned(), body })
}
