//! The wire format: `AdmissionReview` of `admission.k8s.io/v1`, in and out.
//!
//! Only this module knows how a review is written. [`decode`] reads a request, [`answer`] writes a
//! response; between them are values of [`migration_gate_core`]. See [Dynamic Admission Control]
//! for the API server's side.
//!
//! `kube::core::admission` isn't used. Its response holds the patch as `Option<Vec<u8>>`, which is
//! written as an array of numbers rather than base64 (kube-core 5.0.0, admission.rs:295), a denial
//! carries no code, and every review would be copied into an owned object twice.
//!
//! [Dynamic Admission Control]:
//! https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#webhook-request-and-response

mod answer;
mod decode;
mod object;
mod warnings;

pub use answer::{Answer, ReviewError, answer};
pub use decode::{
    API_VERSION, AdmissionRequest, DecodeError, GroupVersionKind, KIND, ObjectResult, RequestWith,
    UserInfo, decode,
};
