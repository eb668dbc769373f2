//! The routes for one connection, which counts as busy until the client has taken the response.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Version};
use hyper_util::service::TowerToHyperService;

use super::answers::AnswerBody;
use super::registry::{Activity, Busy};
use crate::serve::stop::Stop;

/// Maximum number of header fields in a request. Each takes far more memory than bytes on the wire,
/// where HPACK can encode it in one byte.
pub(super) const MOST_FIELDS: usize = 64;

/// The routes for one connection.
#[derive(Clone)]
pub(super) struct TrackedService {
    routes: TowerToHyperService<Router>,
    activity: Arc<Activity>,
    stop: Stop,
}

impl TrackedService {
    pub(super) fn new(routes: Router, activity: Arc<Activity>, stop: Stop) -> Self {
        Self {
            routes: TowerToHyperService::new(routes),
            activity,
            stop,
        }
    }
}

impl Service<Request<Incoming>> for TrackedService {
    type Response = Response<AnswerBody<Busy>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let activity = Arc::clone(&self.activity);
        let busy = Busy::new(&activity);
        let stop = self.stop.clone();
        let version = request.version();
        // With HTTP/1, hyper enforces this limit as it reads the headers.
        let answer = (request.headers().len() <= MOST_FIELDS).then(|| self.routes.call(request));
        Box::pin(async move {
            let mut response = match answer {
                Some(answer) => answer.await?,
                None => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into_response(),
            };
            // Without this, a client that reuses its connection would stay with this replica.
            // HTTP/2 has GOAWAY instead.
            if version < Version::HTTP_2 && stop.is_stopping() {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| activity.answer(body, busy)))
        })
    }
}
