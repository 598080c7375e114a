// SPDX-License-Identifier: Apache-2.0
//! From the configuration to a registered, listening agent, and back to an empty TPM.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keylime_api::AgentId;
use keylime_api::registration::{DeviceIdentity, MtlsCert, Registration};
use nix::unistd::{Uid, geteuid};
use service::drain::Drain;
use service::signals::{self, Shutdown};
use tls::{ClientTls, TlsServer, Trust};
use tpm::{AkInfo, EkInfo, EkSource, Tpm, TpmSettings};
use zeroize::Zeroizing;

use crate::agent::Agent;
use crate::agent_data::{self, AgentDataError, Fit, Stored};
use crate::config::Config;
use crate::device_identity::Certificates;
use crate::error::{Cause, StartError};
use crate::identity::Choice;
use crate::measurement::{boottime, ima::ImaList};
use crate::payload::store::Store;
use crate::payload::{Deployer, Place};
use crate::payload_key::{Origin, PayloadKey};
use crate::prepare::{Logs, Purpose, prepare};
use crate::privileges;
use crate::registration::{Outcome, Registrar};
use crate::renewal::Renewal;
use crate::revocation::{Revoker, Subscriber};
use crate::server::{Bound, BoundUnix};
use crate::turns::Turns;
use crate::{ak, device_identity, ek_certificate, routes, server_certificate};

/// How long requests in progress have when the agent ends.
const GRACE: Duration = Duration::from_secs(3);

/// Runs the agent until SIGTERM or SIGINT.
///
/// The measurement logs are opened with the rights the process was started with; everything else happens after the
/// change to the `run_as` user. Must be called while the process has one thread.
///
/// # Errors
/// The agent cannot start, or the registrar refuses it.
pub fn run(config: &Config) -> Result<(), StartError> {
    let prepared = prepare(config, Purpose::Run)?;
    let versions: Vec<_> = config.api_versions.iter().map(ToString::to_string).collect();
    tracing::info!("Starting server with API versions: {}", versions.join(", "));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Cause::Runtime)?;
    let result = runtime.block_on(main(config, prepared.id, prepared.logs, prepared.client_cas, prepared.store));
    // Nothing waits for what is left, such as a host name being looked up.
    runtime.shutdown_background();
    drop(prepared.lock);
    Ok(result?)
}

/// Checks the files that the configuration names, as the user that the agent would run as. Changes to that user for good.
///
/// # Errors
/// Everything that would keep the agent from starting.
pub fn check(config: &Config) -> Result<(), StartError> {
    prepare(config, Purpose::Check).map(drop)
}

async fn main(config: &Config, id: Choice, logs: Logs, client_cas: Vec<PathBuf>, store: Store) -> Result<(), Cause> {
    let shutdown = signals::shutdown().map_err(Cause::Runtime)?;
    // Neither a name server nor a TPM that does not answer keeps a signal waiting.
    let (bound, stored, tpm) = tokio::select! {
        opened = open(config) => opened?,
        () = shutdown.wait() => {
            tracing::info!("Shutting down keylime agent");
            return Ok(());
        }
    };
    // Leaves nothing in the TPM, however the rest ends.
    let guard = tpm.guard();
    let place = Place::new(store);
    place.warn_of_unfinished();
    let started = Start { config, id, client_cas, place, tpm: tpm.clone(), shutdown: shutdown.clone() };
    let result = started.run(logs, stored, bound).await;
    if shutdown.is_requested() {
        tracing::info!("Shutting down keylime agent");
    }
    if let Err(error) = tpm.shutdown().await {
        tracing::warn!("the TPM may still hold keys of this agent: {error}");
    }
    drop(guard);
    result
}

/// Takes the address, reads the saved AK and opens the TPM.
async fn open(config: &Config) -> Result<(Bound, Option<Stored>, Tpm), Cause> {
    let (host, port) = &config.listen;
    let bound = Bound::new(host, *port).await?;
    let stored = agent_data::load(&config.agent_data).map_err(AgentDataError::with_copy)?;
    let tpm = open_tpm(config, stored.as_ref()).await?;
    Ok((bound, stored, tpm))
}

async fn open_tpm(config: &Config, stored: Option<&Stored>) -> Result<Tpm, Cause> {
    let options = &config.tpm;
    let tpm = Tpm::open(TpmSettings {
        tcti: options.tcti.clone(),
        hash: options.hash,
        key_alg: options.key,
        scheme: options.signing,
        endorsement_auth: Zeroizing::new(options.endorsement_auth.expose().to_vec()),
        ek: match options.ek_handle {
            Some(handle) => EkSource::Persistent(handle),
            None => EkSource::Template,
        },
        leftover_ak: stored.map(Stored::ak),
        ..TpmSettings::default()
    });
    Ok(tpm.await?)
}

struct Start<'a> {
    config: &'a Config,
    id: Choice,
    /// The files of `trusted_client_ca` that can be used; some if mTLS is on.
    client_cas: Vec<PathBuf>,
    place: Place,
    tpm: Tpm,
    shutdown: Shutdown,
}

/// What exists before the registration.
struct Identity {
    agent: Agent,
    registration: Registration,
    tls: Option<TlsServer>,
    renewal: Option<Renewal>,
    deployer: Deployer,
    revoker: Revoker,
}

impl Start<'_> {
    async fn run(&self, logs: Logs, stored: Option<Stored>, bound: Bound) -> Result<(), Cause> {
        // A TPM may take minutes for its keys; a signal need not wait for them.
        let identity = tokio::select! {
            identity = self.identity(logs, stored) => identity?,
            () = self.shutdown.wait() => return Ok(()),
        };
        let unix = self.bind_unix().await?;
        if self.register(&identity).await? == Outcome::Interrupted {
            return Ok(());
        }
        // It is needed for the activation only, and the TPM has room for few keys.
        tokio::select! {
            flushed = self.tpm.flush_ek() => flushed?,
            () = self.shutdown.wait() => return Ok(()),
        }
        self.serve(identity, bound, unix).await
    }

    /// Keys, certificate and id.
    async fn identity(&self, logs: Logs, stored: Option<Stored>) -> Result<Identity, Cause> {
        let config = self.config;
        if self.tpm.vendor_is_software().await? {
            tracing::warn!("INSECURE: Keylime is using a software TPM emulator rather than a real hardware TPM.");
            tracing::warn!("INSECURE: The security of Keylime is NOT linked to a hardware root of trust.");
            tracing::warn!("INSECURE: Only use Keylime in this mode for testing or debugging purposes.");
        }
        let ek = self.tpm.create_ek().await?;
        let ek_hash = tpm_wire::public::ek_hash(&ek.spki_pem);
        let options = &config.tpm;
        let fit = Fit { hash: options.hash, key: options.key, signing: options.signing, ek_hash: &ek_hash };
        let hash_is_id = self.id == Choice::HashEk;
        let ak = ak::load(&self.tpm, &config.agent_data, &fit, stored.as_ref(), hash_is_id).await?;
        let id = self.agent_id(&ek_hash)?;
        tracing::info!("Agent UUID: {id}");
        let payload_key = self.payload_key()?;
        let (tls, mtls_cert, renewal) = self.server_tls(&id)?;
        let device_identity = self.device_identity(&id).await?;
        let registration = Registration { device_identity, ..self.registration(&ek, &ak, mtls_cert) };
        let node_key_digest = config.tpm.hash.digest(payload_key.public_pem().as_bytes()).map_err(Cause::Hash)?;
        let (payloads, deployer) = Deployer::new(config.payload.clone(), config.revocation.clone(), self.place.clone());
        let (revocations, revoker) =
            Revoker::new(config.revocation.clone(), config.keylime_dir.clone(), self.place.clone());
        let agent = Agent {
            id,
            api_versions: config.api_versions.clone(),
            hash: config.tpm.hash,
            key: config.tpm.key,
            signing: config.tpm.signing,
            ak_handle: ak.handle,
            tpm: self.tpm.clone(),
            turns: Turns::default(),
            payload_key,
            node_key_digest,
            ima_list: logs.ima.map(|file| ImaList::new(file, &config.ima_log.path)),
            boot_log: logs.boot,
            boottime: boottime::read(),
            payloads,
            revocations,
            payloads_forbidden: config.client_cas.is_none() && !config.insecure_payload,
            bootstrap_keys: Default::default(),
            bodies: Agent::body_limit(),
        };
        Ok(Identity { agent, registration, tls, renewal, deployer, revoker })
    }

    fn agent_id(&self, ek_hash: &str) -> Result<AgentId, Cause> {
        match &self.id {
            Choice::Known(id) => Ok(id.clone()),
            Choice::HashEk => {
                tracing::info!("Using hashed EK as UUID");
                Ok(ek_hash.parse()?)
            }
            Choice::Generate => {
                let id = uuid::Uuid::new_v4().hyphenated().to_string().parse()?;
                tracing::info!("Generated a new UUID: {id}");
                Ok(id)
            }
        }
    }

    fn payload_key(&self) -> Result<PayloadKey, Cause> {
        let file = &self.config.payload_key;
        let loaded = PayloadKey::load_or_create(file, &self.config.server_key);
        let problem =
            |source| Cause::PayloadKey { path: file.path.clone(), source: Box::new(source), hint: Box::default() };
        let (key, origin) = loaded.map_err(problem)?;
        let path = file.path.display();
        match origin {
            Origin::Loaded => tracing::debug!("Loaded payload key from {path}"),
            Origin::Generated => tracing::info!("Generated a new payload key: {path}"),
            Origin::CopiedFromServerKey => tracing::info!(
                "Using the RSA key in {} as payload key, as agents with one key did: copied to {path}",
                self.config.server_key.path.display()
            ),
        }
        Ok(key)
    }

    /// Settings of the HTTPS server and the certificate that is registered.
    fn server_tls(&self, id: &AgentId) -> Result<(Option<TlsServer>, MtlsCert, Option<Renewal>), Cause> {
        let config = self.config;
        if config.client_cas.is_none() {
            return Ok((None, MtlsCert::Disabled, None));
        }
        let certificate =
            server_certificate::load_or_create(&config.server_key, &config.server_cert, id, &config.contact.0)?;
        if certificate.created {
            tracing::info!("Generated a new server certificate: {}", config.server_cert.display());
        }
        let settings = server_certificate::settings(config, &self.client_cas);
        let renewal = Renewal::new(&config.server_cert, &certificate.leaf);
        // A random id is another one at each start.
        if self.id != Choice::Generate
            && let Some(warning) = renewal.as_ref().and_then(|renewal| renewal.other_id(id))
        {
            tracing::warn!("{warning}");
        }
        Ok((Some(settings.build()?), MtlsCert::Pem(certificate.leaf_pem), renewal))
    }

    fn registration(&self, ek: &EkInfo, ak: &AkInfo, mtls_cert: MtlsCert) -> Registration {
        let (contact, port) = &self.config.contact;
        Registration {
            aik_tpm: ak.public_2b.clone(),
            ek_tpm: ek.public_2b.clone(),
            ekcert: ek_certificate::to_register(ek),
            ip: contact.to_string(),
            port: *port,
            mtls_cert,
            device_identity: None,
        }
    }

    /// IAK and IDevID, if they are used.
    async fn device_identity(&self, id: &AgentId) -> Result<Option<DeviceIdentity>, Cause> {
        let Some(config) = &self.config.device_identity else { return Ok(None) };
        let certificates = Certificates::load(config)?;
        Ok(Some(device_identity::obtain(&self.tpm, config, &certificates, id).await?))
    }

    async fn bind_unix(&self) -> Result<Option<BoundUnix>, Cause> {
        let Some(socket) = &self.config.unix_socket else {
            return Ok(None);
        };
        // Root and the user we are now, which is the one of run_as.
        let allowed = match &socket.allowed_users {
            None => vec![Uid::from_raw(0), geteuid()],
            Some(users) => {
                let numbers = users.iter().map(|user| privileges::user_id(user));
                let option = || self.config.origins.option("unix_socket_allowed_users");
                let problem = |source| Cause::AllowedUsers { option: option(), source };
                numbers.collect::<Result<_, _>>().map_err(problem)?
            }
        };
        Ok(Some(BoundUnix::new(&socket.path, socket.mode, allowed).await?))
    }

    async fn register(&self, identity: &Identity) -> Result<Outcome, Cause> {
        let config = &self.config.registrar;
        let tls = match &config.tls_ca {
            None => None,
            Some(ca) => {
                let settings = ClientTls { ca: Trust::Files(vec![ca.clone()]), identity: None, server_name: None };
                Some(settings.build()?)
            }
        };
        let registrar = Registrar {
            host: &config.host,
            port: config.port,
            tls,
            retry: &self.config.retry,
            api_versions: &self.config.api_versions,
            agent_data: &self.config.agent_data,
        };
        let agent = &identity.agent;
        let registered = registrar.register(&agent.id, &identity.registration, &self.tpm, &self.shutdown);
        Ok(registered.await?)
    }

    async fn serve(&self, identity: Identity, bound: Bound, unix: Option<BoundUnix>) -> Result<(), Cause> {
        let scheme = if identity.tls.is_some() { "https" } else { "http" };
        let listener = bound.listen()?;
        let unix = unix.map(BoundUnix::listen).transpose()?;
        tracing::info!("Listening on {scheme}://{}", listener.address);
        if let Some(socket) = &self.config.unix_socket {
            tracing::info!("Listening on Unix socket {}", socket.path.display());
        }
        // The stock agent waits for a payload first; but the tenant sends it only once, and the agent may be started again.
        let publisher = self.config.revocation.publisher.clone();
        let subscriber = Subscriber::new(publisher, identity.agent.revocations.clone());
        let routes = routes::router(Arc::new(identity.agent));
        let local_routes = routes::questions_only(routes.clone());
        let drain = Drain::new();
        let serve_unix = async {
            match &unix {
                Some(unix) => unix.serve(&local_routes, &drain).await,
                None => std::future::pending().await,
            }
        };
        let renewal = async {
            match &identity.renewal {
                Some(renewal) => renewal.watch().await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            () = listener.serve(&routes, identity.tls, &drain) => Ok(()),
            () = serve_unix => Ok(()),
            () = identity.deployer.run() => Ok(()),
            () = identity.revoker.run() => Ok(()),
            () = subscriber.run() => Ok(()),
            () = renewal => Ok(()),
            () = self.tpm.ended() => Err(Cause::TpmThread),
            () = self.shutdown.wait() => Ok(()),
        };
        // Callers that come now are refused; those that have asked get their answer.
        drop(listener);
        drop(unix);
        if !drain.drain(GRACE).await {
            tracing::warn!("ending with requests in progress");
        }
        result
    }
}
