// SPDX-License-Identifier: Apache-2.0
//! The API version of a peer: asked for once, and anew when the peer has changed

use std::sync::atomic::{AtomicU16, Ordering};

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
    /// Held while asking, so that many first calls ask once.
    asking: tokio::sync::Mutex<()>,
}

impl Negotiator {
    pub(crate) fn new(enabled: Vec<ApiVersion>) -> Self {
        Self { enabled, known: AtomicU16::new(0), asking: tokio::sync::Mutex::new(()) }
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
        if let Some(version) = self.known() {
            return Ok(version);
        }
        let _asking = self.asking.lock().await;
        match self.known() {
            Some(version) => Ok(version),
            None => self.ask(http).await,
        }
    }

    /// Asks anew, unless another call just did so and `refused` is no longer the version in use.
    async fn renew(&self, http: &Http, refused: ApiVersion) -> Result<ApiVersion, ClientError> {
        let _asking = self.asking.lock().await;
        match self.known() {
            Some(version) if version != refused => Ok(version),
            _ => self.ask(http).await,
        }
    }

    async fn ask(&self, http: &Http) -> Result<ApiVersion, ClientError> {
        let target = Target::from("/version".to_owned());
        let answer = http.get(&target).await.map_err(|e| match e {
            ClientError::Status { peer, code: 410, .. } => ClientError::PushModel { peer },
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
            Err(error) if error.is_about_version() => match self.renew(http, version).await? {
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
