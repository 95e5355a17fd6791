//! A file on an HTTP(S) server.
//!
//! Redirects are followed here and not by the client, so that each target is checked and that a hub's first
//! answer, which names the file's digest, is seen. Servers in the local network are as good as others: home
//! meshes have mirrors. Only an operator may wish for a URL.

use super::source::{Opened, Source, SourceError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use mesh_core::machine::Digest;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use std::error::Error;
use std::time::Duration;

/// A hub redirects twice: to the file's real name and to the server that has it.
const REDIRECTS: usize = 5;

/// Slow home lines and far hubs answer within this.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A server that sends nothing for so long has lost us.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// No server's wish to be left alone counts for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The longest validator or content type that is kept.
const TEXT_LIMIT: usize = 256;

/// The digest of a large file, in the first answer of hubs that keep such files apart.
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");

/// Why a URL cannot be a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlError {
    #[error("that is no URL: {0}")]
    Bad(String),
    #[error("`{0}` is no way to fetch a model; http and https are")]
    Scheme(String),
    #[error("the URL names no host")]
    NoHost,
}

/// One file of one server.
pub(super) struct HttpSource {
    url: Url,
    client: Result<Client, String>,
}

impl HttpSource {
    pub(super) fn new(url: &str) -> Result<Self, UrlError> {
        let url = checked(Url::parse(url).map_err(|error| UrlError::Bad(error.to_string()))?)?;
        Ok(Self { client: client(&url), url })
    }

    async fn ask(&self, offset: u64, validator: Option<&str>) -> Result<Opened, SourceError> {
        let (mut url, mut digest) = (self.url.clone(), None);
        for _ in 0..=REDIRECTS {
            let response = self.send(&url, offset, validator).await?;
            digest = digest.or_else(|| linked_digest(response.headers()));
            if !response.status().is_redirection() {
                return answer(response, offset, digest);
            }
            let next = text(response.headers(), &LOCATION, 8 * 1024)
                .ok_or_else(|| never("the server redirects to nowhere"))?;
            url = redirected(&url, &next)?;
        }
        Err(never(format!("the server redirects more than {REDIRECTS} times")))
    }

    async fn send(&self, url: &Url, offset: u64, validator: Option<&str>) -> Result<Response, SourceError> {
        // A redirect may lead from http to https, which wants the system's certificates.
        let other;
        let client = if needs(url) == needs(&self.url) {
            &self.client
        } else {
            other = client(url);
            &other
        };
        let client = client.as_ref().map_err(never)?;
        let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
            if let Some(validator) = validator {
                request = request.header(IF_RANGE, validator);
            }
        }
        request.send().await.map_err(broke)
    }
}

impl Source for HttpSource {
    fn open(&mut self, offset: u64, validator: Option<String>) -> BoxFuture<'_, Result<Opened, SourceError>> {
        Box::pin(async move { self.ask(offset, validator.as_deref()).await })
    }

    fn label(&self) -> String {
        host(&self.url)
    }
}

/// What may be shown of a URL that was wished for.
pub(super) fn shown_host(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "no URL".into(), |url| host(&url))
}

/// Host and port: what may be shown. Path and query may hold a token.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn checked(url: Url) -> Result<Url, UrlError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::Scheme(url.scheme().into()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(UrlError::NoHost);
    }
    Ok(url)
}

/// (certificates, the environment's proxy)
fn needs(url: &Url) -> (bool, bool) {
    let here = match url.host_str().unwrap_or_default() {
        "localhost" | "[::1]" => true,
        other => other.starts_with("127."),
    };
    (url.scheme() == "https", !here)
}

/// Where `location` leads from `url`: to a web server, and never away from TLS.
fn redirected(url: &Url, location: &str) -> Result<Url, SourceError> {
    let next =
        url.join(location).map_err(|error| never(format!("the server redirects to no URL: {error}")))?;
    let next = checked(next).map_err(|error| never(format!("the server redirects: {error}")))?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(never("the server redirects from https to plain http"));
    }
    Ok(next)
}

fn client(url: &Url) -> Result<Client, String> {
    // Already set is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let (certificates, proxy) = needs(url);
    let mut client = Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(SILENCE_LIMIT)
        .user_agent(concat!("modemesh-agent/", env!("CARGO_PKG_VERSION")))
        .pool_max_idle_per_host(0);
    if !certificates {
        // A machine without any certificate can still use a mirror in plain HTTP.
        client = client.tls_certs_only([]);
    }
    if !proxy {
        client = client.no_proxy();
    }
    client.build().map_err(|error| format!("cannot make an HTTP client: {}", innermost(&error)))
}

fn answer(response: Response, offset: u64, digest: Option<Digest>) -> Result<Opened, SourceError> {
    let (status, headers) = (response.status(), response.headers());
    let wait = text(headers, &RETRY_AFTER, 16).and_then(|seconds| seconds.parse().ok());
    let wait = wait.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
    let (start, total) = match status {
        StatusCode::OK => (0, number(headers, &CONTENT_LENGTH)),
        StatusCode::PARTIAL_CONTENT => content_range(headers)
            .filter(|(start, _)| *start == offset)
            .ok_or_else(|| never("the server sends another part than was asked for"))?,
        // What we have is longer than the server's file: it has changed.
        StatusCode::RANGE_NOT_SATISFIABLE => return Err(SourceError::Changed),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(never(format!("the server refuses ({status}): does the file need an account?")));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE if wait.is_some() => {
            return Err(SourceError::Busy { why: format!("the server says {status}"), wait });
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            return Err(SourceError::Broke(format!("the server says {status}")));
        }
        status if status.is_server_error() => {
            return Err(SourceError::Broke(format!("the server says {status}")));
        }
        status => return Err(never(format!("the server says {status}"))),
    };
    if let Some(encoding) = text(headers, &CONTENT_ENCODING, 64).filter(|word| word != "identity") {
        return Err(never(format!("the server sends the file as `{encoding}`, though asked not to")));
    }
    // A weak validator does not promise the same bytes.
    let strong = text(headers, &ETAG, TEXT_LIMIT).filter(|tag| !tag.starts_with("W/"));
    let validator = strong.or_else(|| text(headers, &LAST_MODIFIED, TEXT_LIMIT));
    let content_type = text(headers, &CONTENT_TYPE, TEXT_LIMIT);
    let body = response.bytes_stream().map(|chunk| chunk.map_err(broke)).boxed();
    Ok(Opened { start, total, validator, digest, content_type, body })
}

/// `bytes 100-199/200`: (100, Some(200)).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let said = text(headers, &CONTENT_RANGE, TEXT_LIMIT)?;
    let (range, total) = said.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

fn linked_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::new(text(headers, &LINKED_ETAG, TEXT_LIMIT)?.trim_matches('"')).ok()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    text(headers, name, 32)?.parse().ok()
}

fn text(headers: &HeaderMap, name: &HeaderName, limit: usize) -> Option<String> {
    headers.get(name)?.to_str().ok().filter(|text| text.len() <= limit).map(str::to_owned)
}

fn never(why: impl ToString) -> SourceError {
    SourceError::Never(why.to_string())
}

/// The client's own message holds the URL, and that may hold a token.
fn broke(error: reqwest::Error) -> SourceError {
    let error = error.without_url();
    let inner = innermost(&error);
    if is_forbidden(&error) {
        // As systemd's IPAddressDeny= answers.
        return never(format!(
            "this machine does not let the agent connect there ({inner}): the drop-in downloads.conf allows it, see \
             deploy/README.md"
        ));
    }
    let what = if error.is_timeout() {
        "the server has gone silent".to_owned()
    } else if error.is_connect() {
        format!("cannot reach the server: {inner}")
    } else {
        format!("the connection broke: {inner}")
    };
    SourceError::Broke(what)
}

fn is_forbidden(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if kind == Some(std::io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_by_this_machine_is_seen_below_any_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("connecting")]
        struct Connecting(#[source] std::io::Error);
        for (kind, forbidden) in
            [(std::io::ErrorKind::PermissionDenied, true), (std::io::ErrorKind::ConnectionRefused, false)]
        {
            assert_eq!(is_forbidden(&Connecting(kind.into())), forbidden);
        }
    }

    #[test]
    fn a_redirect_leads_to_a_web_server_and_never_away_from_tls() {
        let hop = |from: &str, location: &str| redirected(&Url::parse(from).expect("a URL"), location);
        let next = hop("https://a.example/x", "/y").expect("the same server");
        assert_eq!(next.as_str(), "https://a.example/y");
        assert!(hop("http://a.example/x", "https://b.example/y").is_ok());
        for (from, location) in [
            ("https://a.example/x", "http://a.example/x"),
            ("https://a.example/x", "http://b.example/y"),
            ("http://a.example/x", "file:///etc/passwd"),
            ("http://a.example/x", "http://"),
        ] {
            assert!(hop(from, location).is_err(), "{from} to {location}");
        }
    }

    #[test]
    fn only_http_and_https_with_a_host_are_sources() {
        for url in [
            "file:///etc/passwd",
            "ftp://h/x",
            "data:,x",
            "javascript:x",
            "unix:/x",
            "/etc/passwd",
            "h/x",
            "",
            "http://",
            "gopher://h",
            "https:///x?",
            "blob:http://h/x",
        ] {
            // `https:///x` is read as the host `x`, as browsers do.
            let refused = HttpSource::new(url);
            assert!(refused.is_err() || url.starts_with("https:///"), "{url}");
        }
        assert!(HttpSource::new("http://192.168.1.5:8000/x.gguf").is_ok());
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        let source =
            HttpSource::new("http://me:word@mirror.lan:8000/secret/x.gguf?token=abc").expect("a URL");
        assert_eq!(source.label(), "mirror.lan:8000");
    }
}
