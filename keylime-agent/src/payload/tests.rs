// SPDX-License-Identifier: Apache-2.0
//! Payloads from their arrival to the end of their script.

use std::time::Duration;

use super::cipher::tests::{encrypt, key};
use super::*;

struct Lab {
    dir: tempfile::TempDir,
    options: Payload,
}

impl Lab {
    fn new() -> Self {
        let options = Payload {
            key_name: "derived_tci_key".to_owned(),
            text_name: "decrypted_payload".to_owned(),
            secure_size: "1m".to_owned(),
            extract_zip: true,
            script: Some("autorun.sh".to_owned()),
            script_timeout: Duration::from_secs(30),
        };
        Self { dir: tempfile::tempdir().unwrap(), options }
    }

    fn unzipped(&self) -> PathBuf {
        self.dir.path().join("unzipped")
    }

    async fn deploy(&self, text: &[u8]) -> Result<(), String> {
        let key = key(&[3; 32]);
        let payload = encrypt(&key, text);
        self.deliver(Delivery { key, payload }, Store::Ready(self.dir.path().to_owned())).await
    }

    async fn deliver(&self, delivery: Delivery, store: Store) -> Result<(), String> {
        let (_, mut deployer) = self.deployer(store);
        deployer.deploy(delivery).await.map_err(|error| error.to_string())
    }

    fn deployer(&self, store: Store) -> (mpsc::Sender<Delivery>, Deployer) {
        let revocation = Revocation {
            certificate: PathBuf::new(),
            actions: vec![],
            actions_dir: self.dir.path().join("actions"),
            allow_payload_actions: true,
            action_timeout: Duration::from_secs(30),
            publisher: None,
        };
        Deployer::new(self.options.clone(), revocation, Place::new(store))
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.unzipped().join(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        std::fs::metadata(self.unzipped().join(name)).unwrap().permissions().mode() & 0o7777
    }

    /// A zip archive of these files, made by Python.
    fn zip(&self, files: &[(&str, &str)]) -> Vec<u8> {
        let path = self.dir.path().join("payload.zip");
        test_support::payload::zip(&path, files).unwrap();
        std::fs::read(&path).unwrap()
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_archive_with_a_script() {
    let lab = Lab::new();
    let script = "#!/bin/sh\npwd > where; echo \"$#\" > arguments; env > environment; cp data copied\n";
    let archive =
        lab.zip(&[("autorun.sh", script), ("data", "data"), ("action_list", "one, two\nthree ../x"), ("two", "")]);
    assert_eq!(lab.deploy(&archive).await, Ok(()));
    assert_eq!(lab.read("derived_tci_key"), [3; 32]);
    assert_eq!(lab.read("decrypted_payload"), archive);
    assert_eq!(lab.read("copied"), b"data");
    assert_eq!(lab.read("arguments"), b"0\n");
    assert_eq!(lab.read("where"), format!("{}\n", lab.unzipped().canonicalize().unwrap().display()).as_bytes());
    assert!(String::from_utf8(lab.read("environment")).unwrap().contains("PATH="));
    let modes = ["", "derived_tci_key", "decrypted_payload", "data", "autorun.sh", "two"].map(|name| lab.mode(name));
    assert_eq!(modes, [0o700, 0o600, 0o600, 0o600, 0o700, 0o700]);

    // The next one takes its place; without a script there is nothing to run.
    assert_eq!(lab.deploy(&lab.zip(&[("other", "")])).await, Ok(()));
    assert!(lab.unzipped().join("other").exists() && !lab.unzipped().join("data").exists());
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_no_archive_stays_as_it_is() {
    let mut lab = Lab::new();
    assert_eq!(lab.deploy(b"just text").await, Ok(()));
    assert_eq!(lab.read("decrypted_payload"), b"just text");
    lab.options.extract_zip = false;
    lab.options.text_name = "sub/folder/text".to_owned();
    let archive = lab.zip(&[("data", "data")]);
    assert_eq!(lab.deploy(&archive).await, Ok(()));
    assert_eq!(lab.read("sub/folder/text"), archive);
    assert!(!lab.unzipped().join("data").exists());
}

#[tokio::test(flavor = "current_thread")]
async fn each_failure_has_its_text() {
    let mut lab = Lab::new();
    let script = lab.unzipped().join("autorun.sh").display().to_string();
    let failing = lab.zip(&[("autorun.sh", "#!/bin/sh\necho why >&2\nexit 7\n")]);
    assert_eq!(lab.deploy(&failing).await.unwrap_err(), format!("the script {script} ended with exit status: 7"));
    lab.options.script_timeout = Duration::from_secs(1);
    let slow = lab.zip(&[("autorun.sh", "#!/bin/sh\nexec sleep 1000\n")]);
    assert_eq!(
        lab.deploy(&slow).await.unwrap_err(),
        format!(
            "the script {script} did not end within 1 s and was killed with all that it had started (option \
                 'payload_script_timeout')"
        )
    );
    assert_eq!(
        lab.deploy(&lab.zip(&[("derived_tci_key", "")])).await.unwrap_err(),
        "entry \"derived_tci_key\" of the zip archive comes twice, or stands in the way of another file of the payload; the \
         payload before stays"
    );
    // What was there stays until there is something to replace it.
    lab.deploy(b"good").await.unwrap();
    assert_eq!(
        lab.deploy(b"PK\x03\x04damaged").await.unwrap_err(),
        "the zip archive is damaged: it ends inside its end record; the payload before stays"
    );
    let mut changed = lab.zip(&[("first", "first"), ("last", "content of the last one")]);
    let at = changed.windows(4).position(|bytes| bytes == b"cont").unwrap();
    changed[at] ^= 1;
    assert_eq!(
        lab.deploy(&changed).await.unwrap_err(),
        "entry \"last\" of the zip archive is damaged: its checksum is wrong; the payload before stays"
    );
    assert_eq!(lab.read("decrypted_payload"), b"good");
    assert!(!lab.unzipped().with_extension("new").exists());
    let store = || Store::Ready(lab.dir.path().to_owned());
    let wrong = Delivery { key: key(&[4; 32]), payload: encrypt(&key(&[3; 32]), b"text") };
    assert_eq!(
        lab.deliver(wrong, store()).await.unwrap_err(),
        "the payload cannot be decrypted: it was encrypted under another key, or changed on the way; the payload \
         before stays"
    );
    assert_eq!(lab.read("decrypted_payload"), b"good");
    let missing = Store::Missing("no place".to_owned());
    let delivery = Delivery { key: key(&[3; 32]), payload: vec![] };
    assert_eq!(lab.deliver(delivery, missing).await.unwrap_err(), "no place");
    let nowhere = lab.dir.path().join("nowhere");
    let delivery = Delivery { key: key(&[3; 32]), payload: encrypt(&key(&[3; 32]), b"text") };
    assert_eq!(
        lab.deliver(delivery, Store::Ready(nowhere.clone())).await.unwrap_err(),
        format!("cannot write {}: No such file or directory (os error 2)", nowhere.join("unzipped.new").display())
    );
}

#[test]
fn the_one_before_gives_way_only_where_there_is_no_room_for_both() {
    super::store::tests::with_own_mounts(|dir| {
        let lab = Lab::new();
        let store = || super::store::prepare(dir, "256k", false, None).unwrap();
        let folder = dir.join("secure/unzipped");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deploy = |text: &[u8]| {
            let key = key(&[3; 32]);
            let payload = encrypt(&key, text);
            runtime.block_on(lab.deliver(Delivery { key, payload }, store()))
        };
        let length = || std::fs::metadata(folder.join("decrypted_payload")).map(|found| found.len()).ok();
        // What a kill in the middle of another has left.
        store();
        std::fs::create_dir(folder.with_extension("new")).unwrap();
        std::fs::write(folder.with_extension("new").join("half"), "half").unwrap();
        assert_eq!(deploy(&vec![b'x'; 150 << 10]), Ok(()));
        assert!(!folder.join("half").exists() && !folder.with_extension("new").exists());
        // Two of them are more than the tmpfs holds.
        assert_eq!(deploy(&vec![b'x'; 151 << 10]), Ok(()));
        assert_eq!(length(), Some(151 << 10));
        // These are more than the tmpfs holds by themselves; the key takes a page of 4 KiB, each file of an archive one at least.
        let files: Vec<_> = (0..70).map(|number| number.to_string()).collect();
        let files: Vec<_> =
            files.iter().map(|name| (name.as_str(), "x")).chain([("folder/", ""), ("empty", "")]).collect();
        let archive = lab.zip(&files);
        let pages = (archive.len() as u64).div_ceil(4096) + 71;
        for (text, needed) in [(vec![b'x'; 300 << 10], 304), (archive, pages * 4)] {
            let secure = dir.join("secure");
            assert_eq!(
                deploy(&text).unwrap_err(),
                format!(
                    "the payload takes {needed} KiB, and {0} has 256 KiB without the payload before: the payload needs a \
                     larger option 'secure_size', and a new mount of the folder: stop the agent, 'umount {0}', start the \
                     agent, and send the payload again; the payload before stays",
                    secure.display()
                )
            );
            assert_eq!(length(), Some(151 << 10));
        }
        // What else is there counts.
        std::fs::write(dir.join("secure/other"), vec![0; 100 << 10]).unwrap();
        assert_eq!(deploy(&vec![b'x'; 152 << 10]), Ok(()));
        assert!(deploy(&vec![b'x'; 153 << 10]).unwrap_err().contains("takes 160 KiB, and "));
        assert_eq!(length(), Some(152 << 10));
        assert!(!folder.with_extension("new").exists());
    });
    // A tmpfs of size 0 has no limit.
    super::store::tests::with_own_mounts(|dir| {
        let lab = Lab::new();
        let store = || super::store::prepare(dir, "0", false, None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for _ in 0..2 {
            let delivery = Delivery { key: key(&[3; 32]), payload: encrypt(&key(&[3; 32]), &[b'x'; 300 << 10]) };
            assert_eq!(runtime.block_on(lab.deliver(delivery, store())), Ok(()));
        }
    });
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_operator_has_to_see_to_is_told() {
    let lab = Lab::new();
    let folder = lab.dir.path().display();
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = std::sync::Mutex::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).without_time().finish();
    let subscriber = tracing::Dispatch::new(subscriber);
    let _guard = tracing::dispatcher::set_default(&subscriber);
    let warnings = || {
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once("WARN keylime_agent::payload: "));
        lines.map(|(_, text)| text.to_owned()).collect::<Vec<_>>()
    };
    let (listed, module) = ("x.py own own.py here nowhere", "def execute(event): pass\n");
    let script = "#!/bin/sh\ntouch running\nexec sleep 1000\n";
    let archive = lab.zip(&[("action_list", listed), ("own.py", module), ("here", ""), ("autorun.sh", script)]);
    // In this thread, whose log is read.
    let unzipped = lab.unzipped();
    std::fs::create_dir(&unzipped).unwrap();
    for (name, text) in [("action_list", listed), ("own.py", module), ("here", "")] {
        std::fs::write(unzipped.join(name), text).unwrap();
    }
    let (_, deployer) = lab.deployer(Store::Missing(String::new()));
    prepare_actions(&deployer.revocation, &unzipped).unwrap();
    drop(deployer);
    let missing = |name: &str| {
        format!(
            "The payload's action_list: revocation action '{name}' is not in {folder}/actions and not in the payload"
        )
    };
    let python = |name: &str| {
        format!(
            "The payload's action_list: revocation action '{name}' is the Python module {folder}/unzipped/own.py, which this agent \
         does not load: install a program named '{name}' that takes the message's file as its argument, such as a Python script \
         with a #! line"
        )
    };
    assert_eq!(warnings(), [missing("x.py"), python("own"), python("own.py"), missing("nowhere")]);

    let store = || Store::Ready(lab.dir.path().to_owned());
    let (deliveries, deployer) = lab.deployer(store());
    let delivery = Delivery { key: key(&[3; 32]), payload: encrypt(&key(&[3; 32]), &archive) };
    assert!(deliveries.send(delivery).await.is_ok());
    let is_running = async {
        while !lab.unzipped().join("running").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = deployer.run() => unreachable!("it has no end"),
        () = is_running => {}
    }
    let advice = "send the payload again, with 'keylime_tenant -c update'";
    let missing = "so a part of its work may be missing";
    let killed =
        format!("The payload script {folder}/unzipped/autorun.sh is killed, as the agent ends, {missing}: {advice}");
    assert_eq!(warnings().split_off(4), [killed]);
    // The next start says so, until another payload has come.
    let place = Place::new(store());
    place.warn_of_unfinished();
    let not_ended = "had not ended when the agent did";
    let left = format!("The script of the payload in {folder}/unzipped {not_ended}, {missing}: {advice}");
    assert_eq!(warnings().split_off(5), [left]);
    assert_eq!(lab.deploy(b"text").await, Ok(()));
    place.warn_of_unfinished();
    assert_eq!(lab.deploy(&lab.zip(&[("autorun.sh", "exit 0\n")])).await, Ok(()));
    place.warn_of_unfinished();
    assert_eq!(warnings().len(), 6);
}

#[test]
fn names_of_actions() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(listed_actions(dir.path()).unwrap(), None);
    std::fs::write(dir.path().join("action_list"), " a,b\n\nc\td,, \n").unwrap();
    assert_eq!(listed_actions(dir.path()).unwrap().unwrap(), ["a", "b", "c", "d"]);
    std::fs::write(dir.path().join("action_list"), b"a \xff b").unwrap();
    assert_eq!(listed_actions(dir.path()).unwrap().unwrap(), ["a", "\u{fffd}", "b"]);
    std::fs::write(dir.path().join("action_list"), "a ".repeat(40 << 10)).unwrap();
    assert_eq!(listed_actions(dir.path()).unwrap_err().to_string(), "it is longer than 64 KiB");
    for (name, plain) in [
        ("a", true),
        ("a.py", true),
        ("", false),
        ("a/b", false),
        ("..", false),
        (".", false),
        ("/a", false),
        ("a/", false),
    ] {
        assert_eq!(is_plain_name(name), plain, "{name}");
    }
}
