//! Properties of any bytes on an HTTP/2 connection (RFC 9113).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use migration_gate::serve::connections::serve_http2;
use migration_gate::serve::limits::ClientLimits;
use migration_gate::serve::metrics::Metrics;
use migration_gate::serve::review::Reviewer;
use migration_gate::serve::routes::webhooks;
use migration_gate::serve::stop::Stop;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::review::limits;

/// The client's preface, and settings that keep the defaults.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Maximum size of the server's responses to a client that asks for little and leaves, in bytes.
const MOST: usize = 1 << 20;

/// How often the server's tasks may run before the client closes its side.
const TURNS: usize = 64;

struct FrameServer {
    runtime: Runtime,
    routes: Router,
    limits: Arc<ClientLimits>,
}

/// Checks the bytes of one connection, which follow the client's settings. The client closes its
/// side after them. Returns the server's bytes.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(bytes: &[u8]) -> Vec<u8> {
    static SERVED: LazyLock<FrameServer> = LazyLock::new(|| {
        let limits = Arc::new(limits());
        let reviewer = Reviewer::new(Arc::default(), Metrics::new(), Arc::clone(&limits));
        FrameServer {
            runtime: Builder::new_current_thread().enable_time().build().unwrap(),
            routes: webhooks(Arc::new(reviewer)),
            limits,
        }
    });
    let FrameServer {
        runtime,
        routes,
        limits,
    } = &*SERVED;
    let answered = runtime.block_on(async {
        let (client, server) = duplex(64 * 1024);
        let task = tokio::spawn(serve_http2(
            server,
            routes.clone(),
            Arc::clone(limits),
            Stop::default(),
        ));
        let (mut reader, mut writer) = split(client);
        let sends = async {
            // This fails if the server closes the connection early, which it may.
            let _ = writer.write_all(&[BEGINNING, bytes].concat()).await;
            // A response that is under way when the client leaves would be lost.
            for _ in 0..TURNS {
                yield_now().await;
            }
            let _ = writer.shutdown().await;
        };
        let mut answered = Vec::new();
        let takes = reader.read_to_end(&mut answered);
        let both = timeout(Duration::from_secs(20), async {
            tokio::join!(sends, takes)
        });
        both.await.expect("the connection ends").1.unwrap();
        timeout(Duration::from_secs(20), task)
            .await
            .expect("its task ends")
            .expect("and doesn't panic");
        answered
    });
    assert!(answered.len() < MOST, "{} bytes", answered.len());
    are_frames(&answered);
    answered
}

/// Checks that bytes are whole frames, none of which is larger than the client allows by default.
fn are_frames(mut bytes: &[u8]) {
    while let [a, b, c, _kind, _flags, _, _, _, _, rest @ ..] = bytes {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        assert!(length <= 16 * 1024, "a frame of {length} bytes");
        assert!(length <= rest.len(), "a frame is cut off");
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "a frame's head is cut off");
}
