// SPDX-License-Identifier: Apache-2.0
//! `keylime_agent --check-config`, and that a start says the same of what is wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use test_support::ca::{LeafSpec, TestCa};

const BINARY: &str = env!("CARGO_BIN_EXE_keylime_agent");

struct Lab(tempfile::TempDir);

impl Lab {
    /// An agent whose folder has a CA, and these lines in its configuration file.
    fn new(lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keylime");
        std::fs::create_dir_all(folder.join("cv_ca")).unwrap();
        std::fs::write(folder.join("cv_ca/cacert.crt"), TestCa::root("CA").unwrap().pem()).unwrap();
        std::fs::write(dir.path().join("agent.conf"), format!("[agent]\nrun_as = \"\"\n{lines}")).unwrap();
        Self(dir)
    }

    fn folder(&self) -> std::path::PathBuf {
        self.0.path().join("keylime")
    }

    fn write(&self, name: &str, content: &str) -> &Self {
        std::fs::write(self.folder().join(name), content).unwrap();
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // What a start mounts goes away with it.
        let mut command = Command::new(if is_root() { "unshare" } else { BINARY });
        if is_root() {
            command.args(["--mount", BINARY]);
        }
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KEYLIME_AGENT_CONFIG", self.0.path().join("agent.conf"))
            .env("KEYLIME_AGENT_KEYLIME_DIR", self.folder())
            // There is none; what is wrong is found before it is asked for.
            .env("TCTI", "swtpm:path=nowhere")
            .env("KEYLIME_AGENT_SERVER_KEY_PASSWORD", "hunter2");
        command
    }

    /// Exit status, standard output, and the messages at error level.
    fn check(&self) -> (Option<i32>, String, Vec<String>) {
        let output = self.run(&["--check-config"]);
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        (output.status.code(), stdout, errors_in(&output))
    }
}

fn errors_in(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("ERROR ")?.split_once("> "));
    lines.map(|(_, message)| message.to_owned()).collect()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn every_option_with_its_source() {
    let lab = Lab::new("port = \"9102\"\nunix_socket_mode = \"600\"\nverifier_url = \"https://v\"\nquote_interval = 2");
    let (code, stdout, errors) = lab.check();
    assert_eq!((code, errors), (Some(0), vec![]));
    let file = shown(&lab.0.path().join("agent.conf"));
    let folder = shown(&lab.folder());
    let lines: Vec<_> = stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[0], "[agent]");
    for line in [
        format!("port = 9102 # {file}"),
        "contact_port = 9002 # built-in default".to_owned(),
        "uuid = \"hash_ek\" # built-in default".to_owned(),
        format!("unix_socket_mode = \"0600\" # {file}"),
        format!("keylime_dir = \"{folder}\" # environment variable KEYLIME_AGENT_KEYLIME_DIR"),
        format!("trusted_client_ca = \"{folder}/cv_ca/cacert.crt\" # built-in default"),
        format!("server_cert = \"{folder}/server-cert.crt\" # built-in default"),
        "# server_key_password = (hidden) # environment variable KEYLIME_AGENT_SERVER_KEY_PASSWORD".to_owned(),
        "payload_key_password = \"\" # built-in default".to_owned(),
        "# exponential_backoff_max_retries = (no end) # built-in default".to_owned(),
        format!("# verifier_url = \"https://v\" # {file}"),
        "enable_iak_idevid = false # built-in default".to_owned(),
        "iak_handle = \"\" # built-in default".to_owned(),
        format!("iak_cert = \"{folder}/iak-cert.crt\" # built-in default"),
    ] {
        assert_eq!(lines.iter().filter(|found| **found == line).count(), 1, "{line}\n{stdout}");
    }
    assert!(!stdout.contains("hunter2"));
    // Nothing was made, and what is shown is a configuration that leads to the same.
    assert_eq!(std::fs::read_dir(lab.folder()).unwrap().count(), 1);
    std::fs::write(lab.0.path().join("agent.conf"), &stdout).unwrap();
    let (code, again, _) = lab.check();
    assert_eq!(code, Some(0));
    let values = |text: &str| text.lines().map(|l| l.split("  # ").next().unwrap().to_owned()).collect::<Vec<_>>();
    let effective = |text: &str| values(text.split("\n\n").next().unwrap());
    assert_eq!(effective(&again), effective(&stdout));

    let said = String::from_utf8(lab.run(&["--check-config"]).stderr).unwrap();
    assert!(said.contains(&format!("option 'registrar_tls_enabled' ({file}) is false")), "{said}");
    let warnings = said.matches(" WARN ").count();
    assert_eq!(said.lines().last().unwrap(), format!("the agent would start, with {warnings} warnings"));
}

#[test]
fn all_problems_at_once() {
    let lab = Lab::new(
        "registrar_tls_enabled = true\nregistrar_tls_ca_cert = \"nowhere.crt\"\nunix_socket_path = \"/agent.sock\"\n\
         unix_socket_allowed_users = \"no-such-user\"",
    );
    lab.write("server-cert.crt", "no certificate").write("server-private.pem", "no key");
    lab.write("payload-private.pem", "no key either").write("agent_data.json", "{}");
    let (folder, file) = (shown(&lab.folder()), shown(&lab.0.path().join("agent.conf")));
    let (code, _, errors) = lab.check();
    let expected = [
        format!("option 'server_cert': the certificate file {folder}/server-cert.crt holds no certificate: "),
        format!("option 'server_key': the private key file {folder}/server-private.pem holds no private key: "),
        format!("Failed to load or generate payload key from {folder}/payload-private.pem: the private key file "),
        format!("the AK in {folder}/agent_data.json cannot be used: it is not an agent data file ("),
        format!(
            "option 'registrar_tls_ca_cert' ({file}): cannot read the CA file {folder}/nowhere.crt: No such file or "
        ),
        format!("option 'unix_socket_allowed_users' ({file}): there is no user 'no-such-user'"),
    ];
    let compare = |found: &[String]| {
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, begin) in found.iter().zip(&expected) {
            assert!(found.starts_with(begin), "{found}");
        }
    };
    compare(&errors);
    assert_eq!(code, Some(1));
    let said = String::from_utf8(lab.run(&["--check-config"]).stderr).unwrap();
    assert!(said.ends_with("\n6 problems: the agent would not start\n"), "{said}");
    let copies = || {
        let names = std::fs::read_dir(lab.folder()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("agent_data.json.damaged-")).count()
    };
    assert_eq!(copies(), 0);
    // A start says the same, before it touches anything but for the copy of the damaged file.
    let start = lab.run(&[]);
    compare(&errors_in(&start));
    assert_eq!((start.status.code(), copies()), (Some(2), 1));
}

#[test]
fn problems_of_options_and_files_together() {
    let lab = Lab::new("port = 0\ncontact_port = 0");
    lab.write("agent_data.json", "{}");
    let (code, stdout, errors) = lab.check();
    assert_eq!(code, Some(1));
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].starts_with("option 'port' (") && errors[1].starts_with("option 'contact_port' ("));
    assert!(stdout.contains("# port = (wrong) "), "{stdout}");
    let start = lab.run(&[]);
    assert_eq!((start.status.code(), errors_in(&start)), (Some(2), errors));

    // The files are not judged with the rights of another user than the one that is meant.
    let lab = Lab::new("");
    std::fs::write(lab.0.path().join("agent.conf"), "[agent]\nrun_as = \":tss\"\n").unwrap();
    let output = lab.run(&["--check-config"]);
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(stdout.contains("# run_as = (wrong) "), "{stdout}");
    assert_eq!(errors_in(&output).len(), 1);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!log.contains("'run_as' is empty"), "{log}");

    // Where the folder is missing, nothing is said of the files in it.
    let lab = Lab::new("");
    std::fs::remove_dir_all(lab.folder()).unwrap();
    let (code, _, errors) = lab.check();
    assert_eq!((code, errors.len()), (Some(1), 1), "{errors:?}");
    // Nor of any option where a source cannot be read.
    let lab = Lab::new("port = 0");
    std::fs::write(lab.0.path().join("agent.conf"), "[agent").unwrap();
    let (code, stdout, errors) = lab.check();
    assert_eq!((code, stdout.as_str(), errors.len()), (Some(1), "", 1), "{errors:?}");
}

#[test]
fn each_file_problem_has_its_text() {
    let folder_of = |lab: &Lab| shown(&lab.folder());
    // A certificate without its key.
    let ca = TestCa::root("CA").unwrap();
    let leaf = ca.issue(&LeafSpec::new("agent")).unwrap();
    let lab = Lab::new("");
    lab.write("server-cert.crt", &leaf.cert_pem);
    let folder = folder_of(&lab);
    assert_eq!(
        lab.check().2,
        [format!(
            "option 'server_key': there is no {folder}/server-private.pem, but there is the certificate in \
             {folder}/server-cert.crt: restore its key, or move the certificate away to have both made anew"
        )]
    );
    // Links that lead nowhere stand for files that are somewhere.
    let linked = Lab::new("");
    let names = ["server-private.pem", "server-cert.crt", "payload-private.pem", "agent_data.json"];
    let text = |(number, name): (usize, &&str)| {
        let path = linked.folder().join(name);
        std::os::unix::fs::symlink("/nonexistent/x", &path).unwrap();
        let begin = match number {
            0 | 1 => format!("cannot look for {}", shown(&path)),
            2 => format!("Failed to load or generate payload key from {}: cannot look for the file", shown(&path)),
            _ => format!("cannot read the AK from {}", shown(&path)),
        };
        let end = if number == 3 {
            ". A new AK would be a new identity, so none is made: let the user that the agent runs as read the file, or \
             restore it from a backup"
        } else {
            ""
        };
        format!(
            "{begin}: it is a link to /nonexistent/x, and nothing is there: see to what should be there, or remove the \
             link{end}"
        )
    };
    let texts: Vec<_> = names.iter().enumerate().map(text).collect();
    assert_eq!(linked.check().2, texts);
    // Another key, and a CA that is none.
    let other = ca.issue(&LeafSpec::new("other")).unwrap();
    lab.write("server-private.pem", &other.key_pem).write("cv_ca/cacert.crt", &leaf.cert_pem);
    let errors = lab.check().2;
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("option 'trusted_client_ca': there is no CA certificate in the CA file "));
    assert!(errors[1].starts_with("option 'server_key': the private key in "), "{}", errors[1]);
    // No CA at all.
    let lab = Lab::new("trusted_client_ca = \"a.crt, b.crt\"");
    let output = lab.run(&["--check-config"]);
    assert_eq!(
        errors_in(&output),
        [format!(
            "Trusted client CA certificate list is empty: could not load any certificate (option 'trusted_client_ca' ({}))",
            shown(&lab.0.path().join("agent.conf"))
        )]
    );
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(log.matches("> Could not load certs from ").count(), 2, "{log}");
    // A file with one that cannot be parsed is skipped, too.
    let lab = Lab::new("trusted_client_ca = \"cv_ca/cacert.crt, odd.crt\"");
    let odd = format!("{}-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", ca.pem());
    lab.write("odd.crt", &odd);
    let output = lab.run(&["--check-config"]);
    let log = String::from_utf8(output.stderr.clone()).unwrap();
    let warning = format!(
        "> Could not load certs from {0}: certificate 2 in the CA file {0} ",
        shown(&lab.folder().join("odd.crt"))
    );
    assert!(log.contains(&warning) && output.status.success(), "{log}");
    // Users.
    let lab = Lab::new("");
    std::fs::write(lab.0.path().join("agent.conf"), "[agent]\nrun_as = \"no-such-user\"\n").unwrap();
    let (code, _, errors) = lab.check();
    if is_root() {
        let file = shown(&lab.0.path().join("agent.conf"));
        assert_eq!(
            (code, errors),
            (Some(1), vec![format!("option 'run_as' ({file}): there is no user 'no-such-user'")])
        );
        assert_eq!(lab.run(&[]).status.code(), Some(2));
    } else {
        assert_eq!((code, errors), (Some(0), vec![]));
    }
}

#[test]
fn authorities_that_end_are_warned_of() {
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let lab = Lab::new("trusted_client_ca = \"cv_ca/cacert.crt, ended.crt, ending.crt, later.crt\"");
    let authorities = [
        ("ended", now - 2 * day..now - day),
        ("ending", now - day..now + 29 * day),
        ("later", now + day..now + 2 * day),
    ];
    for (name, time) in authorities {
        lab.write(&format!("{name}.crt"), TestCa::root_within(name, time).unwrap().pem());
    }
    // Ends the start before it opens the TPM.
    for (content, arguments) in [(None, &["--check-config"][..]), (Some("{}"), &[])] {
        if let Some(content) = content {
            lab.write("agent_data.json", content);
        }
        let output = lab.run(arguments);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), content.is_none(), "{log}");
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("> option 'trusted_client_ca' (")).collect();
        assert_eq!(warnings.len(), 3, "{log}");
        for ((name, is), line) in [("ended", "was"), ("ending", "is"), ("later", "is")].into_iter().zip(warnings) {
            let file = shown(&lab.folder().join(format!("{name}.crt")));
            let text = format!("the certificate \"CN={name}\" in the CA file {file} {is} valid from 2");
            assert!(line.starts_with(" WARN ") && line.contains(&text), "{line}");
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What a check says at a level, with FILE and DIR for the configuration file and the agent's folder.
fn said(lab: &Lab, level: &str) -> Vec<String> {
    let text = String::from_utf8(lab.run(&["--check-config"]).stderr).unwrap();
    let (file, folder) = (shown(&lab.0.path().join("agent.conf")), shown(&lab.folder()));
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(level)?.split_once("> "));
    lines.map(|(_, message)| message.replace(&file, "FILE").replace(&folder, "DIR")).collect()
}

#[test]
fn what_would_fail_later_has_its_text() {
    let (missing, dead) = ("No such file or directory (os error 2)", "device:/nonexistent/tpm9");
    let key = TestCa::root("CA").unwrap().issue(&LeafSpec::new("agent")).unwrap().key_pem;
    let set = |lab: &Lab| {
        lab.write("key.pem", &key).write("actions.py", "");
        set_mode(&lab.folder().join("key.pem"), 0o600);
    };
    for (lines, level, text) in [
        (
            format!("tcti = \"{dead}\""),
            "ERROR",
            format!(
                "cannot open the TPM through TCTI `{dead}`: {missing}; is there a TPM 2.0, enabled in the firmware settings? \
                 Else set the TCTI option or the environment variable TCTI"
            ),
        ),
        (
            "agent_data_path = \"no/x.json\"".to_owned(),
            "ERROR",
            "the folder DIR/no (option 'agent_data_path' (FILE)) does not exist: create it, owned by the user of run_as"
                .to_owned(),
        ),
        (
            "unix_socket_path = \"DIR/key.pem\"".to_owned(),
            "ERROR",
            "cannot make the Unix socket DIR/key.pem: there is another kind of file (option 'unix_socket_path')".to_owned(),
        ),
        (
            "payload_key = \"locked.pem\"\npayload_key_password = \"x\"".to_owned(),
            "ERROR",
            "Failed to load or generate payload key from DIR/locked.pem: the private key in DIR/locked.pem cannot be \
             decrypted with the configured password: configure the one that it was encrypted with (option \
             'payload_key_password' (FILE))"
                .to_owned(),
        ),
        (
            "revocation_actions_dir = \"DIR\"\nrevocation_actions = \"key.pem, nosuch, actions\"".to_owned(),
            "WARN",
            "option 'revocation_actions' (FILE): there is no program nosuch in DIR, so each payload must bring it".to_owned(),
        ),
        (
            "revocation_actions_dir = \"DIR\"\nrevocation_actions = \"actions\"\nallow_payload_revocation_actions = false"
                .to_owned(),
            "WARN",
            "option 'revocation_actions' (FILE): there is no program actions in DIR: actions.py is there, and has to be a \
             program with the name actions"
                .to_owned(),
        ),
        (
            "unix_socket_path = \"DIR/s\"\nunix_socket_allowed_users = \"root, 4000000\"".to_owned(),
            "WARN",
            format!(
                "option 'unix_socket_allowed_users' (FILE): user 4000000 is allowed, but mode 0660 of the socket does not \
                 let it connect: set 'unix_socket_mode' to 0666, or make it a member of group {}",
                name_of("-gn")
            ),
        ),
        (
            "server_key = \"open.pem\"".to_owned(),
            "WARN",
            "the private key file DIR/open.pem is open to every user of this host (mode 0644): set its mode to 0600".to_owned(),
        ),
        (
            "trusted_client_ca = \"cv_ca/cacert.crt, loose.crt\"".to_owned(),
            "WARN",
            format!(
                "option 'trusted_client_ca' (FILE): others than root and {user} can write to DIR/loose.crt: it belongs to \
                 {user}:{group} and has mode 0646: chmod go-w",
                user = name_of("-un"),
                group = name_of("-gn")
            ),
        ),
    ] {
        let lab = Lab::new("");
        set(&lab);
        lab.write("open.pem", &key).write("loose.crt", TestCa::root("CA").unwrap().pem());
        lab.write("locked.pem", include_str!("../../crates/tls/testdata/encrypted-aes.pem"));
        set_mode(&lab.folder().join("loose.crt"), 0o646);
        let lines = lines.replace("DIR", &shown(&lab.folder()));
        let file = lab.0.path().join("agent.conf");
        std::fs::write(&file, format!("[agent]\nrun_as = \"\"\n{lines}\n")).unwrap();
        let mut command = lab.command(&["--check-config"]);
        if lines.starts_with("tcti") {
            command.env_remove("TCTI");
        }
        let log = String::from_utf8(command.output().unwrap().stderr).unwrap();
        let log = log.replace(&shown(&file), "FILE").replace(&shown(&lab.folder()), "DIR");
        let found = log.lines().any(|line| line.trim_start().starts_with(level) && line.ends_with(&format!("> {text}")));
        assert!(found, "{text}\n{log}");
    }
}

fn name_of(option: &str) -> String {
    let output = Command::new("id").arg(option).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_folder_out_of_reach_is_one_problem_beside_those_elsewhere() {
    let elsewhere = "trusted_client_ca = \"/nope/ca.crt\"\nregistrar_tls_enabled = true\n\
                     registrar_tls_ca_cert = \"/nope/r.crt\"";
    let missing = "No such file or directory (os error 2): check the path, and that this user may read it";
    let others = [
        "Trusted client CA certificate list is empty: could not load any certificate (option 'trusted_client_ca' (FILE))"
            .to_owned(),
        format!("option 'registrar_tls_ca_cert' (FILE): cannot read the CA file /nope/r.crt: {missing}"),
    ];
    let lab = Lab::new(elsewhere);
    std::fs::remove_dir_all(lab.folder()).unwrap();
    let errors = said(&lab, "ERROR");
    assert!(
        errors[0].ends_with("): the folder DIR does not exist: create it, owned by the user of run_as"),
        "{errors:?}"
    );
    assert_eq!(errors[1..], others);

    if !is_root() {
        return;
    }
    let lab = Lab::new("");
    set_mode(lab.0.path(), 0o755);
    let lines = format!("[agent]\nrun_as = \"4000000:4000001\"\n{elsewhere}\n");
    std::fs::write(lab.0.path().join("agent.conf"), lines).unwrap();
    for (mode, verb) in [(0o700, "enter"), (0o755, "write to")] {
        set_mode(&lab.folder(), mode);
        let folder = format!(
            "the user 4000000 cannot {verb} the folder DIR (option 'keylime_dir' (environment variable \
             KEYLIME_AGENT_KEYLIME_DIR)): it belongs to root:root and has mode {mode:04o}: chown 4000000:4000001 DIR"
        );
        let mut errors = said(&lab, "ERROR");
        errors.sort();
        let mut expected = [&[folder], &others[..]].concat();
        expected.sort();
        assert_eq!(errors, expected);
    }
}

#[test]
fn a_slip_in_the_log_filter_is_a_warning() {
    let lab = Lab::new("port = 0");
    let output = lab.command(&[]).env("RUST_LOG", "keylime=loud").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let warning = " WARN  keylime_agent > environment variable RUST_LOG: log filter 'keylime=loud': ";
    assert!(log.starts_with(warning) && log.lines().next().unwrap().ends_with(": using 'info'"), "{log}");
    assert!(log.contains(" ERROR keylime_agent > option 'port' ("), "{log}");
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
