// SPDX-License-Identifier: Apache-2.0
//! For the tests of the pools: members whose conduct changes as told

use std::sync::{Arc, Mutex};

use crate::testing::{Gate, Reply, Server, Site, ok, versions};

/// What a member does with a request for an agent.
#[derive(Debug, Clone)]
pub(super) enum Conduct {
    /// 200 with these results.
    Answers(String),
    /// 404.
    Unknown,
    /// 404 for want of an activation.
    Inactive,
    /// 503.
    Down,
    /// This status.
    Status(u16),
    /// 200 with results that make no record.
    Odd,
    /// No answer.
    Hangs,
    /// The same once the gate is open.
    Waits(Gate, Box<Conduct>),
}

impl Conduct {
    fn reply(&self) -> Reply {
        match self {
            Self::Answers(results) => ok(results),
            Self::Unknown => Reply::error(404, "agent id not found"),
            Self::Inactive => Reply::error(404, "Agent with ID 'host' has not been activated"),
            Self::Down => Reply::error(503, "Service Unavailable"),
            Self::Status(code) => Reply::error(*code, "no"),
            Self::Odd => ok("{}"),
            Self::Hangs => Reply::Hang,
            Self::Waits(gate, then) => Reply::Gated(gate.clone(), Box::new(then.reply())),
        }
    }
}

/// A member of the pool under test.
pub(super) struct Side {
    pub(super) server: Server,
    conduct: Arc<Mutex<Conduct>>,
}

impl Side {
    pub(super) async fn start(site: &Site, conduct: Conduct) -> Self {
        let conduct = Arc::new(Mutex::new(conduct));
        let shared = conduct.clone();
        let server = Server::start(Some(site.server()), move |request| match request {
            "GET /version" => versions(&["2.6"]),
            _ => shared.lock().unwrap().reply(),
        })
        .await;
        Self { server, conduct }
    }

    pub(super) fn now(&self, conduct: Conduct) {
        *self.conduct.lock().unwrap() = conduct;
    }

    /// Requests for an agent so far.
    pub(super) fn asked(&self) -> usize {
        self.server.seen().iter().filter(|request| request.contains("/agents/")).count()
    }
}

pub(super) async fn sides(site: &Site, conducts: &[Conduct]) -> Vec<Side> {
    let mut sides = Vec::new();
    for conduct in conducts {
        sides.push(Side::start(site, conduct.clone()).await);
    }
    sides
}

pub(super) fn asked(sides: &[Side]) -> Vec<usize> {
    sides.iter().map(Side::asked).collect()
}

/// The text with the members' numbers in place of their addresses.
pub(super) fn numbered(text: &str, sides: &[Side]) -> String {
    sides.iter().enumerate().fold(text.to_owned(), |text, (number, side)| {
        text.replace(&format!("https://{}", side.server.at), &number.to_string())
    })
}
