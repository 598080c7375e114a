// SPDX-License-Identifier: Apache-2.0
//! Request bodies: JSON, bounded in size and time.
//!
//! axum's own `Json` wants a content type, which not every caller sends, has no limit of time, and leaves copies of the
//! keys in memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use hyper::body::{Body as _, Buf as _};
use serde::de::DeserializeOwned;
use tokio::sync::SemaphorePermit;
use zeroize::Zeroizing;

use super::Api;
use super::answer::Refusal;
use crate::agent::Agent;

/// Largest body: a payload of 1 MiB has 1.4 MiB in base64.
pub(crate) const MAX_BODY: usize = 2 << 20;
/// Bodies up to this size, such as the verifier's half of a key, wait for none that are larger.
const SMALL: usize = 16 << 10;
/// Longest time that a large body waits for others.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// Longest time for a body to arrive.
const MAX_TIME: Duration = Duration::from_secs(30);

/// The decoded body of a request.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        read(&api.agent, request.into_body()).await.map(Self)
    }
}

async fn read<T: DeserializeOwned>(agent: &Agent, mut body: Body) -> Result<T, Refusal> {
    let reading = async {
        let (bytes, _permit) = collect(agent, &mut body).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            // The error may repeat parts of the body, which belongs into the answer only.
            tracing::warn!("POST returning 400 response. The body is not the expected JSON");
            Refusal::bad_request(format!("Json deserialize error: {error}"))
        })
    };
    let too_slow = |_| {
        tracing::warn!("POST returning 408 response. The body did not arrive in time");
        Refusal::new(408, "The request body did not arrive in time")
    };
    tokio::time::timeout(MAX_TIME, reading).await.unwrap_or_else(|elapsed| Err(too_slow(elapsed)))
}

/// The whole body. What it takes of [`Agent::bodies`] goes with the permit.
async fn collect<'a>(
    agent: &'a Agent,
    body: &mut Body,
) -> Result<(Zeroizing<Vec<u8>>, Option<SemaphorePermit<'a>>), Refusal> {
    let too_large = || {
        tracing::warn!("POST returning 413 response. The body is larger than {MAX_BODY} bytes");
        Refusal::new(413, format!("The request body is larger than {MAX_BODY} bytes"))
    };
    let busy = || {
        tracing::warn!("POST returning 500 response. Too many large request bodies are being read");
        Refusal::failed("Too many large request bodies are being read")
    };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > MAX_BODY {
        return Err(too_large());
    }
    let mut permit = None;
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Refusal::bad_request("The request body broke off"))?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        let needed = bytes.len() + data.remaining();
        if needed > MAX_BODY {
            return Err(too_large());
        }
        if needed > bytes.capacity() {
            if needed > SMALL && permit.is_none() {
                let turn = tokio::time::timeout(MAX_WAIT, agent.bodies.acquire()).await;
                // Never closed.
                permit = turn.map_err(|_| busy())?.ok();
            }
            let room = if permit.is_some() { announced.max(needed).max(2 * bytes.capacity()) } else { SMALL };
            // A vector that grows by itself leaves parts of keys behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
        while data.has_remaining() {
            bytes.extend_from_slice(data.chunk());
            data.advance(data.chunk().len());
        }
    }
    Ok((bytes, permit))
}
