//! The report as JSON.

use serde_json::{Value, json};

use super::found::StatusReport;
use crate::api::client::ClusterAccess;

/// The version of the document. It is raised if a field goes away or changes its meaning.
const VERSION: u32 = 1;

/// The whole report. `docs/status.md` describes its fields.
pub(super) fn value(report: &StatusReport, cluster: &ClusterAccess) -> Value {
    let mut whole = json!({
        "version": VERSION,
        "context": cluster.context,
        "server": cluster.server,
        "time": report.at,
        "wrong": report.overview.is_wrong(),
    });
    let overview = serde_json::to_value(&report.overview).unwrap_or_default();
    if let (Value::Object(whole), Value::Object(overview)) = (&mut whole, overview) {
        whole.extend(overview);
    }
    let unread = report.unread.iter();
    whole["unread"] = unread
        .map(|unread| json!({"what": unread.what, "why": unread.why}))
        .collect();
    whole
}
