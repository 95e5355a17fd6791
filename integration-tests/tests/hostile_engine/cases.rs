//! The table: what an engine sends, and what the client must then see.

use integration_tests::raw_engine::{Act, Plan};
use std::time::Duration;

/// What the client must see.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    /// A whole error of the mesh: `503 all_nodes_failed`.
    Failed,
    /// A whole error of the mesh: `504 answer_too_late`, or the same as above where a limit of bytes comes first.
    Late,
    /// The begin of the stream, then one error event, and no `[DONE]`.
    Cut,
    /// One of the two above: it is a race whether the first text arrives before the break.
    FailedOrCut,
    /// `200` and exactly these bytes.
    Same(Vec<u8>),
    /// Bytes without end: the client leaves, and so the engine is left; or the mesh ends it with an error.
    LeftByClient,
}

/// One way of an engine to be wrong.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Whether the client asks for a stream.
    pub(crate) stream: bool,
    pub(crate) plan: Plan,
    pub(crate) expect: Expect,
}

/// The role, as llama.cpp begins each stream.
const ROLE: &str = "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n";
pub(crate) const TEXT: &str =
    "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"one \"}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const ERROR: &str = "{\"error\":{\"message\":\"CUDA error\",\"type\":\"server_error\"}}";
const WHOLE: &str = "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"one\"}}]}";

const SSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
const JSON: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";

fn send(parts: &[&str]) -> Act {
    Act::Send(parts.concat().into_bytes())
}

fn every<T>(parts: &[&[T]]) -> Vec<T>
where
    T: Clone,
{
    parts.concat()
}

fn case(name: &'static str, stream: bool, acts: Vec<Act>, expect: Expect) -> Case {
    Case { name, stream, plan: Plan { early: false, acts }, expect }
}

/// A stream that begins well and then does this.
fn then(name: &'static str, acts: &[Act], expect: Expect) -> Case {
    case(name, true, every(&[&[send(&[SSE, ROLE, TEXT])], acts]), expect)
}

/// Everything that a wrong engine was seen to do or could do.
pub(crate) fn all() -> Vec<Case> {
    let mut all = heads();
    all.extend(framings());
    all.extend(whole_answers());
    all.extend(streams());
    all.extend(silences());
    all
}

/// Wrong status lines and headers.
fn heads() -> Vec<Case> {
    use Expect::Failed;
    let whole = |name, head: String| case(name, false, vec![send(&[&head, "\r\n", WHOLE])], Failed);
    let plain = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let filler = "x".repeat(1 << 20);
    vec![
        whole("a header of 1 MiB", format!("{plain}x-filler: {filler}\r\n")),
        whole("a content type of 1 MiB", format!("HTTP/1.1 200 OK\r\ncontent-type: {filler}\r\n")),
        whole("10,000 headers", format!("{plain}{}", "x-filler: y\r\n".repeat(10_000))),
        whole("a reason phrase of 1 MiB", format!("HTTP/1.1 200 {filler}\r\n")),
        case(
            "headers without end",
            false,
            vec![send(&[plain]), Act::Forever(b"x-filler: y\r\n".into())],
            Failed,
        ),
        whole("a header without a colon", format!("{plain}nonsense\r\n")),
        whole("status 42", "HTTP/1.1 42 What\r\n".into()),
        whole("status 204 with nothing", "HTTP/1.1 204 No Content\r\n".into()),
        whole("status 206", "HTTP/1.1 206 Partial Content\r\ncontent-type: application/json\r\n".into()),
        whole("status 304", "HTTP/1.1 304 Not Modified\r\n".into()),
        whole("status 599", "HTTP/1.1 599 x\r\ncontent-type: application/json\r\n".into()),
        whole(
            "status 101",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n".into(),
        ),
        whole("a redirect 301", "HTTP/1.1 301 x\r\nlocation: http://127.0.0.1:9/\r\n".into()),
        whole("a redirect 302", "HTTP/1.1 302 x\r\nlocation: http://192.0.2.1/\r\n".into()),
        whole("a redirect 307", "HTTP/1.1 307 x\r\nlocation: /v1/chat/completions\r\n".into()),
        case("HTTP/0.9", false, vec![send(&[WHOLE])], Failed),
        case("the preface of HTTP/2", false, vec![Act::Send(b"\0\0\0\x04\0\0\0\0\0".repeat(8))], Failed),
        case("not HTTP at all", false, vec![Act::Send(vec![0xff; 4096])], Failed),
        case("a close before any byte", false, vec![], Failed),
        case("a close within the head", false, vec![send(&["HTTP/1.1 200 OK\r\ncontent-ty"])], Failed),
        case(
            "100 Continue for ever",
            true,
            vec![Act::Forever(b"HTTP/1.1 100 Continue\r\n\r\n".into())],
            Failed,
        ),
        case(
            "100 Continue and then an answer",
            false,
            vec![send(&["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", JSON, WHOLE])],
            Expect::Same(WHOLE.into()),
        ),
        case(
            "a content type of 300 characters",
            false,
            vec![send(&[
                "HTTP/1.1 200 OK\r\ncontent-type: application/json; x=",
                &filler[..300],
                "\r\n\r\n",
                WHOLE,
            ])],
            Expect::Same(WHOLE.into()),
        ),
    ]
}

/// Wrong lengths and encodings.
fn framings() -> Vec<Case> {
    use Expect::Failed;
    let length = |length: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
    };
    let whole = |name, number: &str, expect| case(name, false, vec![send(&[&length(number), WHOLE])], expect);
    let exact = WHOLE.len().to_string();
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let good = chunk(&[ROLE, TEXT].concat());
    let gzip: Vec<u8> = every(&[b"\x1f\x8b\x08\0\0\0\0\0\0\x03", &[7; 64]]);
    let packed = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-type: application/json\r\n\r\n";
    vec![
        whole("a Content-Length that is too short", "20", Failed),
        whole("a Content-Length that is too long", "100000", Failed),
        whole("a negative Content-Length", "-1", Failed),
        whole("a Content-Length over 64 bits", "99999999999999999999999", Failed),
        whole("two Content-Lengths", &format!("{exact}\r\ncontent-length: 7"), Failed),
        whole("a Content-Length with a plus", &format!("+{exact}"), Failed),
        case("chunks without a length", true, vec![send(&[chunked, "zzz\r\n", TEXT])], Failed),
        case(
            "garbage after a chunk",
            true,
            vec![send(&[chunked, &good, "zzz\r\nzzz\r\n"]), Act::Hang],
            Expect::FailedOrCut,
        ),
        case(
            "a chunk of 2^64 bytes",
            true,
            vec![send(&[chunked, "ffffffffffffffff\r\n", TEXT])],
            Expect::FailedOrCut,
        ),
        case("a chunk of 17 digits", true, vec![send(&[chunked, "10000000000000000\r\n", TEXT])], Failed),
        case(
            "an extension of a chunk without end",
            true,
            vec![send(&[chunked, "5;"]), Act::Forever(b"x".repeat(4096))],
            Failed,
        ),
        case("chunks that never end", true, vec![send(&[chunked, &good])], Expect::FailedOrCut),
        case(
            "trailers",
            true,
            vec![send(&[chunked, &good, &chunk(&[FINISH, DONE].concat()), "0\r\nx-trailer: y\r\n\r\n"])],
            Expect::Same([ROLE, TEXT, FINISH, DONE].concat().into()),
        ),
        case(
            "trailers without end",
            true,
            vec![send(&[chunked, &good, "0\r\n"]), Act::Forever(b"x-trailer: y\r\n".repeat(100))],
            Expect::FailedOrCut,
        ),
        case("gzip that nobody asked for", false, vec![send(&[packed]), Act::Send(gzip.clone())], Failed),
        case("gzip in a stream", true, vec![send(&[SSE]), Act::Send(gzip)], Failed),
        case(
            "two answers to one request",
            false,
            vec![send(&[&length(&exact), WHOLE, &length(&exact), WHOLE])],
            Expect::Same(WHOLE.into()),
        ),
        Case {
            name: "an answer before the request was read",
            stream: false,
            plan: Plan { early: true, acts: vec![send(&[&length(&exact), WHOLE])] },
            expect: Expect::Same(WHOLE.into()),
        },
    ]
}

/// Answers that are no streams.
fn whole_answers() -> Vec<Case> {
    use Expect::Failed;
    let json = |name, body: &str| case(name, false, vec![send(&[JSON, body])], Failed);
    let html =
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html><body>Welcome to nginx!</body></html>";
    let spaces = || Act::Forever(vec![b' '; 64 << 10]);
    vec![
        json("an empty 200", ""),
        json("garbage with 200", "]]]] not JSON"),
        json("an error with 200", ERROR),
        json("an error as text with 200", "{\"error\":\"server busy\"}"),
        json("half an object", &WHOLE[..40]),
        json("something after the object", &[WHOLE, "x"].concat()),
        json("a list instead of an object", "[1,2,3]"),
        json("null", "null"),
        json("an object nested a million deep", &["{\"a\":", &"[".repeat(1_000_000)].concat()),
        case(
            "invalid UTF-8 in a whole answer",
            false,
            vec![send(&[JSON]), Act::Send(b"{\"a\":\"\xff\xfe\"}".to_vec())],
            Failed,
        ),
        case("HTML with 200", false, vec![send(&[html])], Failed),
        case("HTML with 200 to a stream", true, vec![send(&[html])], Failed),
        case("a stream to a request for none", false, vec![send(&[SSE, ROLE, TEXT, FINISH, DONE])], Failed),
        case("a stream that calls itself JSON", true, vec![send(&[JSON, ROLE, TEXT, FINISH, DONE])], Failed),
        case(
            "a whole answer to a request for a stream",
            true,
            vec![send(&[JSON, WHOLE])],
            Expect::Same(WHOLE.into()),
        ),
        case("a whole answer that calls itself a stream", true, vec![send(&[SSE, WHOLE])], Failed),
        case("a whole answer without end", false, vec![send(&[JSON, "{"]), spaces()], Expect::Late),
        case("an error without end", false, vec![send(&["HTTP/1.1 500 x\r\n\r\n"]), spaces()], Failed),
    ]
}

/// Streams that go wrong.
fn streams() -> Vec<Case> {
    use Expect::{Cut, Failed, LeftByClient};
    let event = |bytes: &[u8]| Act::Send(every(&[b"data: ", bytes, b"\n\n"]));
    let end = send(&[FINISH, DONE]);
    let same = |middle: &[u8]| {
        Expect::Same(every(&[[ROLE, TEXT].concat().as_bytes(), middle, [FINISH, DONE].concat().as_bytes()]))
    };
    let whole = [ROLE, TEXT, FINISH, DONE].concat();
    let long = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
        "x".repeat(900_000)
    );
    let comment = b": ping\n\n".repeat(1000);
    let text = TEXT.repeat(100);
    let error = format!("data: {ERROR}\n\n");
    let old_error = format!("error: {ERROR}\n\n");
    let bom = format!("\u{feff}{whole}");
    let carriage = whole.replace('\n', "\r");
    vec![
        case("comments without end", true, vec![send(&[SSE]), Act::Forever(comment.clone())], Failed),
        then("comments without end after text", &[Act::Forever(comment)], LeftByClient),
        case(
            "no line end, ever",
            true,
            vec![send(&[SSE]), Act::Forever(b"data: xxxxxxxx".repeat(1000))],
            Failed,
        ),
        then("no line end, ever, after text", &[Act::Forever(b"data: xxxxxxxx".repeat(1000))], Cut),
        case("empty lines without end", true, vec![send(&[SSE]), Act::Forever(b"\n".repeat(8192))], Failed),
        case("the role without end", true, vec![send(&[SSE]), Act::Forever(ROLE.repeat(100).into())], Failed),
        then("the same token without end", &[Act::Forever(text.into())], LeftByClient),
        then("an event of 900 KB", &[send(&[&long]), end.clone()], same(long.as_bytes())),
        then("an event of 4 MiB", &[Act::Repeat(b"x".repeat(4096), 1024), end.clone()], Cut),
        then(
            "invalid UTF-8",
            &[event(b"{\"choices\":[{\"delta\":{\"content\":\"\xff\xfe\"}}]}"), end.clone()],
            same(b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\xfe\"}}]}\n\n"),
        ),
        then("NUL bytes", &[event(b"\0\0\0"), end.clone()], same(b"data: \0\0\0\n\n")),
        then("garbage", &[Act::Send(vec![0x81; 3000])], Cut),
        case("a byte order mark first", true, vec![send(&[SSE, &bom])], Expect::Same(bom.clone().into())),
        case("line ends of CR only", true, vec![send(&[SSE, &carriage])], Failed),
        case(
            "each byte in a packet of its own",
            true,
            vec![Act::Drip([SSE, &whole].concat().into(), Duration::ZERO)],
            Expect::Same(whole.clone().into()),
        ),
        then(
            "a slow drip",
            &[Act::Drip([FINISH, DONE].concat().into(), Duration::from_millis(5))],
            same(b""),
        ),
        case("an empty stream", true, vec![send(&[SSE])], Failed),
        case("nothing but [DONE]", true, vec![send(&[SSE, DONE])], Failed),
        case("nothing but the role and [DONE]", true, vec![send(&[SSE, ROLE, DONE])], Failed),
        case("an error event first", true, vec![send(&[SSE, &error, DONE])], Failed),
        then("an error event after text", &[send(&[&error, DONE])], Expect::FailedOrCut),
        then("an error in the old spelling", &[send(&[&old_error, DONE])], Expect::FailedOrCut),
        then("an end without finishing", &[], Cut),
        then("an end within an event", &[send(&["data: {\"cho"])], Cut),
        then("a reset", &[Act::Reset], Expect::FailedOrCut),
        then("everything again after [DONE]", &[end.clone(), Act::Forever(text_again())], same(b"")),
        then("silence after [DONE]", &[end, Act::Hang], same(b"")),
    ]
}

fn text_again() -> Vec<u8> {
    TEXT.repeat(50).into()
}

/// Nothing comes.
fn silences() -> Vec<Case> {
    use Expect::{Cut, Failed, Late};
    vec![
        case("silence before the head, for a stream", true, vec![Act::Hang], Failed),
        case("silence before the head", false, vec![Act::Hang], Late),
        case("silence within the head", true, vec![send(&["HTTP/1.1 200 OK\r\nconte"]), Act::Hang], Failed),
        case("a close after the head", false, vec![send(&[JSON])], Failed),
        case("silence after the head, for a stream", true, vec![send(&[SSE]), Act::Hang], Failed),
        case("silence after the head", false, vec![send(&[JSON]), Act::Hang], Late),
        then("silence in the middle", &[Act::Hang], Cut),
        then("silence within an event", &[send(&["data: {\"cho"]), Act::Hang], Cut),
        case("silence within a whole answer", false, vec![send(&[JSON, &WHOLE[..20]]), Act::Hang], Late),
    ]
}
