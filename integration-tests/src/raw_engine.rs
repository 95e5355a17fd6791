//! An engine below HTTP: it says what llama.cpp says of itself, and answers each POST with bytes that a test
//! chose, however wrong they are.

use crate::scripted_engine::said;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The most bytes of a request's head.
const HEAD_LIMIT: usize = 64 << 10;

/// One step of an answer, from its status line on.
#[derive(Debug, Clone)]
pub enum Act {
    /// These bytes.
    Send(Vec<u8>),
    /// These bytes as often as this.
    Repeat(Vec<u8>, usize),
    /// These bytes for ever, as fast as they are taken.
    Forever(Vec<u8>),
    /// These bytes one by one, each in a packet of its own, with this pause after each.
    Drip(Vec<u8>, Duration),
    /// Nothing more comes, and the connection stays.
    Hang,
    /// The connection is reset instead of closed.
    Reset,
}

/// What an engine does with a POST.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Whether it begins before it has read the request's body.
    pub early: bool,
    /// What it sends; then it closes.
    pub acts: Vec<Act>,
}

/// A running raw engine; it ends when dropped.
pub struct RawEngine {
    /// Where it answers.
    pub url: String,
    /// How many POSTs were given up by the other side before their plan was done.
    pub given_up: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl RawEngine {
    /// An engine that holds `model` and answers each POST by `plan`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(model: &str, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("just bound"));
        let (told, given_up) = watch::channel(0);
        let (model, plan, told) = (Arc::<str>::from(model), Arc::new(plan), Arc::new(told));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (model, plan, told) = (model.clone(), plan.clone(), told.clone());
                connections.spawn(async move {
                    // A connection that breaks is half of what this engine is for.
                    drop(connection(stream, &model, &plan, &told).await);
                });
            }
        });
        Self { url, given_up, _tasks: tasks }
    }
}

async fn connection(
    mut stream: TcpStream,
    model: &str,
    plan: &Plan,
    told: &watch::Sender<usize>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut seen = Vec::new();
    let end = loop {
        if let Some(end) = seen.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
        if seen.len() > HEAD_LIMIT || stream.read_buf(&mut seen).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    if head.starts_with("GET ") {
        let (status, kind, text) = said(model, 2, path);
        let length = text.len();
        let reply = format!(
            "HTTP/1.1 {status} x\r\nserver: llama.cpp\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
        );
        return stream.write_all(reply.as_bytes()).await;
    }
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
        })
        .unwrap_or(0);
    if !plan.early {
        while seen.len() < end + length && stream.read_buf(&mut seen).await? > 0 {}
    }
    let (mut from, mut to) = stream.split();
    let gone = async {
        let mut rest = [0; 4096];
        while let Ok(1..) = from.read(&mut rest).await {}
    };
    let played = tokio::select! {
        played = play(plan, &mut to) => played,
        () = gone => Err(io::ErrorKind::UnexpectedEof.into()),
    };
    if played.is_err() {
        told.send_modify(|count| *count += 1);
    }
    if plan.acts.iter().any(|act| matches!(act, Act::Reset)) {
        // Closing at once, with whatever was not sent yet thrown away, is a reset.
        stream.set_zero_linger()?;
    }
    played
}

async fn play(plan: &Plan, to: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    for act in &plan.acts {
        match act {
            Act::Send(bytes) => to.write_all(bytes).await?,
            Act::Repeat(bytes, times) => {
                for _ in 0..*times {
                    to.write_all(bytes).await?;
                }
            }
            Act::Forever(bytes) => loop {
                to.write_all(bytes).await?;
            },
            Act::Drip(bytes, pause) => {
                for byte in bytes {
                    to.write_all(&[*byte]).await?;
                    to.flush().await?;
                    if !pause.is_zero() {
                        tokio::time::sleep(*pause).await;
                    }
                }
            }
            Act::Hang => std::future::pending().await,
            // The close does it. On loopback what was sent before is with the other side when the write returns, and stays
            // readable there.
            Act::Reset => {}
        }
    }
    Ok(())
}
