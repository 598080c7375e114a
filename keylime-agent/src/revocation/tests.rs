// SPDX-License-Identifier: Apache-2.0
//! Messages from their arrival to the end of their actions.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::signature::tests::Signer;
use super::*;
use crate::payload::store::Store;

struct Lab {
    dir: tempfile::TempDir,
    signer: Signer,
    options: Revocation,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::new("rsa:2048");
        for folder in ["actions", "keylime/secure/unzipped"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let options = Revocation {
            certificate: signer.certificate(),
            actions: vec![],
            actions_dir: dir.path().join("actions"),
            allow_payload_actions: true,
            action_timeout: Duration::from_secs(30),
            publisher: None,
        };
        Self { dir, signer, options }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, path: &str, mode: u32, script: &str) {
        std::fs::write(self.path(path), script).unwrap();
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn list(&self, text: &str) {
        std::fs::write(self.path("keylime/secure/unzipped/action_list"), text).unwrap();
    }

    fn signed(&self, msg: &str) -> Envelope {
        let signature = STANDARD.encode(self.signer.sign(msg.as_bytes(), "max"));
        Envelope { msg: msg.to_owned(), signature: Some(signature) }
    }

    async fn process(&self, envelope: &Envelope) -> Result<bool, String> {
        let place = Place::new(Store::Ready(self.path("keylime/secure")));
        self.process_at(envelope, place).await
    }

    async fn process_at(&self, envelope: &Envelope, place: Place) -> Result<bool, String> {
        let (inbox, mut revoker) = Revoker::new(self.options.clone(), self.path("keylime"), place);
        let text = inbox.check(envelope).await.map_err(|error| Report(&error).to_string())?;
        let Some(text) = text else { return Ok(false) };
        revoker.process(&text).await.map(|()| true).map_err(|error| Report(&error).to_string())
    }

    async fn fails(&self, envelope: &Envelope) -> String {
        self.process(envelope).await.unwrap_err()
    }
}

/// Appends its name, how it is called and its message to the file `seen` in its working folder.
const ACTION: &str = "#!/bin/sh\necho \"$(basename \"$0\") $# $(cat \"$1\") $(stat -c %a \"$1\")\" >> seen\n";

#[tokio::test(flavor = "current_thread")]
async fn actions_of_the_host_and_of_the_payload() {
    let mut lab = Lab::new();
    lab.options.actions = vec!["first".to_owned()];
    lab.program("actions/first", 0o755, ACTION);
    lab.program("actions/both", 0o755, ACTION);
    lab.program("keylime/secure/unzipped/both", 0o600, "#!/bin/sh\nexit 1\n");
    // Not executable as it comes out of an archive.
    lab.program("keylime/secure/unzipped/local_action_x", 0o600, ACTION);
    lab.list("both, local_action_x\n");
    let envelope = lab.signed(r#"{"type": "revocation", "ip": "::1; $(reboot)"}"#);
    assert_eq!(lab.process(&envelope).await, Ok(true));
    let message = r#"{"ip":"::1; $(reboot)","type":"revocation"}"#;
    let seen = ["first", "both", "local_action_x"].map(|name| format!("{name} 1 {message} 600\n")).concat();
    assert_eq!(std::fs::read_to_string(lab.path("keylime/seen")).unwrap(), seen);
    // The message's file is gone.
    assert_eq!(std::fs::read_dir(lab.path("keylime/secure")).unwrap().count(), 1);

    // Without a tmpfs there are the host's own.
    std::fs::remove_file(lab.path("keylime/seen")).unwrap();
    let place = Place::new(Store::Missing("no tmpfs".to_owned()));
    assert_eq!(lab.process_at(&envelope, place).await, Ok(true));
    let seen = format!("first 1 {message} 600\n");
    assert_eq!(std::fs::read_to_string(lab.path("keylime/seen")).unwrap(), seen);
    let left = std::fs::read_dir(lab.path("keylime")).unwrap().count();
    assert_eq!(left, 2, "secure and seen");
}

#[test]
fn a_message_names_its_host() {
    let long = format!(r#"{{"agent_id": "{}", "event_id": 1}}"#, "x".repeat(1000));
    let cut = format!("Revocation of {} (no event_id, no ip)", "x".repeat(128));
    for (message, text) in [
        (
            r#"{"agent_id": "d432", "event_id": "pcr_validation.invalid_pcr_23", "ip": "::1", "x": 0}"#,
            "Revocation of d432 (pcr_validation.invalid_pcr_23, ::1)",
        ),
        ("{}", "Revocation of no agent_id (no event_id, no ip)"),
        (&long, &cut),
    ] {
        assert_eq!(inbox::summary(&serde_json::from_str(message).unwrap()), text);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn messages_that_do_not_count() {
    let mut lab = Lab::new();
    lab.options.actions = vec!["action".to_owned()];
    lab.program("actions/action", 0o755, "#!/bin/sh\ntouch acted\n");
    let good = lab.signed("{}");
    let changed = Envelope { msg: "{ }".to_owned(), signature: good.signature.clone() };
    assert_eq!(lab.fails(&changed).await, "the signature is not by the key of the certificate");
    for signature in [None, Some(""), Some("none"), Some("*")] {
        let envelope = Envelope { msg: "{}".to_owned(), signature: signature.map(str::to_owned) };
        let text = match signature {
            // Which happens to be base64.
            Some("none") => "the signature is not by the key of the certificate",
            _ => {
                "the message is not signed: the verifier has no revocation key, or it is no message of a verifier, or the \
                 failed host was enrolled without --cert"
            }
        };
        assert_eq!(lab.fails(&envelope).await, text);
    }
    for text in ["[]", "no json", ""] {
        assert_eq!(lab.fails(&lab.signed(text)).await, "the message is not a JSON object");
    }
    // Before a payload has brought the certificate, and with something else in its place.
    lab.options.certificate = lab.path("keylime/secure/unzipped/RevocationNotifier-cert.crt");
    assert_eq!(lab.process(&good).await, Ok(false));
    std::fs::write(&lab.options.certificate, "no certificate").unwrap();
    let error = lab.fails(&good).await;
    assert!(error.starts_with("revocation certificate: the certificate file "), "{error}");
    assert!(!lab.path("keylime/acted").exists());
    std::fs::copy(lab.signer.certificate(), &lab.options.certificate).unwrap();
    assert_eq!(lab.process(&good).await, Ok(true));
    assert!(lab.path("keylime/acted").exists());
}

#[tokio::test(flavor = "current_thread")]
async fn the_first_failure_is_the_last_action() {
    let mut lab = Lab::new();
    lab.program("actions/good", 0o755, "#!/bin/sh\necho ran >> ran\n");
    lab.program("actions/bad", 0o755, "#!/bin/sh\nexit 3\n");
    lab.program("actions/slow", 0o755, "#!/bin/sh\nexec sleep 1000\n");
    lab.program("actions/plain", 0o644, "#!/bin/sh\n");
    lab.program("actions/local_action_python.py", 0o644, "def execute(event): pass\n");
    lab.program("keylime/secure/unzipped/payload", 0o600, "#!/bin/sh\n");
    lab.options.action_timeout = Duration::from_secs(1);
    lab.options.allow_payload_actions = false;
    let actions = lab.path("actions");
    let actions = actions.display();
    for (list, text) in [
        (
            "good bad good slow",
            "revocation action bad ended with exit status: 3; not run after it: good, slow".to_owned(),
        ),
        ("nowhere good", format!("revocation action 'nowhere' is not in {actions}; not run after it: good")),
        (
            "slow",
            "revocation action slow did not end within 1 s and was killed with all that it had started (option \
             'revocation_action_timeout')"
                .to_owned(),
        ),
        ("plain", "revocation action plain cannot be started: Permission denied (os error 13)".to_owned()),
        ("../bad", "revocation action \"../bad\" is not the name of a file".to_owned()),
        ("/bin/true", "revocation action \"/bin/true\" is not the name of a file".to_owned()),
        ("payload", format!("revocation action 'payload' is not in {actions}")),
        (
            "local_action_python",
            format!(
                "revocation action 'local_action_python' is the Python module {actions}/local_action_python.py, which \
                 this agent does not load: install a program named 'local_action_python' that takes the message's file \
                 as its argument, such as a Python script with a #! line"
            ),
        ),
    ] {
        lab.list(list);
        assert_eq!(lab.fails(&lab.signed("{}")).await, text);
    }
    assert_eq!(std::fs::read_to_string(lab.path("keylime/ran")).unwrap(), "ran\n");
    lab.options.allow_payload_actions = true;
    lab.list("payload");
    assert_eq!(lab.process(&lab.signed("{}")).await, Ok(true));
    lab.list("nothing");
    assert_eq!(
        lab.fails(&lab.signed("{}")).await,
        format!("revocation action 'nothing' is not in {actions} and not in the payload")
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_list_that_cannot_be_read_keeps_none_of_the_hosts_own_actions_from_running() {
    let mut lab = Lab::new();
    lab.options.actions = vec!["own".to_owned()];
    lab.program("actions/own", 0o755, "#!/bin/sh\necho ran >> ran\n");
    lab.list(&"a ".repeat(40 << 10));
    let text = "cannot read the action_list of the payload: it is longer than 64 KiB";
    assert_eq!(lab.fails(&lab.signed("{}")).await, text);
    assert_eq!(std::fs::read_to_string(lab.path("keylime/ran")).unwrap(), "ran\n");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn only_good_messages_take_room_and_what_comes_then_waits() {
    let lab = Lab::new();
    let place = || Place::new(Store::Ready(lab.path("keylime/secure")));
    let (inbox, mut messages) = Inbox::new(lab.options.certificate.clone(), place());
    let forged = || Envelope { msg: "{}".repeat(1 << 19), signature: Some("none".to_owned()) };
    for _ in 0..300 {
        assert_eq!(inbox.put(forged(), None).await, Ok(()));
    }
    let small = lab.signed("{}");
    let small = || Envelope { msg: small.msg.clone(), signature: small.signature.clone() };
    for _ in 0..256 {
        assert_eq!(inbox.put(small(), None).await, Ok(()));
    }
    let full = inbox.put(small(), Some(Duration::from_secs(50))).await.unwrap_err();
    assert_eq!(full.to_string(), "Too many revocation messages wait for the one that is being processed");
    // One that waits for room gets it.
    let (kept, message) = tokio::join!(inbox.put(small(), Some(Duration::from_secs(50))), messages.recv());
    assert_eq!((kept, message.unwrap().text.as_str()), (Ok(()), "{}"));

    // Bytes count as well, until the actions of the message have been run.
    let (inbox, mut messages) = Inbox::new(lab.options.certificate.clone(), place());
    let large = lab.signed(&format!("{{\"x\":\"{}\"}}", "x".repeat((2 << 20) - 8)));
    let large = || Envelope { msg: large.msg.clone(), signature: large.signature.clone() };
    for _ in 0..2 {
        assert_eq!(inbox.put(large(), None).await, Ok(()));
    }
    assert_eq!(inbox.put(small(), None).await, Err(full));
    let first = messages.recv().await.unwrap();
    assert_eq!(inbox.put(small(), None).await, Err(full));
    drop(first);
    assert_eq!(inbox.put(small(), None).await, Ok(()));

    // Those that wait for room when the agent ends are refused, as those that come then.
    let ending = async { drop(messages) };
    let (waiting, ()) = tokio::join!(inbox.put(large(), Some(Duration::from_secs(50))), ending);
    let refused = "The agent is ending and takes no more revocation messages";
    assert_eq!(waiting.unwrap_err().to_string(), refused);
    for patience in [None, Some(Duration::from_secs(50))] {
        assert_eq!(inbox.put(small(), patience).await.unwrap_err().to_string(), refused);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_given_up_at_the_end_is_told() {
    let lab = Lab::new();
    lab.program("actions/slow", 0o755, "#!/bin/sh\ntouch running\nexec sleep 1000\n");
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = std::sync::Mutex::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).without_time().finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let warnings = || {
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once("WARN keylime_agent::revocation: "));
        lines.map(|(_, text)| text.to_owned()).collect::<Vec<_>>()
    };
    let revoker = || Revoker::new(lab.options.clone(), lab.path("keylime"), Place::new(Store::Missing(String::new())));
    let message = lab.signed("{}");
    let put = async |inbox: &Inbox| {
        let envelope = Envelope { msg: message.msg.clone(), signature: message.signature.clone() };
        assert_eq!(inbox.put(envelope, None).await, Ok(()));
    };
    drop(revoker());
    assert_eq!(warnings(), [""; 0]);

    let (inbox, waiting) = revoker();
    put(&inbox).await;
    put(&inbox).await;
    drop(waiting);
    assert_eq!(warnings(), ["Revocation messages given up, as the agent ends: 2"]);

    let mut options = lab.options.clone();
    options.actions = vec!["slow".to_owned()];
    let (inbox, acting) = Revoker::new(options, lab.path("keylime"), Place::new(Store::Missing(String::new())));
    for _ in 0..3 {
        put(&inbox).await;
    }
    let is_running = async {
        while !lab.path("keylime/running").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = acting.run() => unreachable!("it has no end"),
        () = is_running => {}
    }
    assert_eq!(
        warnings()[1..],
        ["Revocation messages given up, as the agent ends: 3, revocation action slow is killed"]
    );
}

#[test]
fn a_full_tmpfs_keeps_no_message_from_its_actions() {
    crate::payload::store::tests::with_own_mounts(|dir| {
        let mut lab = Lab::new();
        lab.options.actions = vec!["first".to_owned()];
        lab.program("actions/first", 0o755, &format!("{ACTION}echo \"$1\" >> seen\n"));
        let store = crate::payload::store::prepare(dir, "64k", false, None).unwrap();
        let secure = dir.join("secure");
        let full = std::fs::write(secure.join("big"), vec![0; 65 << 10]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let envelope = lab.signed("{}");
        assert_eq!(runtime.block_on(lab.process_at(&envelope, Place::new(store))), Ok(true));
        let seen = format!("first 1 {{}} 600\n{}\n", lab.path("keylime/.revocation.json").display());
        assert_eq!(std::fs::read_to_string(lab.path("keylime/seen")).unwrap(), seen);
        for folder in [secure, lab.path("keylime")] {
            assert!(!folder.join(".revocation.json").exists());
        }
    });
}
