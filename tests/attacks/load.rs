//! Load turns into waiting: reviews beyond the memory bound are answered in their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::support::{PATIENCE, pod_review, post, read};
use crate::{MOST_MEMORY, Siege, large, released};

/// The API server's default timeout of a webhook call. Longer for a program that is not optimized,
/// which may run on a busy machine.
fn deadline() -> Duration {
    if released().is_some() {
        Duration::from_secs(10)
    } else {
        4 * PATIENCE
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_128_reviews_of_1_mb_is_answered_and_small_ones_go_before_them() {
    let siege = Siege::begin().await;
    let body = hyper::body::Bytes::from(large(1_000_000));
    let answered = Arc::new(AtomicUsize::new(0));
    let since = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let client = siege.http2(1 << 20).await.unwrap();
        for _ in 0..16 {
            let (mut client, body) = (client.clone(), body.clone());
            let answered = Arc::clone(&answered);
            calls.spawn(async move {
                let call = async {
                    client.ready().await.unwrap();
                    read(client.send_request(post(body)).await.unwrap()).await
                };
                let (status, answer) = timeout(deadline(), call).await.expect("no answer in time");
                answered.fetch_add(1, Ordering::Relaxed);
                (status, answer["response"]["allowed"].clone())
            });
        }
    }
    let mut client = siege.http2(1 << 20).await.unwrap();
    let response = client
        .send_request(post(pod_review("small")))
        .await
        .unwrap();
    assert_eq!(read(response).await.0, StatusCode::OK);
    let before = answered.load(Ordering::Relaxed);
    assert!(before < 128, "the small one came last");
    let answers = calls.join_all().await;
    println!(
        "burst: 128 answered in {:.1?}, the small one after {before}, peak {} MiB",
        since.elapsed(),
        siege.peak() >> 10
    );
    assert_eq!(answers.len(), 128);
    for (status, allowed) in answers {
        assert_eq!((status, allowed), (StatusCode::OK, true.into()));
    }
    assert!(siege.peak() < MOST_MEMORY, "{} KiB", siege.peak());
}
