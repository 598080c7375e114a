// SPDX-License-Identifier: Apache-2.0
//! Rows of options and what comes of them.

use std::path::Path;

use super::*;

struct Given {
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Given {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), environment: vec![] }
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn load(&self) -> Result<(Config, Vec<Notice>), String> {
        let Inspection { config, notices, problems, .. } = self.inspect().map_err(|problems| problems.to_string())?;
        problems.map_or(Ok((config, notices)), |problems| Err(problems.to_string()))
    }

    fn inspect(&self) -> Result<Inspection, Problems> {
        let dir = self.dir.path();
        let mut environment: Vec<_> =
            self.environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        if !self.environment.iter().any(|(name, _)| name == "KEYLIME_DIR") {
            environment.push(("KEYLIME_DIR".into(), dir.as_os_str().to_owned()));
        }
        let sources = Sources { folders: vec![dir.join("usr"), dir.join("etc")], environment };
        Config::inspect(&sources)
    }
}

/// Configuration from one file with these lines in `[agent]`.
fn agent(lines: &str) -> Result<(Config, Vec<Notice>), String> {
    Given::new().file("etc/agent.conf", &format!("[agent]\n{lines}")).load()
}

fn warnings(notices: &[Notice]) -> Vec<&str> {
    notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::Warning(text) => Some(text.as_str()),
            Notice::Info(_) | Notice::Debug(_) => None,
        })
        .collect()
}

const PLAIN_HTTP: &str = "option 'registrar_tls_enabled' is false: the registration goes over plain HTTP, where anyone \
                          on the way can read and change it: set it to true, with registrar_tls_port (8891) and \
                          registrar_tls_ca_cert";

#[test]
fn defaults_are_the_stock_agents_but_for_the_id() {
    let given = Given::new();
    let (config, notices) = given.load().unwrap();
    let dir = given.dir.path();
    assert_eq!(config.uuid, UuidSource::HashEk);
    assert_eq!(config.api_versions, keylime_api::version::SUPPORTED);
    let address = |(host, port): &(Host, u16)| host.with_port(*port);
    assert_eq!(address(&config.listen), "127.0.0.1:9002");
    assert_eq!(address(&config.contact), "127.0.0.1:9002");
    assert_eq!(config.registrar.host.with_port(config.registrar.port), "127.0.0.1:8890");
    assert_eq!(config.registrar.tls_ca, None);
    assert_eq!(
        config.retry,
        Retry { initial_delay: Duration::from_secs(10), max_delay: Duration::from_secs(300), max_retries: None }
    );
    assert_eq!(config.client_cas, Some(vec![dir.join("cv_ca/cacert.crt")]));
    assert_eq!(config.server_key.path, dir.join("server-private.pem"));
    assert!(config.server_key.password.expose().is_empty());
    assert_eq!(config.server_cert, dir.join("server-cert.crt"));
    assert_eq!(config.payload_key.path, dir.join("payload-private.pem"));
    assert_eq!(config.agent_data, dir.join("agent_data.json"));
    assert_eq!(config.tpm.tcti, None);
    assert_eq!(config.tpm.hash, HashAlgorithm::Sha256);
    assert_eq!(config.tpm.key, KeyAlgorithm::Rsa2048);
    assert_eq!(config.tpm.signing, SignatureScheme::RsaSsa);
    assert_eq!(config.tpm.ek_handle, None);
    assert!(config.tpm.endorsement_auth.expose().is_empty());
    assert_eq!(config.run_as.unwrap().to_string(), "keylime:tss");
    assert_eq!(config.ima_log.path, Path::new("/sys/kernel/security/ima/ascii_runtime_measurements"));
    assert!(!config.ima_log.is_override && !config.boot_log.is_override);
    assert_eq!(config.boot_log.path, Path::new("/sys/kernel/security/tpm0/binary_bios_measurements"));
    assert!(config.unix_socket.is_none());
    assert!(!config.insecure_payload);
    let payload = Payload {
        key_name: "derived_tci_key".to_owned(),
        text_name: "decrypted_payload".to_owned(),
        secure_size: "1m".to_owned(),
        extract_zip: true,
        script: Some("autorun.sh".to_owned()),
        script_timeout: Duration::from_secs(600),
    };
    assert_eq!(config.payload, payload);
    let revocation = Revocation {
        certificate: dir.join("secure/unzipped/RevocationNotifier-cert.crt"),
        actions: vec![],
        actions_dir: "/usr/libexec/keylime".into(),
        allow_payload_actions: true,
        action_timeout: Duration::from_secs(60),
        publisher: None,
    };
    assert_eq!(config.revocation, revocation);
    assert_eq!(warnings(&notices), [PLAIN_HTTP]);
}

#[test]
fn later_sources_win() {
    let given = Given::new()
        .file("usr/agent.conf", "[agent]\nport = 1\ncontact_port = 1\nregistrar_port = 1\nip = \"::1\"")
        .file("usr/agent.conf.d/x", "[agent]\ncontact_port = 2\nregistrar_port = 2")
        .file("etc/agent.conf", "[agent]\nregistrar_port = 3")
        .file("etc/agent.conf.d/y", "[agent]\nregistrar_port = 4")
        .env("KEYLIME_AGENT_REGISTRAR_PORT", "5")
        .env("KEYLIME_AGENT_SERVER_KEY_PASSWORD", "hunter2")
        .env("TCTI", "swtpm:port=2321");
    let (config, notices) = given.load().unwrap();
    assert_eq!(config.listen.1, 1);
    assert_eq!(config.listen.0.with_port(1), "[::1]:1");
    assert_eq!(config.contact.1, 2);
    assert_eq!(config.registrar.port, 5);
    assert_eq!(config.tpm.tcti.as_deref(), Some("swtpm:port=2321"));
    let debug = |text: &str| notices.contains(&Notice::Debug(text.to_owned()));
    assert!(debug("Environment configuration registrar_port=5"));
    assert!(debug("Environment configuration server_key_password=(hidden)"));
    assert!(!format!("{notices:?}{config:?}").contains("hunter2"));
}

#[test]
fn our_tcti_option_wins_over_the_common_variable() {
    let given = Given::new().env("TCTI", "swtpm:port=1").env("KEYLIME_AGENT_TCTI", "swtpm:port=2");
    assert_eq!(given.load().unwrap().0.tpm.tcti.as_deref(), Some("swtpm:port=2"));
    // Empty is the default, for the start as for the check.
    let given = Given::new().env("TCTI", "swtpm:port=1").env("KEYLIME_AGENT_TCTI", "");
    assert_eq!(given.load().unwrap().0.tpm.tcti, None);
}

#[test]
fn variables_that_are_no_text_are_named() {
    use std::os::unix::ffi::OsStringExt as _;
    for name in ["TCTI", "KEYLIME_DIR", "KEYLIME_AGENT_IP"] {
        let environment = vec![(name.into(), std::ffi::OsString::from_vec(vec![b'/', 0xff]))];
        let problems = Config::inspect(&Sources { folders: vec![], environment }).unwrap_err();
        assert_eq!(problems.to_string(), format!("environment variable {name} is not valid UTF-8"));
    }
}

#[test]
fn the_folder_is_absolute() {
    let here = std::env::current_dir().unwrap();
    for (text, folder) in
        [("", PathBuf::from("/var/lib/keylime")), (".", here.clone()), ("src/..", here.join("src/.."))]
    {
        let given = Given::new().env("KEYLIME_DIR", "").env("KEYLIME_AGENT_KEYLIME_DIR", text);
        let inspection = given.inspect().unwrap();
        assert_eq!(inspection.config.keylime_dir, folder);
        assert_eq!(inspection.config.agent_data, folder.join("agent_data.json"));
    }
}

#[test]
fn a_named_file_replaces_the_usual_ones() {
    let given = Given::new().file("etc/agent.conf", "[agent]\nport = 1\n").file("other", "[agent]\ncontact_port = 2\n");
    let path = given.dir.path().join("other").display().to_string();
    let given = given.env("KEYLIME_AGENT_CONFIG", &path);
    let (config, notices) = given.load().unwrap();
    assert_eq!((config.listen.1, config.contact.1), (9002, 2));
    assert_eq!(warnings(&notices), [PLAIN_HTTP]);

    let given = Given::new().env("KEYLIME_AGENT_CONFIG", "/nonexistent/file");
    assert_eq!(given.load().unwrap_err(), "cannot read /nonexistent/file: No such file or directory (os error 2)");
}

#[test]
fn values_are_taken_as_people_write_them() {
    let (config, notices) = agent(
        "port = \"9102\"\nregistrar_tls_enabled = \"True\"\nregistrar_ip = \"[::1]\"\n\
         registrar_tls_ca_cert = \"/ca.crt\"\ntrusted_client_ca = \"['/a.crt', 'b.crt', default]\"\n\
         uuid = \"D432FBB3D2F14A979EF775BD81C00001\"\ntpm_encryption_alg = \"ecc384\"\ntpm_signing_alg = \"ecdsa\"\n\
         tpm_hash_alg = \"sha384\"\nek_handle = \"0x81010001\"\ntpm_ownerpassword = \"hex:0a0b\"\nrun_as = \"\"\n\
         ima_ml_path = \"tmp/ima\"\nexponential_backoff_max_retries = 5\nserver_cert = \"\"\n\
         unix_socket_path = \"/run/keylime/agent.sock\"\nunix_socket_mode = \"0600\"\n\
         unix_socket_allowed_users = [\"spire\", 0]\nserver_key = \"tls.pem\"",
    )
    .unwrap();
    assert_eq!(config.listen.1, 9102);
    assert_eq!(config.registrar.host.with_port(config.registrar.port), "[::1]:8891");
    assert_eq!(config.registrar.tls_ca.as_deref(), Some(Path::new("/ca.crt")));
    let dir = config.agent_data.parent().unwrap();
    let cas = config.client_cas.unwrap();
    assert_eq!(cas[0], Path::new("/a.crt"));
    assert_eq!(cas[1], dir.join("b.crt"));
    assert_eq!(cas[2], dir.join("cv_ca/cacert.crt"));
    let id = "d432fbb3-d2f1-4a97-9ef7-75bd81c00001".parse().unwrap();
    assert_eq!(config.uuid, UuidSource::Fixed(id));
    assert_eq!(config.tpm.key, KeyAlgorithm::Ecc384);
    assert_eq!(config.tpm.hash, HashAlgorithm::Sha384);
    assert_eq!(config.tpm.signing, SignatureScheme::EcDsa);
    assert_eq!(config.tpm.ek_handle, Some(0x8101_0001));
    assert_eq!(config.tpm.endorsement_auth.expose(), [10, 11]);
    assert_eq!(config.run_as, None);
    assert_eq!(config.ima_log.path, Path::new("/tmp/ima"));
    assert!(config.ima_log.is_override);
    assert_eq!(config.retry.max_retries, Some(5));
    assert_eq!(config.server_key.path, dir.join("tls.pem"));
    let socket = config.unix_socket.unwrap();
    assert_eq!(socket.path, Path::new("/run/keylime/agent.sock"));
    assert_eq!(socket.mode, 0o600);
    assert_eq!(socket.allowed_users, Some(vec!["spire".to_owned(), "0".to_owned()]));
    assert_eq!(
        warnings(&notices),
        [format!(
            "Empty string provided in configuration option server_cert, using default {}",
            config.server_cert.display()
        )]
    );
}

#[test]
fn a_sample_id_is_warned_about() {
    let given = Given::new().env("KEYLIME_AGENT_UUID", "d432fbb3-d2f1-4a97-9ef7-75bd81c00000");
    let (_, notices) = given.load().unwrap();
    assert_eq!(
        warnings(&notices)[0],
        "option 'uuid' (environment variable KEYLIME_AGENT_UUID): d432fbb3-d2f1-4a97-9ef7-75bd81c00000 is a sample that every host with an unchanged \
         configuration claims, so hosts may be taken for one another: set uuid = \"hash_ek\"; the agent id is another \
         then, and the host has to be added anew"
    );
}

#[test]
fn an_id_in_the_environment_may_be_any_if_the_file_asks_for_it() {
    let given = || Given::new().file("etc/agent.conf", "[agent]\nuuid = \"environment\"");
    let inspection = given().env("KEYLIME_AGENT_UUID", "host7.example").inspect().unwrap();
    assert_eq!(inspection.config.uuid, UuidSource::Environment("host7.example".parse().unwrap()));
    // As a file it means the same.
    let shown = inspection.to_string();
    assert!(shown.contains("\nuuid = \"environment\" "), "{shown}");
    assert!(shown.contains("# environment variable KEYLIME_AGENT_UUID\n"), "{shown}");
    for (id, text) in [
        ("d432fbb3-d2f1-4a97-9ef7-75bd81c00000", "is a sample that every host with an unchanged configuration claims"),
        ("localhost", "is what hosts report that have been given nothing of their own"),
    ] {
        let (_, notices) = given().env("KEYLIME_AGENT_UUID", id).load().unwrap();
        assert!(
            warnings(&notices)[0]
                .starts_with(&format!("option 'uuid' (environment variable KEYLIME_AGENT_UUID): {id} {text}"))
        );
    }

    let unset = "the environment variable KEYLIME_AGENT_UUID, which is to hold the id, is not set";
    let error = given().load().unwrap_err();
    assert!(error.ends_with(&format!("etc/agent.conf): {unset}")), "{error}");
    assert_eq!(
        given().env("KEYLIME_AGENT_UUID", "environment").load().unwrap_err(),
        format!("option 'uuid' (environment variable KEYLIME_AGENT_UUID): {unset}")
    );
    // Otherwise what is not a UUID is a slip there, too.
    let error = Given::new().env("KEYLIME_AGENT_UUID", "host7.example").load().unwrap_err();
    assert!(error.ends_with("or a UUID, found 'host7.example'"), "{error}");
}

#[test]
fn unknown_options_are_warned_about() {
    let (_, notices) = agent("registrar_prot = 8890\nquote_interval = 2").unwrap();
    let texts = warnings(&notices);
    assert!(texts[1].starts_with("unknown option 'quote_interval' ("));
    assert!(texts[2].starts_with("unknown option 'registrar_prot' ("));
    assert!(texts[2].ends_with(": did you mean 'registrar_port'?"));
}

#[test]
fn what_is_odd_is_warned_about() {
    for (line, text) in [
        (
            "contact_ip = \"0.0.0.0\"",
            "option 'contact_ip' (FILE) is 0.0.0.0, where nobody can reach this host: set it to an address or name of the \
             host",
        ),
        (
            "contact_ip = \"[::]\"",
            "option 'contact_ip' (FILE) is ::, where nobody can reach this host: set it to an address or name of the host",
        ),
        (
            "api_versions = \"9.9, 2.1\"",
            "Skipping API version \"9.9\" obtained from 'api_versions' configuration option (FILE)",
        ),
        (
            "registrar_tls_enabled = false",
            "option 'registrar_tls_enabled' (FILE) is false: the registration goes over plain HTTP, where anyone on the \
             way can read and change it: set it to true, with registrar_tls_port (8891) and registrar_tls_ca_cert",
        ),
    ] {
        let given = Given::new().file("etc/agent.conf", &format!("[agent]\n{line}\n"));
        let file = given.dir.path().join("etc/agent.conf").display().to_string();
        let (_, notices) = given.load().unwrap();
        let expected = text.replace("FILE", &file);
        assert!(warnings(&notices).contains(&expected.as_str()), "{notices:?}");
    }
}

#[test]
fn copies_among_the_further_files_are_warned_about() {
    let given = Given::new()
        .file("etc/agent.conf", "")
        .file("etc/agent.conf.d/10-a.conf", "")
        .file("etc/agent.conf.d/10-a.conf~", "[agent]\nport = 1")
        .file("etc/agent.conf.d/10-a.conf.rpmsave", "");
    let folder = given.dir.path().join("etc/agent.conf.d");
    let text = |name: &str| {
        let path = folder.join(name);
        let rest = "counts, although its name does not end in .conf: move it away if it is an old copy";
        format!("{} {rest}", path.display())
    };
    let (config, notices) = given.load().unwrap();
    assert_eq!(config.listen.1, 1);
    assert_eq!(warnings(&notices), [text("10-a.conf.rpmsave"), text("10-a.conf~"), PLAIN_HTTP.to_owned()]);
    let files: Vec<_> = config.origins.files().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(files, ["agent.conf", "10-a.conf", "10-a.conf.rpmsave", "10-a.conf~"]);
}

#[test]
fn lists_are_shown_as_the_stock_agent_takes_them() {
    for (line, shown) in [
        ("trusted_client_ca = ['/a.crt', '/b.crt']", "trusted_client_ca = \"/a.crt, /b.crt\" "),
        ("trusted_client_ca = ['/a b.crt', '/c.crt']", "trusted_client_ca = [\"/a b.crt\",\"/c.crt\"] "),
        ("api_versions = ['2.1', '2.5']", "api_versions = \"2.1, 2.5\" "),
        ("revocation_actions = []", "revocation_actions = \"\" "),
        ("unix_socket_allowed_users = ['a', 0]", "unix_socket_allowed_users = \"a, 0\" "),
    ] {
        let given = Given::new().file("etc/agent.conf", &format!("[agent]\n{line}\n"));
        let text = given.inspect().unwrap().to_string();
        assert!(text.contains(&format!("\n{shown}")), "{text}");
    }
}

#[test]
fn payload_rule_without_mtls() {
    assert_eq!(
        agent("enable_agent_mtls = false").unwrap_err(),
        "Configuration error: The agent mTLS is disabled and 'payload_script' is not empty. To allow the agent to run, \
         'enable_insecure_payload' has to be set to 'True'"
    );
    let (config, _) = agent("enable_agent_mtls = false\npayload_script = \"\"").unwrap();
    assert_eq!(config.client_cas, None);
    assert!(!config.insecure_payload);
    let (config, _) = agent("enable_agent_mtls = false\nenable_insecure_payload = \"True\"").unwrap();
    assert!(config.insecure_payload);
}

#[test]
fn each_bad_value_has_its_text() {
    for (line, text) in [
        ("port = 0", "expected a number from 1 to 65535, found '0'"),
        ("ip = \"a b\"", "expected an IP address or a host name, found 'a b'"),
        (
            "uuid = \"my-host\"",
            "expected 'hash_ek', 'generate', 'dmidecode', 'hostname', 'environment' or a UUID, found 'my-host'",
        ),
        (
            "tpm_hash_alg = \"sm3_256\"",
            "hash algorithm sm3_256 is not supported here: use sha1, sha256, sha384 or sha512",
        ),
        ("tpm_hash_alg = \"sha-256\"", "expected 'sha1', 'sha256', 'sha384' or 'sha512', found 'sha-256'"),
        (
            "tpm_encryption_alg = \"rsa1024\"",
            "TPM key type rsa1024 is not supported: use one of rsa2048, rsa3072, rsa4096, ecc256, ecc384, ecc521",
        ),
        (
            "tpm_encryption_alg = \"ecc_sm2\"\ntpm_signing_alg = \"ecdsa\"",
            "TPM key type ecc_sm2 is not supported: use one of rsa2048, rsa3072, rsa4096, ecc256, ecc384, ecc521",
        ),
        (
            "tpm_signing_alg = \"ecdsa\"",
            "signing scheme ecdsa does not fit key type rsa2048: RSA keys sign with rsassa or rsapss, ECC keys with \
             ecdsa or ecschnorr",
        ),
        ("run_as = \":tss\"", "expected 'user:group', found ':tss'"),
        ("unix_socket_path = \"agent.sock\"", "expected an absolute path of at most 95 bytes"),
        ("tpm_ownerpassword = \"hex:0\"", "what follows 'hex:' must be pairs of hexadecimal digits"),
        ("enable_agent_mtls = \"maybe\"", "expected true or false, found 'maybe'"),
        ("secure_size = \"1m,mode=0777\"", "expected a size such as 1m, 512k or 1048576, found '1m,mode=0777'"),
        ("enc_keyname = \"../key\"", "expected the name of a file inside the payload's folder, found '../key'"),
        ("dec_payload_file = \"derived_tci_key\"", "expected another name than that of 'enc_keyname'"),
        ("payload_script = \"/bin/sh\"", "expected the name of a file inside the payload's folder, found '/bin/sh'"),
        ("payload_script_timeout = 0", "expected a number from 1 to 86400, found '0'"),
        ("revocation_actions = \"good, ../bad\"", "expected names of files, found '../bad'"),
        ("revocation_actions_dir = \"actions\"", "expected an absolute path"),
        (
            "revocation_actions_dir = \"/nonexistent\"\nenable_revocation_notifications = true",
            "the folder /nonexistent does not exist: create it, as 'enable_revocation_notifications' is true",
        ),
        (
            "revocation_cert = \"\"\nenable_revocation_notifications = true\nrevocation_actions_dir = \"/\"",
            "it must not be empty while 'enable_revocation_notifications' is true",
        ),
        (
            "revocation_notification_ip = \"\"\nenable_revocation_notifications = true\nrevocation_actions_dir = \"/\"",
            "expected an IP address or a host name, found ''",
        ),
        ("revocation_notification_port = 0", "expected a number from 1 to 65535, found '0'"),
    ] {
        let error = agent(line).unwrap_err();
        let name = line.split(' ').next().unwrap();
        assert!(error.starts_with(&format!("option '{name}' (")), "{error}");
        assert!(error.ends_with(&format!("): {text}")), "{error}");
    }
    assert_eq!(
        agent("trusted_client_ca = \"\"").unwrap_err(),
        "Agent mTLS is enabled, but trusted_client_ca option was not provided"
    );
    let given = Given::new().env("KEYLIME_DIR", "/nonexistent");
    assert_eq!(
        given.load().unwrap_err(),
        "option 'keylime_dir' (environment variable KEYLIME_DIR): the folder /nonexistent does not exist: create it, \
         owned by the user of run_as"
    );
}

#[test]
fn who_publishes_revocations() {
    let on = "enable_revocation_notifications = \"True\"\nrevocation_actions_dir = \"/\"\n";
    for (lines, expected) in [
        ("", "127.0.0.1:8992"),
        ("revocation_notification_ip = \"::1\"\nrevocation_notification_port = \"1\"", "[::1]:1"),
        ("revocation_notification_ip = \"verifier.example\"", "verifier.example:8992"),
    ] {
        let (host, port) = agent(&format!("{on}{lines}")).unwrap().0.revocation.publisher.unwrap();
        assert_eq!(host.with_port(port), expected);
    }
    // What is not used may be missing, as with the stock agent.
    let off = "revocation_notification_ip = \"\"\nrevocation_cert = \"\"\nrevocation_actions_dir = \"/nonexistent\"";
    assert_eq!(agent(off).unwrap().0.revocation.publisher, None);
    let error = agent(&format!("{off}\nenable_revocation_notifications = true")).unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn all_problems_come_together() {
    let wrong = "[agent]\nport = 0\ncontact_port = -1";
    assert_eq!(Given::new().file("etc/agent.conf", wrong).load().unwrap_err().lines().count(), 2);
    // Where a file cannot be read, nothing is said of options: the file may have set them right.
    let given = Given::new().file("usr/agent.conf", "no toml").file("etc/agent.conf", "[agnt]\nport = 0");
    let problems = given.load().unwrap_err();
    let [syntax, table] = problems.lines().collect::<Vec<_>>()[..] else { panic!("{problems}") };
    assert!(syntax.contains("usr/agent.conf: line 1: "), "{syntax}");
    assert!(table.ends_with("there is no table [agent], so none of the file's options would count: it has [agnt]"));
}

#[test]
fn the_documented_options_are_the_known_ones() {
    let page = include_str!("../../../docs/keylime-agent.md");
    let mut names: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.split(", ").map(|name| name.trim_matches(['`', ' '])))
        .collect();
    assert!(names.len() > 35, "{names:?}");
    names.push("registrar_prot");
    let lines: String = names.iter().map(|name| format!("{name} = \"\"\n")).collect();
    let given = Given::new().file("etc/agent.conf", &format!("[agent]\n{lines}"));
    let sources = Sources { folders: vec![given.dir.path().join("etc")], environment: vec![] };
    let Read { layered, .. } = sources.read();
    let mut reader = Reader::new(&layered, vec![]);
    reader.config();
    let unknown: Vec<_> = reader.options.unknown().into_iter().map(|unknown| unknown.name).collect();
    assert_eq!(unknown, ["registrar_prot"]);
}
