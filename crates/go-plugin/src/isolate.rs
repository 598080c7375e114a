// SPDX-License-Identifier: Apache-2.0
//! A panic while a call is handled ends that call, with an answer, and nothing else.
//!
//! Without this, the caller would see a reset stream, and a panic before a handler's first await would take the
//! whole connection along.

use std::{
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tower::Service;

/// What the caller is told; the panic's own text is in the log.
const TEXT: &str = "the handler failed";

/// Wraps a service so that its panics become gRPC status `Internal`.
#[derive(Clone, Debug)]
pub(crate) struct Isolate<S>(S);

impl<S> Isolate<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S> Service<http::Request<Body>> for Isolate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // Layers and interceptors of the application run within `call`.
        let call = catch_unwind(AssertUnwindSafe(|| self.0.call(request)));
        Call(call.ok().map(Box::pin))
    }
}

/// The answer to come; `None` once it panicked.
#[derive(Debug)]
pub(crate) struct Call<F>(Option<Pin<Box<F>>>);

impl<F> Future for Call<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>>,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match &mut self.0 {
            Some(future) => catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))).ok(),
            None => None,
        };
        match polled {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(Ok(response))) => Poll::Ready(Ok(response.map(|body| Body::new(Answer(Some(body)))))),
            None => {
                self.0 = None;
                Poll::Ready(Ok(Status::internal(TEXT).into_http()))
            }
        }
    }
}

/// The body of an answer; `None` once it panicked.
struct Answer(Option<Body>);

impl http_body::Body for Answer {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        match catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx))) {
            Ok(polled) => polled,
            Err(_) => {
                self.0 = None;
                Poll::Ready(Some(Ok(Frame::trailers(trailers()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}

/// Trailers that end a stream in the middle.
fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(Code::Internal as i32));
    trailers.insert("grpc-message", HeaderValue::from_static(TEXT));
    trailers
}
