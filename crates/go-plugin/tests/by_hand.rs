// SPDX-License-Identifier: Apache-2.0
//! A plugin started by a person, or by a host that asks for what it does not have.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    io::Read,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

use common::{Bare, command, example, files};

fn by_hand(argument: Option<&str>) -> Output {
    Command::new(example("kv_plugin")).env_remove("KV_PLUGIN").args(argument).output().expect("start the plugin")
}

#[test]
fn a_person_is_told_what_it_is_and_nothing_reaches_stdout() {
    for (argument, status, has) in [
        (None, 1, "Not started: no host has started this program (the variable KV_PLUGIN is not set)."),
        (Some("--help"), 0, "This program is a plugin:"),
        (Some("-h"), 0, "A key-value store in memory"),
        (Some("--version"), 0, concat!("kv_plugin ", env!("CARGO_PKG_VERSION"), "\n")),
        (Some("-V"), 0, "kv_plugin "),
    ] {
        let output = by_hand(argument);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{argument:?}");
        assert!(text.contains(has), "{argument:?}: {text}");
        assert!(output.stdout.is_empty(), "{argument:?}");
    }
}

#[test]
fn a_wrong_cookie_is_no_host() {
    let dir = tempfile::tempdir().unwrap();
    let output = command("kv_plugin", dir.path()).env("KV_PLUGIN", "other").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("(the variable KV_PLUGIN has another value)"), "{text}");
    assert!(output.stdout.is_empty());
    assert!(files(dir.path()).is_empty());
}

/// Starts a plugin that must refuse, and returns the one log line.
fn refusal(variable: &str, value: &str) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let output = command("kv_plugin", dir.path()).env(variable, value).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{variable}");
    assert!(output.stdout.is_empty(), "{variable}");
    assert!(files(dir.path()).is_empty(), "{variable}");
    serde_json::from_slice(&output.stderr).expect("one line of JSON")
}

#[test]
fn a_plugin_that_cannot_start_says_why_in_the_hosts_log() {
    for (variable, value, reason) in [
        (
            "PLUGIN_CLIENT_CERT",
            "-----BEGIN CERTIFICATE-----",
            "the host asks for AutoMTLS (PLUGIN_CLIENT_CERT is set), which this plugin does not support: switch it off in the host",
        ),
        (
            "PLUGIN_UNIX_SOCKET_DIR",
            "/nowhere/at/all",
            "cannot listen: cannot make a socket in /nowhere/at/all: No such file or directory (os error 2)",
        ),
        (
            "PLUGIN_UNIX_SOCKET_GROUP",
            "no-such-group",
            "cannot listen: PLUGIN_UNIX_SOCKET_GROUP: there is no group \"no-such-group\" on this system",
        ),
    ] {
        let line = refusal(variable, value);
        assert_eq!(line["@level"], "error");
        assert_eq!(line["@message"], "the plugin cannot start");
        assert_eq!(line["error"], reason);
    }
}

#[test]
fn the_handshake_line_is_exact_and_the_socket_is_the_owners() {
    let dir = tempfile::tempdir().unwrap();
    for (multiplex, end) in [(None, "|grpc|\n"), (Some("true"), "|grpc||false\n")] {
        let mut command = command("kv_plugin", dir.path());
        if let Some(value) = multiplex {
            command.env("PLUGIN_MULTIPLEX_GRPC", value);
        }
        let plugin = Bare::start(command);
        let socket = plugin.socket();
        assert_eq!(plugin.line, format!("1|1|unix|{}{end}", socket.display()));
        assert_eq!(socket.parent(), Some(dir.path()));
        let mode = socket.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}

#[test]
fn a_host_of_another_version_gets_a_hint_in_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command("kv_plugin", dir.path());
    command.env("PLUGIN_PROTOCOL_VERSIONS", "x,2");
    let mut plugin = Bare::start(command);
    assert!(plugin.line.starts_with("1|1|unix|"));
    plugin.child.kill().unwrap();
    let mut text = String::new();
    let mut stderr = plugin.child.stderr.take().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    assert!(text.contains("PLUGIN_PROTOCOL_VERSIONS has a part that is no number"), "{text}");
    assert!(text.contains("the host does not accept this plugin's protocol version"), "{text}");
}
