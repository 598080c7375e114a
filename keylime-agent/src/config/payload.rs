// SPDX-License-Identifier: Apache-2.0
//! The options of what the host runs for others: the payload's script and the actions at a revocation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Reader;
use super::{Host, Shown, values};

/// What is done with a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// `enc_keyname`: the file for the key, inside the payload's folder.
    pub key_name: String,
    /// `dec_payload_file`: the file for the decrypted payload, inside the payload's folder.
    pub text_name: String,
    /// `secure_size`: size of the tmpfs, as tmpfs takes it.
    pub secure_size: String,
    /// `extract_payload_zip`: whether zip archives are unpacked.
    pub extract_zip: bool,
    /// `payload_script`: the program to run, inside the payload's folder.
    pub script: Option<String>,
    /// `payload_script_timeout`: how long it may run.
    pub script_timeout: Duration,
}

/// What is done with revocation messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// `revocation_cert`: the certificate that messages are checked with; by default the payload's.
    pub certificate: PathBuf,
    /// `revocation_actions`: names of programs, before those of the payload.
    pub actions: Vec<String>,
    /// `revocation_actions_dir`: the folder of this host's actions.
    pub actions_dir: PathBuf,
    /// `allow_payload_revocation_actions`: whether programs of the payload may be actions.
    pub allow_payload_actions: bool,
    /// `revocation_action_timeout`: how long each may run.
    pub action_timeout: Duration,
    /// `revocation_notification_ip` and `revocation_notification_port`: who publishes messages over ZeroMQ, if they are
    /// taken from there (`enable_revocation_notifications`).
    pub publisher: Option<(Host, u16)>,
}

impl Reader<'_> {
    pub(super) fn payload(&mut self) -> Payload {
        let name = |reader: &mut Self, option, default: &str| {
            reader.parsed(option, default.to_owned(), values::name_inside, String::clone)
        };
        let key_name = name(self, "enc_keyname", "derived_tci_key");
        let text_name = name(self, "dec_payload_file", "decrypted_payload");
        if Path::new(&key_name).components().eq(Path::new(&text_name).components()) {
            self.options.problem("dec_payload_file", "expected another name than that of 'enc_keyname'");
        }
        let script = |text: &str| if text.is_empty() { Ok(String::new()) } else { values::name_inside(text) };
        let script = self.parsed("payload_script", "autorun.sh".to_owned(), script, String::clone);
        Payload {
            key_name,
            text_name,
            secure_size: self.parsed("secure_size", "1m".to_owned(), values::tmpfs_size, String::clone),
            extract_zip: self.boolean("extract_payload_zip", true),
            script: (!script.is_empty()).then_some(script),
            script_timeout: Duration::from_secs(self.number("payload_script_timeout", 1..=86_400, 600)),
        }
    }

    pub(super) fn revocation(&mut self, keylime_dir: &Path) -> Revocation {
        const ENABLE: &str = "enable_revocation_notifications";
        let is_subscribed = self.boolean(ENABLE, false);
        let is_empty =
            self.options.setting("revocation_cert").is_some_and(|setting| setting.value.as_str() == Some(""));
        if is_subscribed && is_empty {
            self.options.problem("revocation_cert", format_args!("it must not be empty while '{ENABLE}' is true"));
        }
        let certificate = self.file(keylime_dir, "revocation_cert", "secure/unzipped/RevocationNotifier-cert.crt");
        let actions = self.list("revocation_actions").unwrap_or_default();
        for name in &actions {
            if !crate::payload::is_plain_name(name) {
                self.options.problem("revocation_actions", format_args!("expected names of files, found '{name}'"));
            }
        }
        self.note("revocation_actions", Shown::list(&actions), true);
        let actions_dir = PathBuf::from(self.text("revocation_actions_dir", "/usr/libexec/keylime"));
        if !actions_dir.is_absolute() {
            self.options.problem("revocation_actions_dir", "expected an absolute path");
        } else if is_subscribed && !actions_dir.is_dir() {
            let shown = actions_dir.display();
            let text = format!("the folder {shown} does not exist: create it, as '{ENABLE}' is true");
            self.options.problem("revocation_actions_dir", text);
        }
        Revocation {
            certificate,
            actions,
            actions_dir,
            allow_payload_actions: self.boolean("allow_payload_revocation_actions", true),
            action_timeout: Duration::from_secs(self.number("revocation_action_timeout", 1..=86_400, 60)),
            publisher: self.publisher(is_subscribed),
        }
    }

    fn publisher(&mut self, is_subscribed: bool) -> Option<(Host, u16)> {
        let default = Some(Host::Address(std::net::Ipv4Addr::LOCALHOST.into()));
        // Where it is not used it may be empty, as with the stock agent.
        let parse = |text: &str| if text.is_empty() && !is_subscribed { Ok(None) } else { Host::parse(text).map(Some) };
        let show = |host: &Option<Host>| host.as_ref().map_or_else(String::new, Host::to_string);
        let host = self.parsed("revocation_notification_ip", default, parse, show);
        let port = self.port("revocation_notification_port", 8992);
        host.filter(|_| is_subscribed).map(|host| (host, port))
    }
}
