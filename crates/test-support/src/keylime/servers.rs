// SPDX-License-Identifier: Apache-2.0
//! Verifier, registrar and tenant.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::config::{self, Ports};
use super::http::{self, ClientFiles, HttpAnswer};
use super::venv::Venv;
use crate::ports::{self, Port};
use crate::process::{self, Part, Program};
use crate::scratch::Scratch;
use crate::wait;

/// Limit for the start of a server and for one run of the tenant.
const LIMIT: Duration = Duration::from_secs(60);

/// API version used for questions to verifier and registrar.
const API: &str = "v2.5";

/// What differs from one set of servers to another; all else is fixed.
#[derive(Debug, Clone)]
pub struct KeylimeOptions {
    /// Whether verifier and tenant speak mTLS to agents. The Go plugins need agents without.
    pub agent_mtls: bool,
    /// Seconds between two quotes of an agent.
    pub quote_interval: f64,
    /// Whether the wait between retries doubles each time.
    pub exponential_backoff: bool,
    /// First wait between retries in seconds.
    pub retry_interval: f64,
    /// Retries until the verifier gives an agent up.
    pub max_retries: u32,
    /// Seconds the verifier waits for an agent's answer.
    pub request_timeout: f64,
    /// Whether the tenant asks for an EK certificate.
    pub require_ek_cert: bool,
    /// CA files for EK certificates: [`crate::Swtpm::ca_certs`] of all TPMs.
    pub ek_ca_certs: Vec<PathBuf>,
    /// How revocations are sent, as a Python list.
    pub revocation_notifications: String,
    /// Where revocations are sent with `['webhook']`.
    pub webhook_url: String,
    /// Options to set or replace: section (`verifier`, `revocations`, `registrar`, `tenant`, `ca`), option, value.
    pub overrides: Vec<(String, String, String)>,
}

impl Default for KeylimeOptions {
    fn default() -> Self {
        Self {
            agent_mtls: true,
            quote_interval: 2.0,
            exponential_backoff: true,
            retry_interval: 2.0,
            max_retries: 5,
            request_timeout: 60.0,
            require_ek_cert: true,
            ek_ca_certs: Vec::new(),
            revocation_notifications: "['agent']".to_owned(),
            webhook_url: String::new(),
            overrides: Vec::new(),
        }
    }
}

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The verifier.
    Verifier,
    /// The registrar.
    Registrar,
}

/// A running verifier and registrar, and the means to ask them.
#[derive(Debug)]
pub struct KeylimeServers {
    /// TLS port of the verifier.
    pub verifier_port: u16,
    /// Plain port of the registrar.
    pub registrar_port: u16,
    /// TLS port of the registrar.
    pub registrar_tls_port: u16,
    /// Folder of the CA that the verifier made: `cacert.crt`, `server-cert.crt`, `server-private.pem`,
    /// `client-cert.crt`, `client-private.pem`.
    pub cv_ca: PathBuf,
    verifier: Option<Part>,
    registrar: Option<Part>,
    env: Vec<(&'static str, PathBuf)>,
    venv: Venv,
    scratch: Scratch,
    _ports: [Port; 3],
}

impl KeylimeServers {
    /// Starts both servers and waits until they answer.
    ///
    /// # Errors
    /// When Keylime is not installed or a server does not come up; with the end of its log.
    pub fn start(options: &KeylimeOptions) -> Result<Self> {
        let venv = Venv::find()?;
        ports::retry(|| Self::start_once(&venv, options))
    }

    fn start_once(venv: &Venv, options: &KeylimeOptions) -> Result<Self> {
        let scratch = Scratch::new("keylime")?;
        let work = scratch.folder("work")?;
        let cert_store = scratch.folder("ek-ca")?;
        for (index, path) in options.ek_ca_certs.iter().enumerate() {
            let to = cert_store.join(format!("ca-{index}.pem"));
            fs::copy(path, to).with_context(|| format!("cannot copy {}", path.display()))?;
        }
        let ports = [ports::reserve()?, ports::reserve()?, ports::reserve()?];
        let [verifier_port, registrar_port, registrar_tls_port] = ports.each_ref().map(Port::number);
        let numbers = Ports { verifier: verifier_port, registrar: registrar_port, registrar_tls: registrar_tls_port };
        let mut env = config::write(scratch.path(), &numbers, options, &cert_store)?;
        let cv_ca = work.join("cv_ca");
        env.push(("KEYLIME_DIR", work));
        let mut servers = Self {
            verifier_port,
            registrar_port,
            registrar_tls_port,
            cv_ca,
            verifier: None,
            registrar: None,
            env,
            venv: venv.clone(),
            scratch,
            _ports: ports,
        };
        // The verifier makes the CA that the registrar needs at its start; it need not be up for that.
        let mut verifier = servers.launch(Server::Verifier)?;
        let client_key = servers.client_key();
        verifier.ready("CA", LIMIT, |_| Ok(client_key.exists().then_some(())))?;
        servers.verifier = Some(verifier);
        servers.registrar = Some(servers.launch(Server::Registrar)?);
        servers.wait_up(Server::Verifier)?;
        servers.wait_up(Server::Registrar)?;
        Ok(servers)
    }

    /// A program of Keylime with its configuration.
    fn program(&self, name: &str) -> Program {
        let mut program =
            Program::new(self.venv.program(name)).env("PYTHONUNBUFFERED", "1").env("TMPDIR", self.scratch.path());
        for (variable, path) in &self.env {
            program = program.env(*variable, path);
        }
        program.folder(self.scratch.path())
    }

    fn launch(&self, server: Server) -> Result<Part> {
        let (name, log) = match server {
            Server::Verifier => ("keylime_verifier", "verifier.log"),
            Server::Registrar => ("keylime_registrar", "registrar.log"),
        };
        self.program(name).start(name, &self.scratch.join(log))
    }

    fn slot(&mut self, server: Server) -> &mut Option<Part> {
        match server {
            Server::Verifier => &mut self.verifier,
            Server::Registrar => &mut self.registrar,
        }
    }

    fn wait_up(&mut self, server: Server) -> Result<()> {
        let ports = match server {
            Server::Verifier => vec![self.verifier_port],
            Server::Registrar => vec![self.registrar_port, self.registrar_tls_port],
        };
        let part = self.slot(server).as_mut().context("not started")?;
        for port in ports {
            part.ready("listening", LIMIT, |_| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()))?;
        }
        let url = match server {
            Server::Verifier => format!("https://127.0.0.1:{}/version", self.verifier_port),
            Server::Registrar => format!("http://127.0.0.1:{}/version", self.registrar_port),
        };
        // It accepts connections a little before it answers.
        let mut last = String::new();
        let answered = wait::until("answer of Keylime", LIMIT, || {
            match self.admin_url(&url, &[]) {
                Ok(answer) if answer.status == 200 => return Ok(Some(())),
                Ok(answer) => last = format!("{} {}", answer.status, answer.body),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        });
        let log = self.slot(server).as_ref().map(|part| part.log_tail(30)).unwrap_or_default();
        answered.with_context(|| format!("last answer: {last}; end of its log:\n{log}"))
    }

    /// A server's process; `None` after [`KeylimeServers::stop`].
    pub fn part(&mut self, server: Server) -> Option<&mut Part> {
        self.slot(server).as_mut()
    }

    /// Kills a server: connections are refused from now on.
    pub fn stop(&mut self, server: Server) {
        let Some(part) = self.slot(server).take() else { return };
        let sockets: Vec<_> = part.members().iter().map(|(pid, _)| shared_data_socket(*pid)).collect();
        drop(part);
        for socket in sockets {
            // Most processes have none.
            let _ = fs::remove_file(socket);
        }
    }

    /// Starts a server, at the same ports and with the same data; kills it first if it runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self, server: Server) -> Result<()> {
        self.stop(server);
        let part = self.launch(server)?;
        *self.slot(server) = Some(part);
        self.wait_up(server)
    }

    /// Starts what publishes the verifier's revocation messages over ZeroMQ, at the port `zmq_port` of the section
    /// `revocations`, with `['zeromq']` in [`KeylimeOptions::revocation_notifications`]. Keylime has the program for it, but
    /// the verifier has not started it since 7.14. It takes the messages from a socket in `/run/keylime`: one at a time on a
    /// machine.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_publisher(&self) -> Result<Part> {
        let code = "from keylime import revocation_notifier as r; r.start_broker(); r.broker_proc.join()";
        self.program("python3").args(["-c", code]).start("publisher", &self.scratch.join("publisher.log"))
    }

    /// The certificate of Keylime's CA.
    #[must_use]
    pub fn ca_cert(&self) -> PathBuf {
        self.cv_ca.join("cacert.crt")
    }

    /// The client certificate of verifier and tenant.
    #[must_use]
    pub fn client_cert(&self) -> PathBuf {
        self.cv_ca.join("client-cert.crt")
    }

    /// The key of [`KeylimeServers::client_cert`].
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.cv_ca.join("client-private.pem")
    }

    /// The folder that holds configuration, data and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Runs `keylime_tenant` with the given arguments.
    ///
    /// # Errors
    /// When it cannot be started or takes longer than a minute.
    pub fn tenant<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        self.program("keylime_tenant").args(args).run(LIMIT)
    }

    /// Runs `keylime_tenant` with a command for an agent, and further arguments.
    ///
    /// # Errors
    /// As [`KeylimeServers::tenant`].
    pub fn tenant_for(&self, command: &str, id: &str, agent_port: u16, args: &[&str]) -> Result<Output> {
        let port = agent_port.to_string();
        let target = ["-c", command, "-t", "127.0.0.1", "-tp", &port, "-u", id];
        self.tenant(&[&target, args].concat())
    }

    /// Makes a script in [`Self::folder`] that is called as [`Self::tenant`] is, by a person.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tenant_script(&self) -> Result<PathBuf> {
        let mut text = format!("#!/bin/sh\ncd '{}' || exit\n", self.folder().display());
        for (variable, path) in &self.env {
            text += &format!("export {variable}='{}'\n", path.display());
        }
        text += &format!("exec '{}' \"$@\"\n", self.venv.program("keylime_tenant").display());
        let script = self.scratch.join("tenant");
        fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
        fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        Ok(script)
    }

    /// Enrols an agent with the tenant, with a TPM policy in JSON if one is given, such as `{"23": ["00…"]}`.
    ///
    /// # Errors
    /// When the tenant refuses; with what it printed.
    pub fn enrol(&self, id: &str, agent_port: u16, tpm_policy: Option<&str>) -> Result<()> {
        let args = tpm_policy.map(|policy| ["--tpm_policy", policy]);
        let output = self.tenant_for("add", id, agent_port, args.as_ref().map_or(&[], |args| args))?;
        process::success("keylime_tenant -c add", output).map(drop)
    }

    /// The verifier's record of an agent, `None` when it has none.
    ///
    /// # Errors
    /// When the verifier does not answer or answers something else.
    pub fn verifier_agent(&self, id: &str) -> Result<Option<Value>> {
        let answer = self.verifier_call("GET", &format!("/{API}/agents/{id}"), None)?;
        record(answer)
    }

    /// The registrar's record of an agent, `None` when it has none.
    ///
    /// # Errors
    /// When the registrar does not answer or answers something else.
    pub fn registrar_agent(&self, id: &str) -> Result<Option<Value>> {
        let url = format!("https://127.0.0.1:{}/{API}/agents/{id}", self.registrar_tls_port);
        record(self.admin_url(&url, &[])?)
    }

    /// The AK that an agent has registered, as TPM2B_PUBLIC.
    ///
    /// # Errors
    /// As [`KeylimeServers::registrar_agent`], and when the agent is not registered.
    pub fn registered_ak(&self, id: &str) -> Result<Vec<u8>> {
        let record = self.registrar_agent(id)?.with_context(|| format!("{id} is not registered"))?;
        let ak = record.get("aik_tpm").and_then(Value::as_str).context("the record has no AK")?;
        Ok(STANDARD.decode(ak)?)
    }

    /// Removes an agent from the registrar, so that another TPM can register under its id.
    ///
    /// # Errors
    /// When the registrar refuses.
    pub fn registrar_delete(&self, id: &str) -> Result<()> {
        let url = format!("https://127.0.0.1:{}/{API}/agents/{id}", self.registrar_tls_port);
        let answer = self.admin_url(&url, &["--request", "DELETE"])?;
        ensure!(answer.status == 200, "registrar: {} {}", answer.status, answer.body);
        Ok(())
    }

    /// Removes an agent from the verifier, and waits until the verifier does not ask it any more.
    ///
    /// # Errors
    /// When the verifier refuses.
    pub fn verifier_delete(&self, id: &str) -> Result<()> {
        let answer = self.verifier_call("DELETE", &format!("/{API}/agents/{id}"), None)?;
        ensure!(matches!(answer.status, 200 | 202), "verifier: {} {}", answer.status, answer.body);
        wait::until(&format!("removal of {id}"), LIMIT, || Ok(self.verifier_agent(id)?.is_none().then_some(())))
    }

    /// Any administrator's call to the verifier, such as `PUT /v2.5/agents/ID/reactivate`.
    ///
    /// # Errors
    /// When there is no HTTP answer; a status is no error.
    pub fn verifier_call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<HttpAnswer> {
        let url = format!("https://127.0.0.1:{}{path}", self.verifier_port);
        let body = body.map(Value::to_string);
        let mut args = vec!["--request", method];
        if let Some(body) = &body {
            args.extend(["--header", "Content-Type: application/json", "--data-raw", body]);
        }
        self.admin_url(&url, &args)
    }

    fn admin_url(&self, url: &str, args: &[&str]) -> Result<HttpAnswer> {
        let (ca, cert, key) = (self.ca_cert(), self.client_cert(), self.client_key());
        http::call(url, Some(ClientFiles { ca: Some(&ca), cert: &cert, key: &key }), args)
    }

    /// Waits until the verifier's record of an agent satisfies `wanted`, and answers the record.
    ///
    /// # Errors
    /// When that takes longer than `limit`; with the last record.
    pub fn wait_agent(&self, id: &str, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = None;
        let found = wait::until(&format!("{what} of {id}"), limit, || {
            last = self.verifier_agent(id)?;
            Ok(last.clone().filter(|record| wanted(record)))
        });
        found.with_context(|| format!("last record of the verifier: {}", last.unwrap_or_default()))
    }

    /// Waits until the verifier has accepted a quote and asks for the next: state 3 (Get Quote) and a count above 0.
    ///
    /// # Errors
    /// As [`KeylimeServers::wait_agent`].
    pub fn wait_verified(&self, id: &str, limit: Duration) -> Result<Value> {
        self.wait_agent(id, "state 3 and a count above 0", limit, |record| {
            number(record, "operational_state") == Some(3)
                && number(record, "attestation_count").is_some_and(|count| count > 0)
        })
    }

    /// Waits until an agent has an operational state.
    ///
    /// # Errors
    /// As [`KeylimeServers::wait_agent`].
    pub fn wait_state(&self, id: &str, state: u64, limit: Duration) -> Result<Value> {
        let what = format!("state {state}");
        self.wait_agent(id, &what, limit, |record| number(record, "operational_state") == Some(state))
    }
}

impl Drop for KeylimeServers {
    fn drop(&mut self) {
        self.stop(Server::Verifier);
        self.stop(Server::Registrar);
    }
}

/// A socket that a server makes outside its folder when root runs it, and leaves behind when killed.
fn shared_data_socket(pid: u32) -> PathBuf {
    PathBuf::from(format!("/run/keylime/shared_data.{pid}.sock"))
}

fn number(record: &Value, member: &str) -> Option<u64> {
    record.get(member)?.as_u64()
}

fn record(answer: HttpAnswer) -> Result<Option<Value>> {
    match answer.status {
        200 => Ok(Some(answer.results().clone())),
        404 => Ok(None),
        status => bail!("Keylime answered {status}: {}", answer.body),
    }
}
