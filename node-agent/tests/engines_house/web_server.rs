//! A web server with set answers: a stand-in for engines that no registry carries, built from what they document.

use crate::house::PATIENCE;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A page that never comes, not even its status.
pub(crate) const HANGS: &str = "hangs";
/// A page whose status and headers come and whose body never does.
pub(crate) const HANGS_AFTER_HEADERS: &str = "hangs after headers";
/// What a page begins with that takes [`SLOWLY`] to come.
const SLOW: &str = "slow ";
/// How long such a page takes.
pub(crate) const SLOWLY: Duration = Duration::from_millis(400);
/// A page that never ends.
pub(crate) const ENDLESS: &str = "endless";
/// What a page of status 503 begins with.
const LOADING: &str = "503 ";
/// What a page of status 401 begins with.
pub(crate) const LOCKED: &str = "401 ";

/// The same answer to everything that is not in `pages`.
pub(crate) struct WebServer {
    address: SocketAddr,
    calls: watch::Sender<Vec<(Instant, String)>>,
    task: JoinHandle<()>,
}

impl WebServer {
    pub(crate) async fn start(header: &'static str, pages: &'static [(&'static str, &'static str)]) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), header, pages)
    }

    pub(crate) fn start_on(
        listener: TcpListener,
        header: &'static str,
        pages: &'static [(&'static str, &'static str)],
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let calls = watch::Sender::default();
        let noted = calls.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let noted: watch::Sender<Vec<(Instant, String)>> = noted.clone();
                tokio::spawn(async move {
                    let mut bytes = vec![0; 4096];
                    let read = stream.read(&mut bytes).await.unwrap_or(0);
                    let head = String::from_utf8_lossy(&bytes[..read]).into_owned();
                    let mut words = head.split_whitespace();
                    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                    noted.send_modify(|calls| calls.push((Instant::now(), format!("{method} {path}"))));
                    // As a server that does not know the query's words.
                    let plain = path.split('?').next().unwrap_or_default();
                    let page =
                        pages.iter().find(|(at, _)| *at == plain).map_or("<html>hello</html>", |p| p.1);
                    drop(answer(&mut stream, header, page).await);
                });
            }
        });
        Self { address, calls, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every call so far as `METHOD path`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.borrow().iter().map(|(_, call)| call.clone()).collect()
    }

    /// When it got each `call`, once there are as many as `wanted`.
    pub(crate) async fn times(&self, call: &str, wanted: usize) -> Vec<Instant> {
        let of = |calls: &Vec<(Instant, String)>| -> Vec<Instant> {
            calls.iter().filter(|(_, one)| one == call).map(|(at, _)| *at).collect()
        };
        let mut calls = self.calls.subscribe();
        let enough = calls.wait_for(|calls| of(calls).len() >= wanted);
        of(&tokio::time::timeout(PATIENCE, enough).await.expect("in time").expect("the server lives"))
    }
}

async fn answer(stream: &mut tokio::net::TcpStream, header: &str, page: &str) -> std::io::Result<()> {
    match page {
        HANGS => std::future::pending().await,
        HANGS_AFTER_HEADERS => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await?;
            std::future::pending().await
        }
        ENDLESS => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"data\":[\"").await?;
            loop {
                stream.write_all(&[b'x'; 64 << 10]).await?;
            }
        }
        _ => {}
    }
    if page.starts_with(SLOW) {
        tokio::time::sleep(SLOWLY).await;
    }
    let page = page.strip_prefix(SLOW).unwrap_or(page);
    let (status, page) = match (page.strip_prefix(LOADING), page.strip_prefix(LOCKED)) {
        (Some(page), _) => ("503 Service Unavailable", page),
        (_, Some(page)) => ("401 Unauthorized", page),
        (None, None) => ("200 OK", page),
    };
    let length = page.len();
    let reply =
        format!("HTTP/1.1 {status}\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n{page}");
    stream.write_all(reply.as_bytes()).await
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
