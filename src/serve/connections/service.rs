//! The routes as one connection sees them: it is busy while a request is answered.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Version};
use hyper_util::service::TowerToHyperService;

use super::registry::{Activity, Busy};
use crate::serve::stop::Stop;

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
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = Busy::new(&self.activity);
        let stop = self.stop.clone();
        let version = request.version();
        let answer = self.routes.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            // A client that reuses connections would stay with this replica for as long as it has
            // one. HTTP/2 has GOAWAY for that.
            if version < Version::HTTP_2 && stop.is_stopping() {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            drop(busy);
            Ok(response)
        })
    }
}
