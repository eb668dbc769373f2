//! The routes as one connection sees them: it is busy until a request's answer is taken.

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

/// Most fields of a request's head. In memory, each takes several times the bytes that it has on
/// the wire: with HPACK, one.
pub(super) const MOST_FIELDS: usize = 64;

/// The routes as one connection sees them.
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
        // HTTP/1's are counted as they are read.
        let answer = (request.headers().len() <= MOST_FIELDS).then(|| self.routes.call(request));
        Box::pin(async move {
            let mut response = match answer {
                Some(answer) => answer.await?,
                None => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into_response(),
            };
            // A client that reuses connections would stay with this replica for as long as it has
            // one. HTTP/2 has GOAWAY for that.
            if version < Version::HTTP_2 && stop.is_stopping() {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| activity.answer(body, busy)))
        })
    }
}
