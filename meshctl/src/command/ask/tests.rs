//! A question against a scripted front door.

use super::*;
use crate::cli::Format;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-mesh-node: strix-1\r\n\
                    x-mesh-request-id: r1\r\nconnection: close\r\n\r\n";
const HI: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";

fn json_screen() -> Screen {
    Screen::plain(Format::Json)
}

async fn front_door() -> (TcpListener, Url) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    (listener, question::url(&url).expect("a URL"))
}

/// Takes one request and returns it with the open connection.
async fn accept(listener: &TcpListener) -> (String, TcpStream) {
    let (mut stream, _) = listener.accept().await.expect("a client");
    let (mut request, mut buffer) = (String::new(), [0; 4096]);
    while !request.contains("\"stream\":true") {
        let size = stream.read(&mut buffer).await.expect("readable");
        assert_ne!(size, 0, "the client left before its request was whole: {request}");
        request.push_str(&String::from_utf8_lossy(&buffer[..size]));
    }
    (request, stream)
}

async fn ask(url: &Url) -> Result<Answer, Failure> {
    let key = HeaderValue::from_static("Bearer mk_a_b");
    exchange(url, key, &question::body("mesh/code", None, "hi", None), Shown::Answer, &json_screen()).await
}

/// Answers one question with `reply` and hangs up.
async fn answered(reply: String) -> Result<Answer, Failure> {
    let (listener, url) = front_door().await;
    let server = async {
        let (request, mut stream) = accept(&listener).await;
        stream.write_all(reply.as_bytes()).await.expect("writable");
        stream.shutdown().await.expect("open");
        request
    };
    let (request, answer) = tokio::join!(server, ask(&url));
    assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("authorization: bearer mk_a_b"), "{request}");
    answer
}

#[tokio::test]
async fn an_answer_arrives_whole() {
    let reply = format!(
        "{HEAD}{HI}data: {{\"choices\":[],\"usage\":{{\"completion_tokens\":1}}}}\n\ndata: [DONE]\n\n"
    );
    let answer = answered(reply).await.expect("a whole answer");
    assert_eq!(answer.request_id(), Some("r1"));
    assert_eq!(serde_json::to_value(answer.summary()).expect("JSON")["answer"], "Hi");
}

#[tokio::test]
async fn an_answer_that_just_ends_is_a_failure() {
    let failure = answered(format!("{HEAD}{HI}")).await.expect_err("no last event");
    assert_eq!(failure.kind, Kind::Failed);
    assert_eq!(failure.what, "strix-1 stopped in the middle of the answer (after 2 characters)");
}

#[tokio::test]
async fn an_error_in_the_stream_is_a_failure_with_its_message() {
    let failure =
        answered(format!("{HEAD}{HI}event: error\ndata: {{\"error\":{{\"message\":\"lost strix-1\"}}}}\n\n"))
            .await
            .expect_err("an error event");
    assert_eq!((failure.kind, failure.cause.as_deref()), (Kind::Failed, Some("lost strix-1")));
}

#[tokio::test]
async fn nobody_there_is_an_unreachable_router() {
    let (listener, url) = front_door().await;
    drop(listener);
    let failure = ask(&url).await.expect_err("a closed port");
    assert_eq!((failure.kind, failure.cause.as_deref()), (Kind::Unreachable, Some("connection refused")));
    assert!(failure.what.contains(url.as_str().trim_end_matches('/')), "{}", failure.what);
}

/// A server that says `greeting` to everyone and listens until the client leaves.
async fn greets(greeting: &'static [u8]) -> Url {
    let (listener, url) = front_door().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(greeting).await);
            drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
        }
    });
    url
}

#[tokio::test]
async fn a_port_that_speaks_something_else_is_told_as_such() {
    // An alert, as TLS answers to a plain request.
    let tls = greets(&[21, 3, 3, 0, 2, 2, 50]).await;
    let mut http = greets(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    http.set_scheme("https").expect("a scheme");
    for (url, cause) in [(tls, "does not speak HTTP"), (http, "does not speak TLS: write http://")] {
        let failure = ask(&url).await.expect_err("another port");
        assert_eq!(failure.kind, Kind::Unreachable, "{failure:?}");
        assert!(failure.what.contains("is no router's port for clients"), "{failure:?}");
        assert!(failure.cause.as_deref().is_some_and(|told| told.contains(cause)), "{failure:?}");
        assert!(failure.hints[0].contains("--url http://HOST:7400"), "{failure:?}");
    }
}

#[tokio::test]
async fn giving_up_closes_the_connection_so_that_the_request_is_cancelled() {
    let (listener, url) = front_door().await;
    let (mut stream, _) = {
        let asking = ask(&url);
        let server = async {
            let (_, mut stream) = accept(&listener).await;
            stream.write_all(format!("{HEAD}{HI}").as_bytes()).await.expect("writable");
            stream
        };
        tokio::select! {
            ended = asking => panic!("the answer has no end: {ended:?}"),
            stream = server => (stream, ()),
        }
        // Here the question is dropped, as it is on Ctrl-C.
    };
    let mut rest = Vec::new();
    // The end of the connection, whether closed or reset; without a cancel this would wait for ever.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[test]
fn each_status_has_its_kind_and_the_words_of_the_router() {
    let body = br#"{"error":{"message":"no mode named \"cod\"; did you mean \"code\"?","type":"not_found"}}"#;
    let url = question::url("http://msi:8080").expect("a URL");
    for (status, kind) in [
        (404, Kind::NotFound),
        (401, Kind::Refused),
        (403, Kind::Refused),
        (503, Kind::Failed),
        (504, Kind::TimedOut),
    ] {
        let status = StatusCode::from_u16(status).expect("a status");
        let failure = refusal(status, body, None, Some("r1"), &url);
        assert_eq!(
            (failure.kind, failure.what.as_str()),
            (kind, "no mode named \"cod\"; did you mean \"code\"?")
        );
    }
    let busy = refusal(StatusCode::SERVICE_UNAVAILABLE, b"<html>", Some("7"), Some("r1"), &url);
    assert_eq!(busy.what, "the router answered 503 Service Unavailable");
    assert_eq!(busy.hints, ["try again in 7 s", "meshctl explain r1"]);
    let stranger = refusal(StatusCode::NOT_FOUND, b"<html>", None, None, &url);
    assert_eq!(stranger.what, "http://msi:8080/ answered 404 Not Found, and not in a router's words");
    assert!(stranger.hints[0].contains("7400"), "{stranger:?}");
}

/// One small request through a mode whose model answers with `reply`.
async fn tried(reply: String) -> Result<(), Failure> {
    let (listener, url) = front_door().await;
    let server = async {
        let (request, mut stream) = accept(&listener).await;
        stream.write_all(reply.as_bytes()).await.expect("writable");
        stream.shutdown().await.expect("open");
        request
    };
    let way = Way { data: "/nowhere".into(), router: None, timeout: None };
    let screen = json_screen();
    let (request, ended) =
        tokio::join!(server, trial("code", Some("mk_a_b"), Some(url.as_str()), &way, &screen));
    assert!(
        request.contains("\"model\":\"mesh/code\"") && request.contains("\"max_tokens\":48"),
        "{request}"
    );
    ended
}

#[tokio::test]
async fn a_trial_asks_a_mode_for_little_and_wants_something_back() {
    let done = "data: [DONE]\n\n";
    assert_eq!(tried(format!("{HEAD}{HI}{done}")).await, Ok(()));
    let thinking = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n";
    assert_eq!(tried(format!("{HEAD}{thinking}{done}")).await, Ok(()), "it thought for as long as it might");
    let failure = tried(format!("{HEAD}{done}")).await.expect_err("an empty answer");
    assert_eq!((failure.kind, failure.what.as_str()), (Kind::Failed, "mesh/code answered, but with nothing"));
    assert_eq!(failure.hints, ["meshctl explain r1"]);
}
