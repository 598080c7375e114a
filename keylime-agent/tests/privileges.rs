// SPDX-License-Identifier: Apache-2.0
//! What is left of root's rights after the change to the user of `run_as`, and to whom the files belong that are made.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::{BINARY, LIMIT, Lab, options, text};
use test_support::payload::zip;
use test_support::{KeylimeAgent, KeylimeAgentOptions, KeylimeOptions, require};

/// A host with the user keylime (4321), whose group is keylime (4322) and who is a member of tss (4323) and more (4324);
/// of others (4325) it is not.
const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nkeylime:x:4321:4322::/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nkeylime:x:4322:\ntss:x:4323:keylime\nmore:x:4324:keylime\nothers:x:4325:root\n";
const USER: u32 = 4321;
const TSS: u32 = 4323;

struct Host {
    lab: Lab,
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Option<Self> {
        let (Some(()), Some(lab)) = (require::root(), Lab::start(KeylimeOptions::default())) else { return None };
        let host = Self { lab, dir: tempfile::tempdir().unwrap() };
        set_mode(host.dir.path(), 0o755);
        std::fs::write(host.path("passwd"), PASSWD).unwrap();
        std::fs::write(host.path("group"), GROUP).unwrap();
        std::fs::copy(host.lab.servers.ca_cert(), host.path("cacert.crt")).unwrap();
        for name in ["passwd", "group", "cacert.crt"] {
            set_mode(&host.path(name), 0o644);
        }
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Options for an agent that is started by `prefix` (a shell command that ends with what execs another) and works in a
    /// new folder of this owner and mode.
    fn options(&self, name: &str, prefix: &str, run_as: &str, owner: (u32, u32), mode: u32) -> KeylimeAgentOptions {
        let binary = self.path(&format!("start-{name}"));
        let dir = self.dir.path().display();
        let mounts = format!("mount --bind {dir}/passwd /etc/passwd && mount --bind {dir}/group /etc/group");
        std::fs::write(&binary, format!("#!/bin/sh\n{mounts} && {prefix} {BINARY}\n")).unwrap();
        set_mode(&binary, 0o755);
        let folder = self.path(name);
        std::fs::create_dir(&folder).unwrap();
        chown(&folder, Some(owner.0), Some(owner.1)).unwrap();
        set_mode(&folder, mode);
        let ca = self.path("cacert.crt");
        KeylimeAgentOptions { uuid: "generate".to_owned(), folder: Some(folder), binary, ..options() }
            .env("KEYLIME_AGENT_RUN_AS", run_as)
            .env("KEYLIME_AGENT_TRUSTED_CLIENT_CA", ca.to_str().unwrap())
            .env("KEYLIME_AGENT_REGISTRAR_TLS_CA_CERT", ca.to_str().unwrap())
    }

    fn start(&self, options: &KeylimeAgentOptions) -> KeylimeAgent {
        self.lab.agent(options)
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The lines of a status file of the process, and of each of its threads.
fn statuses(pid: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap()).collect()
}

/// The words after a name in a status file.
fn words(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a file is like: owner, group, and permission bits.
fn found(path: &Path) -> (u32, u32, u32) {
    let found = std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid(), found.permissions().mode() & 0o7777)
}

#[test]
fn the_agent_is_the_user_and_nothing_more() {
    let Some(host) = Host::new() else { return };
    let own = statuses("self").remove(0);
    // Even where the kernel would leave the capabilities.
    let sticky = "exec setpriv --inh-caps +chown,+setuid --ambient-caps +chown,+setuid --securebits +no_setuid_fixup";
    for (name, prefix, run_as, (owner, mode), (uid, gid, groups), umask) in [
        // Only by its group may the user write to the folder.
        ("both", "exec", "keylime:tss", ((0, TSS), 0o770), (USER, TSS, "4323 4324"), "0022"),
        ("user", "umask 0; exec", "keylime", ((0, TSS), 0o770), (USER, 4322, "4322 4323 4324"), "0022"),
        ("numbers", sticky, "4321:4324", ((USER, 4324), 0o700), (USER, 4324, "4323 4324"), "0022"),
        ("strangers", "umask 0277; exec", "5000:5001", ((5000, 5001), 0o755), (5000, 5001, "5001"), "0077"),
    ] {
        let options = host.options(name, prefix, run_as, owner, mode);
        let mut agent = host.start(&options);
        for status in statuses(&agent.part().pid().to_string()) {
            let of = |name| words(&status, name);
            assert_eq!(of("Uid"), [uid; 4].map(|id| id.to_string()).join(" "), "{name}");
            assert_eq!(of("Gid"), [gid; 4].map(|id| id.to_string()).join(" "), "{name}");
            assert_eq!(of("Groups"), groups, "{name}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(of(set), "0".repeat(16), "{name} {set}");
            }
            // Programs that raise their own rights are the operator's affair, in both directions.
            for kept in ["CapBnd", "NoNewPrivs"] {
                assert_eq!(of(kept), words(&own, kept), "{name} {kept}");
            }
            assert_eq!(of("Umask"), umask, "{name}");
        }
        assert!(agent.part().log().contains(&format!("> Running the service as {run_as}...\n")));
        let certificate = if umask == "0077" { 0o600 } else { 0o644 };
        let folder = Path::new("/proc").join(agent.part().pid().to_string()).join("root");
        let folder = folder.join(agent.folder.strip_prefix("/").unwrap());
        for (file, mode) in [
            ("agent_data.json", 0o600),
            ("server-private.pem", 0o600),
            ("payload-private.pem", 0o600),
            ("server-cert.crt", certificate),
            ("keylime_agent.lock", 0o600),
            ("secure", 0o700),
        ] {
            assert_eq!(found(&folder.join(file)), (uid, gid, mode), "{name} {file}");
        }
        assert!(agent.terminate().unwrap().success());
    }
}

#[test]
fn scripts_and_later_files_are_the_users_too() {
    let Some(host) = Host::new() else { return };
    let (ima, boot) = (host.path("ima"), host.path("boot"));
    for (path, text) in [(&ima, "10 0 ima-ng sha256:0 /x\n"), (&boot, "boot log")] {
        std::fs::write(path, text).unwrap();
        set_mode(path, 0o400);
    }
    let options = host
        .options("keylime", "umask 0; exec", "keylime:tss", (USER, TSS), 0o700)
        .env("KEYLIME_AGENT_IMA_ML_PATH", ima.to_str().unwrap())
        .env("KEYLIME_AGENT_MEASUREDBOOT_ML_PATH", boot.to_str().unwrap());
    let mut agent = host.start(&options);
    let quote = host.lab.curl(&agent, "/v2.5/quotes/integrity?nonce=abc&mask=401&partial=1", &[]).body;
    assert_eq!(text(&quote["results"], "ima_measurement_list"), "10 0 ima-ng sha256:0 /x\n");
    assert_eq!(text(&quote["results"], "mb_measurement_list"), STANDARD.encode("boot log"));

    let payload = host.path("payload.zip");
    zip(&payload, &[("autorun.sh", "umask > said; id -u >> said; id -G >> said; cat /proc/self/status >> said\n")])
        .unwrap();
    host.lab.tenant(&agent, "add", &["-f", payload.to_str().unwrap()]);
    agent.part().wait_log("> Successfully executed encrypted payload", LIMIT).unwrap();
    let unzipped = format!("/proc/{}/root{}/secure/unzipped", agent.part().pid(), agent.folder.display());
    let said = Path::new(&unzipped).join("said");
    assert_eq!(found(&said), (USER, TSS, 0o644));
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.starts_with("0022\n4321\n4323 4324\n"), "{said}");
    assert_eq!(words(&said, "CapEff"), "0".repeat(16));
    assert_eq!(words(&said, "NoNewPrivs"), words(&statuses("self").remove(0), "NoNewPrivs"));
    assert!(agent.terminate().unwrap().success());

    // The copy of the AK so far.
    let other = options.env("KEYLIME_AGENT_TPM_ENCRYPTION_ALG", "ecc256").env("KEYLIME_AGENT_TPM_SIGNING_ALG", "ecdsa");
    let mut agent = host.start(&other);
    let log = agent.part().log();
    let (_, rest) = log.split_once("it is kept as ").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(found(Path::new(rest.lines().next().unwrap())), (USER, TSS, 0o600));
    assert!(agent.terminate().unwrap().success());
}

#[test]
fn who_cannot_be_changed_to_and_what_cannot_be_reached() {
    let Some(host) = Host::new() else { return };
    let device = host.path("tpm");
    std::fs::write(&device, "").unwrap();
    set_mode(&device, 0o600);
    let tcti = format!("device:{}", device.display());
    let run_as_of = "option 'run_as' (environment variable KEYLIME_AGENT_RUN_AS):";
    for (name, run_as, tcti, status, message) in [
        ("no-user", "nobody-here:tss", None, 2, format!("{run_as_of} there is no user 'nobody-here'")),
        ("no-group", "keylime:no-group", None, 2, format!("{run_as_of} there is no group 'no-group'")),
        (
            "no-entry",
            "5000",
            None,
            2,
            format!(
                "{run_as_of} the user 5000 has no entry in the user database, so its group must be given, too: write \
                 '5000:group'"
            ),
        ),
        (
            "no-tpm",
            "keylime:tss",
            Some(&tcti),
            1,
            format!(
                "cannot open the TPM through TCTI `{tcti}`: Permission denied (os error 13); let the service's user be a \
                 member of group tss, which owns the device"
            ),
        ),
    ] {
        let mut options = host.options(name, "exec", run_as, (USER, TSS), 0o700);
        if let Some(tcti) = tcti {
            options = options.env("TCTI", tcti);
        }
        let (code, log) = host.lab.failing_agent(&options);
        assert_eq!(code, Some(status), "{log}");
        assert!(log.ends_with(&format!("> {message}\n")), "{log}");
    }
}

#[test]
fn started_by_somebody_else_or_to_stay_root() {
    let Some(host) = Host::new() else { return };
    let ignoring =
        "> Ignoring 'run_as' option because Keylime agent has not been started as root. It runs as keylime\n";
    let as_user = "exec setpriv --reuid 4321 --regid 4323 --clear-groups";
    for (name, prefix, run_as, owner, uid, warning) in [
        ("already", as_user, "keylime:tss", USER, USER, None),
        ("another", as_user, "5000:5001", USER, USER, Some(ignoring)),
        (
            "root",
            "exec",
            "root:tss",
            0,
            0,
            Some(
                "> option 'run_as' (environment variable KEYLIME_AGENT_RUN_AS) names root: everything here runs as root\n",
            ),
        ),
        (
            "empty",
            "exec",
            "",
            0,
            0,
            Some("> Cannot drop privileges since 'run_as' is empty: everything here runs as root\n"),
        ),
    ] {
        let options = host.options(name, prefix, run_as, (owner, TSS), 0o700);
        let mut agent = host.start(&options);
        let log = agent.part().log();
        assert_eq!(log.contains("run_as' option") || log.contains("runs as root"), warning.is_some(), "{log}");
        assert!(warning.is_none_or(|warning| log.contains(warning)), "{log}");
        let status = statuses(&agent.part().pid().to_string()).remove(0);
        assert_eq!(words(&status, "Uid"), [uid; 4].map(|id: u32| id.to_string()).join(" "), "{name}");
        assert_eq!(words(&status, "CapEff") == "0".repeat(16), uid != 0, "{name}");
        assert!(agent.terminate().unwrap().success());
    }
}
