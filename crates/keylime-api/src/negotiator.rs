// SPDX-License-Identifier: Apache-2.0
//! The API version of a peer: asked for once, and anew when the peer has changed

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crate::client::ClientError;
use crate::http::{Answer, Http, Target};
use crate::members::{BodyError, Members};
use crate::version::{ApiVersion, list, negotiate};

/// The API version of a peer, asked for once and kept for the client's life.
#[derive(Debug)]
pub(crate) struct Negotiator {
    enabled: Vec<ApiVersion>,
    /// Major and minor in one number; 0 is none yet.
    known: AtomicU16,
    /// Held while asking, so that many first calls ask once; how the last ask ended.
    asking: tokio::sync::Mutex<Option<Result<ApiVersion, ClientError>>>,
    /// Number of asks that ended.
    asked: AtomicU64,
}

impl Negotiator {
    pub(crate) fn new(enabled: Vec<ApiVersion>) -> Self {
        Self { enabled, known: AtomicU16::new(0), asking: tokio::sync::Mutex::new(None), asked: AtomicU64::new(0) }
    }

    pub(crate) fn enabled(&self) -> &[ApiVersion] {
        &self.enabled
    }

    pub(crate) fn known(&self) -> Option<ApiVersion> {
        let [major, minor] = self.known.load(Ordering::Relaxed).to_be_bytes();
        (major != 0).then_some(ApiVersion::new(major, minor))
    }

    pub(crate) fn remember(&self, version: ApiVersion) {
        let number = u16::from_be_bytes([version.major, version.minor]);
        self.known.store(number, Ordering::Relaxed);
    }

    /// Makes the next call ask anew.
    pub(crate) fn forget(&self) {
        self.known.store(0, Ordering::Relaxed);
    }

    /// The version to use, asked for if it is not known.
    pub(crate) async fn version(&self, http: &Http) -> Result<ApiVersion, ClientError> {
        self.agreed(http, None).await
    }

    /// The known version unless it is the `refused` one, else what an ask gives. A call that waits
    /// while another one asks takes over how that ends, also badly: else each of many calls to a
    /// peer that is down would wait for all before it.
    async fn agreed(&self, http: &Http, refused: Option<ApiVersion>) -> Result<ApiVersion, ClientError> {
        let usable = || self.known().filter(|version| Some(*version) != refused);
        if let Some(version) = usable() {
            return Ok(version);
        }
        let before = self.asked.load(Ordering::Relaxed);
        let mut last = self.asking.lock().await;
        if let Some(version) = usable() {
            return Ok(version);
        }
        if self.asked.load(Ordering::Relaxed) != before
            && let Some(outcome) = &*last
        {
            return outcome.clone();
        }
        let outcome = self.ask(http).await;
        *last = Some(outcome.clone());
        self.asked.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    async fn ask(&self, http: &Http) -> Result<ApiVersion, ClientError> {
        let target = Target::from("/version".to_owned());
        let answer = http.get(&target).await.map_err(|e| match e {
            ClientError::Status { peer, code: 410, .. } => ClientError::PushModel { peer },
            // Callers take "not found" for the answer to what they asked for.
            ClientError::NotFound { peer, call, text } => {
                ClientError::Status { peer, call, code: 404, text, retry_after: None }
            }
            other => other,
        })?;
        let offered = http.decode(|| "GET /version".to_owned(), &answer, offered_versions)?;
        let version = negotiate(&self.enabled, &offered).ok_or_else(|| ClientError::NoCommonVersion {
            peer: http.peer().to_owned(),
            theirs: list(&offered),
            ours: list(&self.enabled),
        })?;
        tracing::debug!(peer = http.peer(), %version, "negotiated the Keylime API version");
        self.remember(version);
        Ok(version)
    }

    /// GET of a path that depends on the version. If the peer says that it does not have the
    /// version (it was up- or downgraded), the version is negotiated once more.
    pub(crate) async fn get(&self, http: &Http, target: impl Fn(ApiVersion) -> Target) -> Result<Answer, ClientError> {
        let version = self.version(http).await?;
        match http.get(&target(version)).await {
            Err(error) if error.is_about_version() => match self.agreed(http, Some(version)).await? {
                same if same == version => Err(error),
                other => http.get(&target(other)).await,
            },
            result => result,
        }
    }
}

/// What `GET /version` lists; entries that are no version are passed over. Old agents give only
/// the one they prefer.
fn offered_versions(members: &Members) -> Result<Vec<ApiVersion>, BodyError> {
    if let Some(texts) = members.texts("supported_versions")? {
        return Ok(texts.iter().filter_map(|text| text.parse().ok()).collect());
    }
    let single = match members.parsed("supported_version")? {
        Some(version) => Some(version),
        None => members.parsed("current_version")?,
    };
    single.map(|version| vec![version]).ok_or(BodyError::Missing { member: "supported_versions" })
}

#[cfg(test)]
mod tests;
