//! A little HTTP/1.1 server that does what a test says, byte by byte: also what no good server does.

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A request as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// From 0.
    pub number: usize,
    pub path: String,
    /// The first byte that is wanted.
    pub range: Option<usize>,
    pub if_range: Option<String>,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub status: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection is cut after this many bytes of the body.
    pub cut_after: Option<usize>,
    /// The body is sent again and again.
    pub endless: bool,
    /// After this many bytes the rest waits for the gate.
    pub gate_at: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let headers = vec![("content-length", body.len().to_string())];
        Self { status, headers, body, cut_after: None, endless: false, gate_at: None }
    }

    /// What a good server sends of `file`.
    pub(crate) fn file(file: &[u8], etag: Option<&str>, asked: &Asked) -> Self {
        let same = asked.if_range.as_deref().is_none_or(|known| Some(known) == etag);
        let mut reply = match asked.range.filter(|_| same) {
            Some(from) if from >= file.len() => Self::new("416 Range Not Satisfiable", "")
                .with("content-range", format!("bytes */{}", file.len())),
            Some(from) => Self::new("206 Partial Content", &file[from..])
                .with("content-range", format!("bytes {from}-{}/{}", file.len() - 1, file.len())),
            None => Self::new("200 OK", file),
        };
        if let Some(etag) = etag {
            reply = reply.with("etag", etag);
        }
        reply
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    pub(crate) fn gate_at(mut self, bytes: usize) -> Self {
        self.gate_at = Some(bytes);
        self
    }
}

pub(crate) struct Server {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    gate: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("just bound"));
        let (asked, script): (Arc<Mutex<Vec<Asked>>>, _) = (Arc::default(), Arc::new(script));
        let (gate, open) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let log = asked.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (log, script, open) = (log.clone(), script.clone(), open.clone());
                connections.spawn(async move {
                    // The client may leave whenever it likes.
                    let _ = serve(stream, &log, script.as_ref(), open).await;
                });
            }
        });
        Self { url, asked, gate, _tasks: tasks }
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }

    /// Lets everything pass that waits, from now on.
    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }
}

async fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    script: &(impl Fn(&Asked) -> Reply + Send + Sync),
    mut open: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let asked = {
        let mut log = log.lock().expect("no panic");
        let asked = Asked {
            number: log.len(),
            path: text.split(' ').nth(1).unwrap_or_default().to_owned(),
            range: header("range")
                .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()),
            if_range: header("if-range"),
        };
        log.push(asked.clone());
        asked
    };
    let reply = script(&asked);
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    let body = &reply.body[..reply.cut_after.unwrap_or(reply.body.len()).min(reply.body.len())];
    let gate = reply.gate_at.unwrap_or(body.len()).min(body.len());
    stream.write_all(&body[..gate]).await?;
    if reply.gate_at.is_some() {
        drop(open.wait_for(|open| *open).await);
    }
    stream.write_all(&body[gate..]).await?;
    while reply.endless {
        stream.write_all(&reply.body).await?;
    }
    stream.shutdown().await
}
