//! `meshctl ask`: one question through the front door, as any client would ask it.

mod answer;
mod question;
mod trial;

pub(super) use trial::run as trial;

use crate::address;
use crate::cli::AskArgs;
use crate::command::status::fetch;
use crate::connect::{Answered, Way, system_words};
use crate::exit::{Failure, Kind, chain};
use crate::output::Screen;
use crate::render;
use crate::sse::Events;
use answer::{Answer, Piece};
use futures_util::StreamExt;
use mesh_core::units::human_duration;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use std::time::Duration;
use tokio::time::Instant;

/// How long the whole answer may take when `--timeout` says nothing.
const USUAL_LIMIT: Duration = Duration::from_secs(600);
/// Finding a closed port takes no longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// An error body is a sentence or two.
const LONGEST_COMPLAINT: usize = 64 << 10;

/// What of an answer is shown while it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Nothing.
    Nothing,
    /// Its text.
    Answer,
    /// Its text, and what the model thinks.
    Thinking,
}

/// Which door, and with what right.
struct Door<'a> {
    key: Option<&'a str>,
    url: Option<&'a str>,
}

/// # Errors
/// `Refused` without a good key, `NotFound` for an unknown mode or model, `Failed` when the answer breaks.
pub(super) async fn run(args: AskArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let prompt = question::prompt(&args.prompt).await?;
    let door = Door { key: args.key.as_deref(), url: args.url.as_deref() };
    let asked = args.model.as_ref().map_or_else(|| question::mode_model(&args.mode), ToString::to_string);
    let body = question::body(&asked, args.system.as_deref(), &prompt, args.max_tokens);
    let shown = if args.thinking { Shown::Thinking } else { Shown::Answer };
    let answer = answered(&asked, &body, door, shown, way, screen).await?;
    if screen.is_json() {
        screen.result(&render::json("mesh.ask/v1", &answer.summary(), false))?;
    }
    screen.note(&screen.commands(&answer.stats(screen.look)));
    Ok(())
}

/// The whole answer of the model that is called `asked`.
async fn answered(
    asked: &str,
    body: &serde_json::Value,
    door: Door<'_>,
    shown: Shown,
    way: &Way,
    screen: &Screen,
) -> Result<Answer, Failure> {
    let key = question::key(door.key, &way.data)?;
    let base = match door.url {
        Some(typed) => question::url(typed)?,
        None => told_url(way).await?,
    };
    let limit = way.timeout.unwrap_or(USUAL_LIMIT);
    let answer = tokio::time::timeout(limit, exchange(&base, key, body, shown, screen)).await;
    answer
        .map_err(|_| {
            let limit = human_duration(limit);
            Failure::new(Kind::TimedOut, format!("the answer to {asked} took longer than {limit}"))
                .hint("give it longer: --timeout 30m; see where it went: meshctl explain")
        })?
        .map_err(|failure| {
            if failure.kind == Kind::NotFound {
                failure.hint("see what there is: meshctl status")
            } else {
                failure
            }
        })
}

/// The client address that the router tells its operators; a bind address is replaced by the router's host.
async fn told_url(way: &Way) -> Result<Url, Failure> {
    let asked = async {
        let mut operators = Way { timeout: None, ..way.clone() }.dial().await?;
        let status = fetch(&mut operators).await?;
        Ok((status.router.unwrap_or_default().client_url, operators.address))
    };
    let (told, operators) = asked.await.map_err(|failure: Failure| {
        failure.hint("without operator credentials: name the client address with --url URL")
    })?;
    question::reachable(question::url(&told)?, address::host(&operators))
}

async fn exchange(
    base: &Url,
    key: HeaderValue,
    body: &serde_json::Value,
    shown: Shown,
    screen: &Screen,
) -> Result<Answer, Failure> {
    let is_told = shown != Shown::Nothing && !screen.is_json();
    let client = client(base)?;
    let target = question::endpoint(base);
    let mut answer = Answer::new(Instant::now());
    let response = client
        .post(target.clone())
        .header(AUTHORIZATION, key)
        .json(body)
        .send()
        .await
        .map_err(|error| unreachable(&target, &error))?;
    if !response.status().is_success() {
        return Err(complaint(response).await);
    }
    answer.head(|name| text_header(response.headers(), name));
    let mut events = Events::default();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| broken(&answer, &chain(&error)))?;
        for event in events.feed(&chunk).map_err(|error| broken(&answer, &error.to_string()))? {
            match answer.take(&event, Instant::now())? {
                Piece::Text(text) if is_told => screen.result(&printed(&text, screen))?,
                Piece::Thinking(text) if shown == Shown::Thinking => {
                    screen.note(&render::paint::printable_lines(&text))
                }
                Piece::Text(_) | Piece::Thinking(_) | Piece::Nothing => {}
            }
        }
        if answer.is_done() {
            break;
        }
    }
    if !answer.is_whole() {
        return Err(broken(&answer, "the stream ended without its last event"));
    }
    if is_told && !answer.ends_with_newline() {
        screen.result("\n")?;
    }
    Ok(answer)
}

/// A terminal gets no escape sequences from a model; a file gets every byte.
fn printed(text: &str, screen: &Screen) -> String {
    if screen.is_terminal { render::paint::printable_lines(text) } else { text.to_owned() }
}

fn client(base: &Url) -> Result<reqwest::Client, Failure> {
    // No redirects: the key is for this address and no other.
    let no_redirects = reqwest::redirect::Policy::none();
    let builder = reqwest::Client::builder().connect_timeout(CONNECT_LIMIT).redirect(no_redirects).no_proxy();
    // Without TLS there is nobody to verify, and a machine without root certificates must still work.
    let builder = if base.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
    builder
        .build()
        .map_err(|error| Failure::new(Kind::Failed, "cannot make an HTTP client").cause(chain(&error)))
}

fn unreachable(target: &Url, error: &reqwest::Error) -> Failure {
    let stranger = match Answered::of(error) {
        Some(Answered::NoTls) => {
            Some("what answers there does not speak TLS: write http:// and not https://")
        }
        Some(answer) => Some(answer.words()),
        // Neither the system nor TLS: what came was no HTTP.
        None if system_error(error).is_none() && !error.is_timeout() => {
            Some("what answers there does not speak HTTP: so do the ports for agents and operators")
        }
        None => None,
    };
    if let Some(cause) = stranger {
        return Failure::new(Kind::Unreachable, format!("what answers at {target} is no router's port for clients"))
            .cause(cause)
            .hint("clients connect to port 7400, unless the router's configuration says otherwise: --url http://HOST:7400");
    }
    let failure =
        Failure::new(Kind::Unreachable, format!("cannot reach the router at {target}")).cause(root(error));
    let is_local = target.host_str().is_some_and(|host| address::is_loopback(host.trim_matches(['[', ']'])));
    if is_local {
        failure.hint("is the router on another machine? name its client address: --url http://HOST:7400")
    } else {
        failure.hint("does it listen for clients there? start it with --clients ADDR:7400")
    }
}

/// The words of the system, where it was the system that refused.
fn root(error: &reqwest::Error) -> String {
    system_error(error).map_or_else(|| chain(error), system_words)
}

fn system_error(error: &reqwest::Error) -> Option<&std::io::Error> {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(system) = cause.downcast_ref::<std::io::Error>() {
            return Some(system);
        }
        next = cause.source();
    }
    None
}

fn broken(answer: &Answer, cause: &str) -> Failure {
    let failure = Failure::new(Kind::Failed, answer.where_it_broke()).cause(cause);
    match answer.request_id() {
        Some(id) => failure.hint(format!("meshctl explain {id}")),
        None => failure,
    }
}

/// What an answer other than 2xx means.
async fn complaint(response: Response) -> Failure {
    let (status, headers, url) = (response.status(), response.headers().clone(), response.url().clone());
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST_COMPLAINT {
            body.truncate(LONGEST_COMPLAINT);
            break;
        }
    }
    let retry = text_header(&headers, RETRY_AFTER.as_str());
    let id = text_header(&headers, answer::REQUEST_ID);
    refusal(status, &body, retry.as_deref(), id.as_deref(), &url)
}

fn refusal(
    status: StatusCode,
    body: &[u8],
    retry_after: Option<&str>,
    request_id: Option<&str>,
    url: &Url,
) -> Failure {
    let said =
        serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|body| answer::error_message(&body));
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Refused,
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Kind::TimedOut,
        _ => Kind::Failed,
    };
    if said.is_none() && request_id.is_none() {
        return Failure::new(kind, format!("{url} answered {status}, and not in a router's words"))
            .hint("is it a router? clients connect to its port 7400: --url http://HOST:7400");
    }
    let mut failure = Failure::new(kind, said.unwrap_or_else(|| format!("the router answered {status}")));
    if kind == Kind::Refused {
        failure = failure.hint("make a key: meshctl key create NAME; then --key KEY or MODEMESH_API_KEY");
    }
    if let Some(after) = retry_after {
        failure = failure.hint(format!("try again in {after} s"));
    }
    if let Some(id) = request_id.filter(|_| kind != Kind::Refused) {
        failure = failure.hint(format!("meshctl explain {id}"));
    }
    failure
}

fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.chars().take(300).collect())
}

#[cfg(test)]
mod tests;
