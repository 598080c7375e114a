// SPDX-License-Identifier: Apache-2.0
//! Relays one attestation between an agent's plugin and a server's plugin.

use std::time::Duration;

use spire_proto::{
    agent_nodeattestor::{
        Challenge, PayloadOrChallengeResponse, node_attestor_client::NodeAttestorClient as AgentClient,
        payload_or_challenge_response::Data,
    },
    server_nodeattestor::{
        AttestRequest, AttestResponse, attest_request::Request as ToServer, attest_response::Response as FromServer,
        node_attestor_client::NodeAttestorClient as ServerClient,
    },
};
use tokio::time::Instant;
use tonic::{Code, Status, transport::Channel};

use super::{
    AgentAttributes, AttestError, Side,
    call::{Call, Opening},
    code, prefixed,
};
use crate::TrustDomain;

/// One attestation, under way.
pub(super) struct Relay<'a> {
    /// The plugins' configured name, which is their attestation type.
    pub(super) name: &'a str,
    /// The server's trust domain.
    pub(super) trust_domain: &'a TrustDomain,
    /// Longest time for the whole attestation. SPIRE itself has none.
    pub(super) limit: Duration,
}

impl Relay<'_> {
    /// Runs the attestation as SPIRE agent and SPIRE server do between them.
    ///
    /// Both calls are cancelled when it is over, whatever its outcome.
    pub(super) async fn attest(&self, agent: Channel, server: Channel) -> Result<AgentAttributes, AttestError> {
        let deadline = Instant::now() + self.limit;
        let at_agent = |status| self.failed(Side::Agent, status);
        let at_server = |status| self.failed(Side::Server, status);

        // SPIRE agent opens the stream and sends nothing: the plugin starts.
        let (opening, channel, request) = Opening::new(agent, None);
        let responses = self.within(deadline, AgentClient::new(channel).aid_attestation(request)).await;
        let mut agent: Call<Challenge, PayloadOrChallengeResponse> =
            opening.opened(responses.map_err(at_agent)?.into_inner());
        let payload = match self.within(deadline, agent.receive()).await.map_err(at_agent)? {
            None => return Err(self.misbehaved(Side::Agent, "plugin closed stream before returning attestation data")),
            Some(PayloadOrChallengeResponse { data: Some(Data::Payload(payload)) }) if !payload.is_empty() => payload,
            Some(_) => return Err(self.misbehaved(Side::Agent, "plugin response missing attestation payload")),
        };
        tracing::debug!(bytes = payload.len(), "attestation payload from the agent plugin");

        let first = AttestRequest { request: Some(ToServer::Payload(payload)) };
        let (opening, channel, request) = Opening::new(server, Some(first));
        let responses = self.within(deadline, ServerClient::new(channel).attest(request)).await;
        let mut server: Call<AttestRequest, AttestResponse> =
            opening.opened(responses.map_err(at_server)?.into_inner());
        loop {
            let response = self.within(deadline, server.receive()).await.map_err(at_server)?;
            let challenge = match response.map(|response| response.response) {
                None => return Err(self.misbehaved(Side::Server, "plugin closed stream unexpectedly")),
                Some(None) => {
                    let text = "plugin response missing challenge or agent attributes";
                    return Err(self.misbehaved(Side::Server, text));
                }
                Some(Some(FromServer::AgentAttributes(attributes))) => {
                    return AgentAttributes::check(self.name, self.trust_domain, attributes)
                        .map_err(|status| AttestError::new(Side::Server, &status));
                }
                Some(Some(FromServer::Challenge(challenge))) => challenge,
            };
            tracing::debug!(bytes = challenge.len(), "challenge from the server plugin");

            self.within(deadline, agent.send(Challenge { challenge })).await.map_err(at_agent)?;
            let answer = match self.within(deadline, agent.receive()).await.map_err(at_agent)? {
                None => return Err(self.misbehaved(Side::Agent, "plugin closed stream before handling the challenge")),
                Some(PayloadOrChallengeResponse { data: Some(Data::ChallengeResponse(answer)) })
                    if !answer.is_empty() =>
                {
                    answer
                }
                Some(_) => return Err(self.misbehaved(Side::Agent, "plugin response missing challenge response")),
            };
            tracing::debug!(bytes = answer.len(), "challenge response from the agent plugin");
            let request = AttestRequest { request: Some(ToServer::ChallengeResponse(answer)) };
            self.within(deadline, server.send(request)).await.map_err(at_server)?;
        }
    }

    async fn within<T>(&self, deadline: Instant, step: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        match tokio::time::timeout_at(deadline, step).await {
            Ok(result) => result,
            Err(_) => Err(Status::new(
                Code::DeadlineExceeded,
                format!("the plugin has not answered; the whole attestation may take {:?}", self.limit),
            )),
        }
    }

    /// The plugin's own error, with SPIRE's prefix.
    fn failed(&self, side: Side, status: Status) -> AttestError {
        AttestError { side, code: code(&status), text: prefixed(self.name, status.message()) }
    }

    /// The plugin breaks the contract.
    fn misbehaved(&self, side: Side, text: &str) -> AttestError {
        AttestError { side, code: Code::Internal, text: prefixed(self.name, text) }
    }
}
