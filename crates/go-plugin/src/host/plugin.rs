// SPDX-License-Identifier: Apache-2.0
//! A running plugin, and how it ended.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use tokio::time::{Instant, timeout_at};
use tonic::{Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{child::Child, connection::Streams};
use crate::{
    Broker,
    proto::{Empty, grpc_controller_client::GrpcControllerClient},
};

/// Name under which every plugin reports its health.
const HEALTH_NAME: &str = "plugin";

/// A running plugin. Dropping it kills the process.
#[derive(Debug)]
pub struct Plugin {
    pub(crate) name: String,
    pub(crate) grace: Duration,
    pub(crate) channel: Channel,
    pub(crate) broker: Broker,
    pub(crate) streams: Streams,
    pub(crate) child: Child,
}

impl Plugin {
    /// The connection to the plugin, for any number of clients.
    ///
    /// The plugin's clean end does not wait for them, but a call still in flight is cut off.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Services that the plugin offers to the host, and further ones of the host.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Process ID.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Asks the plugin for its health: `true` means serving.
    ///
    /// # Errors
    /// The status of the call; `Unavailable` if the process has ended. Takes no longer than the grace period.
    pub async fn healthy(&self) -> Result<bool, Status> {
        let request = HealthCheckRequest { service: HEALTH_NAME.into() };
        let mut client = HealthClient::new(self.channel());
        let deadline = Instant::now() + self.grace;
        match timeout_at(deadline, client.check(request)).await {
            Ok(answer) => Ok(answer?.into_inner().status() == ServingStatus::Serving),
            Err(_) => Err(Status::deadline_exceeded("the plugin did not answer")),
        }
    }

    /// Resolves when the process has ended, for whatever reason. May be called again.
    pub async fn exited(&self) -> ExitReport {
        ExitReport { status: self.child.exited().await, killed: false }
    }

    /// Asks the plugin to end and kills it if it has not after the grace period, which covers both.
    pub async fn shutdown(self) -> ExitReport {
        let Self { name, grace, channel, broker, streams, child } = self;
        let deadline = Instant::now() + grace;
        drop(streams);
        let mut controller = GrpcControllerClient::new(channel);
        // The answer says nothing: a plugin in Go is gone before it has answered. What counts is the exit.
        let _ = timeout_at(deadline, controller.shutdown(Empty {})).await;
        drop(controller);
        let mut report = ExitReport { status: None, killed: false };
        match timeout_at(deadline, child.exited()).await {
            Ok(status) => report.status = status,
            Err(_) => {
                tracing::warn!(plugin = name, "plugin failed to exit gracefully; killing it");
                child.kill();
                report.killed = true;
                report.status = child.exited().await;
            }
        }
        // Until here the plugin could reach the host's services.
        broker.close();
        report
    }
}

/// How a plugin's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitReport {
    pub(crate) status: Option<ExitStatus>,
    pub(crate) killed: bool,
}

impl ExitReport {
    /// The exit status; `None` if the host lets the system reap its children.
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Exit status 0.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The plugin did not end in the grace period and was killed by [`Plugin::shutdown`].
    pub fn killed(&self) -> bool {
        self.killed
    }
}

impl fmt::Display for ExitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exit status {code}")?,
                (None, Some(signal)) => write!(f, "signal {signal}")?,
                (None, None) => write!(f, "{status}")?,
            },
            None => f.write_str("exit status unknown")?,
        }
        if self.killed {
            f.write_str(" (killed after the grace period)")?;
        }
        Ok(())
    }
}
