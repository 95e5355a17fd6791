//! The client against servers of a few bytes.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// Answers the requests of each connection with the next of `answers`, closing it after one that is empty or the last.
/// Returns its address and how many connections it has accepted so far.
async fn server(answers: Vec<Vec<u8>>) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut request = vec![0; 64 * 1024];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                match answers.next().filter(|answer| !answer.is_empty()) {
                    Some(answer) => stream.write_all(&answer).await.expect("the client reads"),
                    None => break,
                }
            }
        }
    });
    (url, count)
}

fn call(url: &str, keep: bool) -> Call<'_> {
    Call { base_url: url, path: "/v1/chat/completions", api_key: None, keep }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it does not hang")
}

async fn whole(body: &mut EngineBody) -> (Vec<u8>, usize) {
    let (mut bytes, mut pieces) = (Vec::new(), 0);
    while let Some(piece) = body.bytes().await {
        bytes.extend_from_slice(&piece.expect("a whole body"));
        pieces += 1;
    }
    (bytes, pieces)
}

#[tokio::test]
async fn a_request_says_what_engines_need_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = listener.local_addr().expect("bound").to_string();
    let engine = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"{\"a\":1}") {
            assert!(stream.read_buf(&mut request).await.expect("a request") > 0);
        }
        stream.write_all(b"HTTP/1.1 204 None\r\n\r\n").await.expect("the client reads");
        String::from_utf8(request).expect("text")
    });
    let base_url = format!("http://{host}/engines/one");
    let call = Call { api_key: Some("sk-1"), ..call(&base_url, true) };
    let (head, mut body) =
        EngineClient::default().post(call, Bytes::from("{\"a\":1}")).await.expect("an answer");
    assert_eq!(head, Head { status: 204, content_type: None, retry_after_s: None });
    assert_eq!(whole(&mut body).await, (Vec::new(), 0));
    assert_eq!(
        engine.await.expect("no panic"),
        format!(
            "POST /engines/one/v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: 7\r\n\
             authorization: Bearer sk-1\r\n\r\n{{\"a\":1}}"
        )
    );
}

#[tokio::test]
async fn nothing_can_be_smuggled_into_a_head() {
    let client = EngineClient::default();
    let said = async |call: Call<'_>| match client.post(call, Bytes::new()).await {
        Ok(_) => panic!("it was sent"),
        Err(error) => error.to_string(),
    };
    for url in ["http://127.0.0.1:1/a b", "http://127.0.0.1:1/a\r\nx: y", "http://", "https://127.0.0.1:1"] {
        assert_eq!(said(call(url, true)).await, format!("`{url}` is no address of an engine"));
    }
    for key in ["a\r\nx: y", "a b", "ü"] {
        let call = Call { api_key: Some(key), ..call("http://127.0.0.1:1", true) };
        assert_eq!(said(call).await, "its key cannot stand in a header");
    }
}

#[tokio::test]
async fn a_large_request_is_sent_while_its_answer_is_read() {
    const REQUEST: usize = 8 << 20;
    const ANSWER: usize = 8 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let engine = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (mut requests, mut answers) = stream.into_split();
        // More than the socket's buffers hold, and nothing of the body is read before all of it is away.
        let mut head = [0; 32];
        requests.read_exact(&mut head).await.expect("a request");
        let said = format!("HTTP/1.1 200 OK\r\ncontent-length: {ANSWER}\r\n\r\n");
        answers.write_all(said.as_bytes()).await.expect("the client reads");
        answers.write_all(&vec![b'a'; ANSWER / 2]).await.expect("the client reads");
        let mut rest = vec![0; REQUEST];
        requests.read_exact(&mut rest).await.expect("the rest of the request");
        answers.write_all(&vec![b'a'; ANSWER / 2]).await.expect("the client reads");
        // Its last bytes, until the client is gone.
        tokio::io::copy(&mut requests, &mut tokio::io::sink()).await.expect("an end");
    });
    let client = EngineClient::default();
    let large = Bytes::from(vec![b' '; REQUEST]);
    let (_, mut body) = client.post(call(&url, true), large).await.expect("an answer");
    let whole = in_time(whole(&mut body)).await;
    assert_eq!(whole.0.len(), ANSWER);
    drop((body, client));
    in_time(engine).await.expect("all of the request arrived");
}

#[tokio::test]
async fn chunks_that_are_there_leave_as_one_piece_and_none_is_lost() {
    let chunks: Vec<String> = (0..1_000).map(|number| format!("data: {number:03}\n\n")).collect();
    let framed: String = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
    let (url, _) = server(vec![format!("{CHUNKED}{framed}0\r\n\r\n").into_bytes()]).await;
    let (_, mut body) =
        EngineClient::default().post(call(&url, true), Bytes::new()).await.expect("an answer");
    let (bytes, pieces) = whole(&mut body).await;
    assert_eq!(bytes, chunks.concat().into_bytes());
    // What one read of the socket brings is one piece, more or less.
    assert!(pieces < 50, "{pieces} pieces for 1000 chunks");
}

#[tokio::test]
async fn a_connection_carries_the_next_request_and_is_closed_when_none_comes() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    let (url, accepted) = server(vec![answer; 3]).await;
    let client = EngineClient::default();
    for _ in 0..2 {
        let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
        assert_eq!(whole(&mut body).await.0, b"ok");
    }
    assert_eq!(accepted.load(std::sync::atomic::Ordering::SeqCst), 1);
    let closed = async {
        while !client.lock().idle.is_empty() {
            tokio::time::sleep(IDLE_LIMIT / 10).await;
        }
    };
    tokio::time::timeout(IDLE_LIMIT * 20, closed).await.expect("an idle connection is closed");
    assert!(!client.lock().swept, "nothing is left to sweep");
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    // It closes at the second request, as engines do that are being started anew.
    let (url, accepted) = server(vec![answer.clone(), Vec::new(), answer]).await;
    let client = EngineClient::default();
    for wanted in [1, 2] {
        let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
        assert_eq!(whole(&mut body).await.0, b"ok");
        assert!(accepted.load(std::sync::atomic::Ordering::SeqCst) >= wanted);
    }
}

#[tokio::test]
async fn a_body_that_is_dropped_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let engine = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 64 * 1024];
        assert!(stream.read(&mut request).await.expect("a request") > 0);
        stream.write_all(format!("{CHUNKED}5\r\nhello\r\n").as_bytes()).await.expect("the client reads");
        stream.read(&mut request).await
    });
    let client = EngineClient::default();
    let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
    assert_eq!(body.bytes().await.expect("a piece").expect("whole"), "hello");
    drop(body);
    // The end of the stream, or a reset.
    assert!(engine.await.expect("no panic").map_or(true, |read| read == 0));
    assert!(client.lock().idle.is_empty());
}

#[tokio::test]
async fn a_connection_with_half_a_request_on_it_carries_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            // It answers once it has seen the head, and reads no more.
            let mut head = vec![0; 1024];
            assert!(stream.read(&mut head).await.expect("a request") > 0);
            let number = kept.len();
            let answer = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 1\r\n\r\n{number}");
            stream.write_all(answer.as_bytes()).await.expect("the client reads");
            kept.push(stream);
        }
    });
    let client = EngineClient::default();
    for connection in ["0", "1"] {
        let large = Bytes::from(vec![b' '; 16 << 20]);
        let answer = in_time(client.post(call(&url, true), large)).await;
        let (_, mut body) = answer.expect("an answer");
        assert_eq!(in_time(whole(&mut body)).await.0, connection.as_bytes());
    }
}

/// An engine that answers the first request, and to the second one says `second` after `pause` and closes.
async fn moody(second: &'static str, pause: Duration) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let requests = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 1024];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                if counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.expect("the client reads");
                } else {
                    tokio::time::sleep(pause).await;
                    stream.write_all(second.as_bytes()).await.expect("the client reads");
                    break;
                }
            }
        }
    });
    (url, requests)
}

#[tokio::test]
async fn a_request_that_the_engine_has_begun_is_not_sent_again() {
    let at_once = Duration::ZERO;
    for (second, pause) in [
        ("HTTP/1.1 102 Processing\r\n\r\n", at_once),
        ("HTTP/1.1 2", at_once),
        // It closes too late for a connection that was gone before the request came.
        ("", STALE_LIMIT * 2),
    ] {
        let (url, requests) = moody(second, pause).await;
        let client = EngineClient::default();
        let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
        assert_eq!(whole(&mut body).await.0, b"ok");
        let second = in_time(client.post(call(&url, true), Bytes::from("{}"))).await;
        assert_eq!(second.err().expect("no answer").to_string(), "it closed the connection");
        assert_eq!(requests.load(std::sync::atomic::Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn an_answer_that_goes_wrong_is_told_while_the_engine_says_no_more() {
    let client = EngineClient::default();
    let wrong = format!("{CHUNKED}2\r\nok\r\nnonsense").into_bytes();
    let (url, _) = server(vec![wrong, Vec::new()]).await;
    let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
    assert_eq!(body.bytes().await.expect("a piece").expect("so far"), "ok");
    let wrong = in_time(body.bytes()).await.expect("an error").expect_err("wrong");
    assert_eq!(wrong.to_string(), "the chunks are not framed as HTTP/1.1 has it");
    assert!(body.bytes().await.is_none());
}

#[tokio::test]
async fn the_end_of_a_connection_is_the_end_of_a_body_only_where_nothing_else_tells_it() {
    for (framing, whole) in
        [("content-length: 3\r\n", false), ("transfer-encoding: chunked\r\n", false), ("", true)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 1024];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n2\r");
            stream.write_all(answer.as_bytes()).await.expect("the client reads");
        });
        let client = EngineClient::default();
        let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
        let ended = loop {
            match in_time(body.bytes()).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break Some(error.to_string()),
                None => break None,
            }
        };
        assert_eq!(ended, (!whole).then(|| "it closed the connection".to_owned()), "{framing}");
        assert!(client.lock().idle.is_empty());
    }
}

#[tokio::test]
async fn an_idle_connection_that_has_something_to_say_or_is_old_carries_no_request() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let authority = listener.local_addr().expect("bound").to_string();
    let engine = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 1024];
        assert!(stream.read(&mut request).await.expect("a request") > 0);
        stream.write_all(&answer).await.expect("the client reads");
        (listener, stream, answer)
    });
    let client = EngineClient::default();
    let url = format!("http://{authority}");
    let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
    assert_eq!(whole(&mut body).await.0, b"ok");
    let (_listener, mut stream, answer) = engine.await.expect("no panic");
    // An answer that nobody asked for would be taken for that of the next request.
    stream.write_all(&answer).await.expect("sent");
    let noticed = async {
        while client.lock().idle[&*authority].iter().any(|idle| idle.connection.is_open()) {
            tokio::task::yield_now().await;
        }
    };
    in_time(noticed).await;
    assert!(client.kept(&authority).is_none());

    let (url, _) = server(vec![answer]).await;
    let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
    assert_eq!(whole(&mut body).await.0, b"ok");
    let authority = url.trim_start_matches("http://");
    for idle in client.lock().idle.get_mut(authority).expect("kept") {
        idle.since = idle.since.checked_sub(IDLE_LIMIT * 2).expect("a machine that is up for seconds");
    }
    assert!(client.kept(authority).is_none());
}

#[tokio::test]
async fn a_request_that_a_kept_connection_took_with_it_was_perhaps_seen_also_where_nobody_listens_then() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let engine = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 64 * 1024];
        assert!(stream.read(&mut request).await.expect("a request") > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.expect("the client reads");
        assert!(stream.read(&mut request).await.expect("the next one") > 0);
        // That one was too much for it.
        drop(listener);
    });
    let client = EngineClient::default();
    let (_, mut body) = client.post(call(&url, true), Bytes::from("{}")).await.expect("an answer");
    assert_eq!(in_time(whole(&mut body)).await.0, b"{}");
    drop(body);
    let error =
        in_time(client.post(call(&url, true), Bytes::from("{}"))).await.map(drop).expect_err("it ended");
    assert!(!error.is_unsent(), "{error}");
    engine.await.expect("no panic");
    let error = in_time(client.post(call(&url, true), Bytes::from("{}"))).await.map(drop).expect_err("gone");
    assert!(error.is_unsent(), "{error}");
}
