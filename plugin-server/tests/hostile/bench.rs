// SPDX-License-Identifier: Apache-2.0
//! The plugin's process with all that is around it.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use go_plugin::host::{Launch, Plugin};
use serde_json::{Value, json};
use spire_proto::config::config_client::ConfigClient;
use spire_proto::config::{ConfigureRequest, CoreConfiguration};
use spire_proto::init::InitRequest;
use spire_proto::init::init_client::InitClient;
use spire_proto::server_nodeattestor::attest_request::Request as Said;
use spire_proto::server_nodeattestor::attest_response::Response as Answer;
use spire_proto::server_nodeattestor::node_attestor_client::NodeAttestorClient;
use spire_proto::server_nodeattestor::{AgentAttributes, AttestRequest, AttestResponse};
use tempfile::TempDir;
use test_support::keylime::fake::{FakeAgent, FakeKeylime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::soft_tpm::SoftTpm;

/// The good node's Keylime agent id.
pub(crate) const ID: &str = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000";

pub(crate) const TRUST_DOMAIN: &str = "tower.example";

/// Nothing takes this long, also on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Local checks only, so that a row about the quote is about this plugin.
pub(crate) const LOCAL: &str = "quote_verification = \"local\"\n";

/// What the node is told: who it is, or the code and the text without the attempt.
pub(crate) type Outcome = Result<String, (Code, String)>;

/// The plugin, Keylime, and a good node.
pub(crate) struct Bench {
    pub(crate) keylime: FakeKeylime,
    pub(crate) tpm: SoftTpm,
    pub(crate) plugin: Plugin,
    pub(crate) sockets: TempDir,
    options: String,
}

impl Bench {
    /// Starts and configures the plugin, with these options besides those of [`FakeKeylime::plugin_data`].
    pub(crate) async fn start(options: &str) -> Self {
        let keylime = FakeKeylime::start().unwrap();
        let tpm = SoftTpm::new();
        keylime.put(ID, FakeAgent::verified(tpm.ak(), Some(tpm.ek())));
        let sockets = tempfile::tempdir().unwrap();
        let plugin = launch(sockets.path()).start().await.unwrap();
        init(&plugin).await;
        let bench = Self { keylime, tpm, plugin, sockets, options: options.to_owned() };
        bench.configure(&bench.data()).await;
        bench
    }

    fn data(&self) -> String {
        format!("{}{}", self.keylime.plugin_data(), self.options)
    }

    pub(crate) async fn configure(&self, data: &str) {
        configure(self.plugin.channel(), data).await;
    }

    /// Keylime behaves again, the good node is known to it, and the plugin has connections and knowledge of none.
    pub(crate) async fn afresh(&self) {
        self.keylime.behave().unwrap();
        self.keylime.put(ID, FakeAgent::verified(self.tpm.ak(), Some(self.tpm.ek())));
        self.configure(&self.data()).await;
    }

    pub(crate) async fn open(&self) -> Call {
        Call::open(self.plugin.channel()).await
    }

    /// Attests a node that answers the nonce of the challenge with this response.
    pub(crate) async fn attest(&self, payload: Vec<u8>, respond: impl AsyncFnOnce(String) -> Vec<u8>) -> Outcome {
        let mut call = self.open().await;
        match call.challenge(payload).await {
            Ok(nonce) => call.outcome(respond(nonce).await).await,
            Err(refusal) => Err(refusal),
        }
    }

    /// Attests the good node with what `change` makes of its quote.
    pub(crate) async fn attest_with(&self, change: impl FnOnce(String) -> String) -> Outcome {
        self.attest(payload(ID, "sha256"), async |nonce| response(&change(nonce))).await
    }

    pub(crate) async fn attest_well(&self) -> Outcome {
        self.attest_with(|nonce| self.tpm.quote(&nonce).text()).await
    }

    /// The same process attests the good node.
    pub(crate) async fn still_works(&self, after: &str) {
        assert_eq!(self.attest_well().await, Ok(spiffe_id(ID)), "after {after}");
        assert_eq!(self.plugin.healthy().await.ok(), Some(true), "after {after}");
    }

    /// Runs a row: Keylime and the plugin as `afresh`, then what `spoil` does to Keylime, then the good node.
    pub(crate) async fn with_keylime(&self, what: &str, spoil: impl AsyncFnOnce(&FakeKeylime), expected: Outcome) {
        self.afresh().await;
        spoil(&self.keylime).await;
        assert_eq!(self.attest_well().await, expected, "{what}");
        self.afresh().await;
        self.still_works(what).await;
    }
}

pub(crate) fn launch(sockets: &Path) -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_keylime-attestor-server"))
        .handshake(spire_plugin::handshake())
        .socket_dir(sockets)
        .grace(LIMIT)
}

pub(crate) async fn init(plugin: &Plugin) {
    InitClient::new(plugin.channel()).init(InitRequest { host_service_names: Vec::new() }).await.unwrap();
}

pub(crate) async fn configure(channel: Channel, data: &str) {
    let core_configuration = Some(CoreConfiguration { trust_domain: TRUST_DOMAIN.to_owned() });
    let request = ConfigureRequest { core_configuration, hcl_configuration: data.to_owned() };
    ConfigClient::new(channel).configure(request).await.unwrap();
}

/// One call of `Attest`.
pub(crate) struct Call {
    say: Option<mpsc::Sender<AttestRequest>>,
    answers: Streaming<AttestResponse>,
}

impl Call {
    pub(crate) async fn open(channel: Channel) -> Self {
        Self::try_open(channel).await.unwrap()
    }

    pub(crate) async fn try_open(channel: Channel) -> Result<Self, Status> {
        Self::try_open_from(channel, None).await
    }

    /// For a node of which SPIRE says that it is at this address.
    pub(crate) async fn try_open_from(channel: Channel, address: Option<&'static str>) -> Result<Self, Status> {
        let (say, requests) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(requests));
        if let Some(address) = address {
            request.metadata_mut().insert("x-forwarded-client-ip", MetadataValue::from_static(address));
        }
        let answers = NodeAttestorClient::new(channel).attest(request).await?.into_inner();
        Ok(Self { say: Some(say), answers })
    }

    pub(crate) async fn say(&self, request: Option<Said>) {
        // The plugin may have refused already; then its answer says why.
        let _ = self.say.as_ref().unwrap().send(AttestRequest { request }).await;
    }

    /// Says no more.
    pub(crate) fn hush(&mut self) {
        self.say = None;
    }

    /// Sends the payload; the nonce of the challenge, or the refusal.
    pub(crate) async fn challenge(&mut self, payload: Vec<u8>) -> Result<String, (Code, String)> {
        let json = self.challenge_json(payload).await?;
        Ok(member(&json, "Nonce").unwrap())
    }

    pub(crate) async fn challenge_json(&mut self, payload: Vec<u8>) -> Result<Value, (Code, String)> {
        self.say(Some(Said::Payload(payload))).await;
        match self.hear().await? {
            Some(Answer::Challenge(challenge)) => Ok(serde_json::from_slice(&challenge).unwrap()),
            other => panic!("instead of a challenge: {other:?}"),
        }
    }

    /// Sends the challenge response, and hears how the attestation ends.
    pub(crate) async fn outcome(&mut self, response: Vec<u8>) -> Outcome {
        self.say(Some(Said::ChallengeResponse(response))).await;
        self.ends().await
    }

    pub(crate) async fn ends(&mut self) -> Outcome {
        self.attributes().await.map(|attributes| {
            assert!(attributes.can_reattest);
            attributes.spiffe_id
        })
    }

    pub(crate) async fn attributes(&mut self) -> Result<AgentAttributes, (Code, String)> {
        match self.hear().await? {
            Some(Answer::AgentAttributes(attributes)) => Ok(attributes),
            other => panic!("instead of an outcome: {other:?}"),
        }
    }

    async fn hear(&mut self) -> Result<Option<Answer>, (Code, String)> {
        let message = tokio::time::timeout(LIMIT, self.answers.message()).await.expect("the plugin answers");
        match message {
            Ok(message) => Ok(message.and_then(|message| message.response)),
            Err(status) => Err(refusal(&status)),
        }
    }
}

/// Code and text, without the attempt.
pub(crate) fn refusal(status: &Status) -> (Code, String) {
    let text = status.message();
    let Some((text, attempt)) = text.rsplit_once(" (attempt ") else { return (status.code(), text.to_owned()) };
    let digits = attempt.strip_suffix(')').unwrap();
    assert!(digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{status:?}");
    (status.code(), text.to_owned())
}

pub(crate) fn refused(code: Code, text: &str) -> Outcome {
    Err((code, text.to_owned()))
}

/// What a quote that proves nothing is answered with.
pub(crate) fn no_proof() -> Outcome {
    refused(Code::PermissionDenied, "the TPM quote was refused")
}

/// What bytes that are no message are answered with.
pub(crate) fn no_message() -> Outcome {
    refused(Code::InvalidArgument, "malformed attestation message")
}

pub(crate) fn spiffe_id(id: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/spire/agent/keylime/{id}")
}

/// A message with these members, each in base64.
pub(crate) fn message(members: &[(&str, &[u8])]) -> Vec<u8> {
    let members: serde_json::Map<_, _> =
        members.iter().map(|(name, value)| ((*name).to_owned(), json!(STANDARD.encode(value)))).collect();
    Value::Object(members).to_string().into_bytes()
}

/// The payload of version 1.
pub(crate) fn payload(id: &str, hash_alg: &str) -> Vec<u8> {
    message(&[("AgentID", id.as_bytes()), ("HashAlg", hash_alg.as_bytes())])
}

/// The challenge response of version 1.
pub(crate) fn response(quote: &str) -> Vec<u8> {
    message(&[("TPMQuote", quote.as_bytes())])
}

/// A member of a message, out of base64.
pub(crate) fn member(json: &Value, name: &str) -> Option<String> {
    let text = STANDARD.decode(json.get(name)?.as_str()?).unwrap();
    Some(String::from_utf8(text).unwrap())
}
