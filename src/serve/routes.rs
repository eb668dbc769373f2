//! The routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};

use super::metrics::{self, Metrics};
use super::ready::Readiness;
use super::review::Reviewer;
use super::webhook::Webhook;

/// `/mutate` and `/validate`.
pub fn webhooks(reviewer: Arc<Reviewer>) -> Router {
    let route = |webhook| {
        post(
            move |State(reviewer): State<Arc<Reviewer>>, request: Request| {
                reviewer.serve(webhook, request)
            },
        )
    };
    Router::new()
        .route("/mutate", route(Webhook::MUTATE))
        .route("/validate", route(Webhook::VALIDATE))
        .with_state(reviewer)
}

/// `/livez`, `/readyz` and `/metrics`.
pub fn health(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route(
            "/readyz",
            get(async move || match readiness.check() {
                Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                Err(cause) => (StatusCode::SERVICE_UNAVAILABLE, format!("{cause}\n")),
            }),
        )
        .route(
            "/metrics",
            get(async move || match metrics.encode() {
                Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }),
        )
}
