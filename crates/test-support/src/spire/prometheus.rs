// SPDX-License-Identifier: Apache-2.0
//! SPIRE's metrics as Prometheus reads them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::Result;

use crate::ports::{self, Port};
use crate::wait;

/// An exporter on a port of its own.
#[derive(Debug)]
pub struct Prometheus {
    port: Port,
}

impl Prometheus {
    /// Reserves the port.
    ///
    /// # Errors
    /// When there is no free one.
    pub fn new() -> Result<Self> {
        Ok(Self { port: ports::reserve()? })
    }

    /// The block that has SPIRE show its metrics there.
    #[must_use]
    pub fn block(&self) -> String {
        format!("telemetry {{\n  Prometheus {{\n    host = \"127.0.0.1\"\n    port = {}\n  }}\n}}", self.port.number())
    }

    /// Waits until there is a metric with all these parts in its line, and a value that `wanted` accepts.
    ///
    /// # Errors
    /// When there is none within `limit`; with the values that there were.
    pub fn wait(&self, parts: &[&str], limit: Duration, wanted: impl Fn(f64) -> bool) -> Result<f64> {
        let mut seen = None;
        let found = wait::until(&parts.join(" "), limit, || {
            seen = self.look(parts).unwrap_or_default();
            Ok(seen.filter(|value| wanted(*value)))
        });
        found.map_err(|error| error.context(format!("last value: {seen:?}")))
    }

    fn look(&self, parts: &[&str]) -> Result<Option<f64>> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()))?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        let line = text.lines().find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()))
    }
}
