//! The table: what a client sends on one connection, and which answers it must get.

/// What must come back.
pub(crate) enum Expect {
    /// Exactly these answers, and then the end of the connection.
    Answers(Vec<u16>),
    /// One answer of these, and then the end of the connection; 0 = none at all.
    OneOf(Vec<u16>),
}

/// One way of a client to be wrong.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expect: Expect,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, answers: &[u16]) -> Case {
    Case { name, bytes: bytes.into(), expect: Expect::Answers(answers.into()) }
}

fn either(name: &'static str, bytes: impl Into<Vec<u8>>, answers: &[u16]) -> Case {
    Case { name, bytes: bytes.into(), expect: Expect::OneOf(answers.into()) }
}

/// A whole and honest request after which the connection ends.
const LAST: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const BODY: &str = r#"{"model":"honest","messages":[{"role":"user","content":"Good morning"}]}"#;

/// Everything that can be said in one go.
pub(crate) fn all(key: &str) -> Vec<Case> {
    let mut all = smuggling(key);
    all.extend(heads(key));
    all.extend(targets(key));
    all.extend(bodies(key));
    all.extend(others(key));
    all
}

fn post(key: &str, headers: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{headers}\r\n{body}"
    )
}

/// What two readers could take for different requests.
fn smuggling(key: &str) -> Vec<Case> {
    let post = |headers: &str, body: &str| post(key, headers, body);
    let length = BODY.len();
    let chunked = format!("{length:x}\r\n{BODY}\r\n0\r\n\r\n");
    let te = "transfer-encoding: chunked\r\n";
    vec![
        // RFC 9112, section 6.3: the encoding counts, and what comes after its end is another request.
        either(
            "Content-Length and chunks",
            post(&format!("content-length: 4\r\n{te}connection: close\r\n"), &chunked),
            &[200, 400],
        ),
        either(
            "chunks and Content-Length",
            post(&format!("{te}content-length: 4\r\nconnection: close\r\n"), &chunked),
            &[200, 400],
        ),
        case(
            "two lengths",
            post(&format!("content-length: {length}\r\ncontent-length: 3\r\n"), BODY),
            &[400],
        ),
        case("a list of lengths", post(&format!("content-length: {length}, 3\r\n"), BODY), &[400]),
        case("a length with a plus", post(&format!("content-length: +{length}\r\n"), BODY), &[400]),
        case("a negative length", post("content-length: -1\r\n", BODY), &[400]),
        case("a hexadecimal length", post("content-length: 0x10\r\n", BODY), &[400]),
        case("a length over 64 bits", post("content-length: 99999999999999999999999\r\n", BODY), &[400]),
        case(
            "chunked is not the last encoding",
            post("transfer-encoding: chunked, identity\r\n", &chunked),
            &[400],
        ),
        case("an unknown encoding", post("transfer-encoding: xchunked\r\n", &chunked), &[400]),
        case("identity as an encoding", post("transfer-encoding: identity\r\n", BODY), &[400]),
        case(
            "a continued header line",
            post(&format!("x-a: b\r\n content-length: {length}\r\n"), BODY),
            &[400],
        ),
        case("a space before the colon", post(&format!("content-length : {length}\r\n"), BODY), &[400]),
        case("a NUL in a header", post("x-a: b\0c\r\n", ""), &[400]),
        case("a carriage return in a header", post("x-a: b\rc\r\n", ""), &[400]),
        case("a header without a colon", post("nonsense\r\n", ""), &[400]),
        case("a header without a name", post(": x\r\n", ""), &[400]),
        case("chunks without a size", post(te, "zz\r\n"), &[400]),
        case("a chunk of 2^68 bytes", post(te, "100000000000000000\r\n"), &[400]),
        case("a chunk without its end", post(te, "1\r\n{zz"), &[400]),
        case("an extension of a chunk of 64 KB", post(te, &format!("1;{}\r\n", "x".repeat(65536))), &[400]),
        case(
            "a request hidden in a body",
            [post(&format!("content-length: {}\r\n", LAST.len()), LAST), LAST.into()].concat(),
            &[400, 200],
        ),
        case(
            "garbage after a request",
            "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n\x01\x02\r\n\r\n",
            &[200, 400],
        ),
        case(
            "a hundred requests at once",
            ["GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(99), LAST.into()].concat(),
            &[200; 100],
        ),
    ]
}

/// Heads that are too large or no heads.
fn heads(key: &str) -> Vec<Case> {
    let get = |rest: String| format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{rest}connection: close\r\n\r\n");
    vec![
        either("a header of 100 KB", get(format!("x-a: {}\r\n", "x".repeat(100_000))), &[431]),
        either("1,000 headers", get("x-a: b\r\n".repeat(1000)), &[431]),
        either(
            "a URL of 1 MB",
            format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1_000_000)),
            &[414, 431],
        ),
        either(
            "a method of 100 KB",
            format!("{} / HTTP/1.1\r\nhost: x\r\n\r\n", "X".repeat(100_000)),
            &[400, 431],
        ),
        either("empty lines for ever", "\r\n".repeat(100_000), &[0, 400, 431]),
        case("HTTP/0.9", "GET /healthz\r\n\r\n", &[400]),
        case("HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n", &[200]),
        either("HTTP/3.1", "GET /healthz HTTP/3.1\r\nhost: x\r\n\r\n", &[400, 505]),
        either("a greeting of TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".repeat(20), &[0, 400]),
        either("bytes that are no HTTP", vec![0xfe; 8000], &[0, 400]),
        either("a preface of HTTP/2 that goes wrong", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &[0, 400]),
        case("line ends without CR", "GET /healthz HTTP/1.1\nhost: x\nconnection: close\n\n", &[200]),
        case(
            "two keys",
            format!(
                "GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
            ),
            &[401],
        ),
        case("no key", "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", &[401]),
        case(
            "a key of 20 KB",
            format!(
                "GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
                "k".repeat(20_000)
            ),
            &[401],
        ),
        case("a wish for another protocol", get("upgrade: websocket\r\n".into()), &[200]),
        case("a wish for HTTP/2", get("upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n".into()), &[200]),
    ]
}

/// Methods and targets.
fn targets(key: &str) -> Vec<Case> {
    let ask =
        |line: &str| format!("{line}\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n");
    vec![
        case("a method that is none", ask("FROB /v1/models HTTP/1.1"), &[405]),
        case("a method in small letters", ask("get /v1/models HTTP/1.1"), &[405]),
        case("TRACE", ask("TRACE /v1/chat/completions HTTP/1.1"), &[405]),
        case("a method with a colon", ask("G:T / HTTP/1.1"), &[400]),
        case("an absolute target", ask("GET http://example.com/healthz HTTP/1.1"), &[200]),
        either("an authority as target", ask("GET example.com:80 HTTP/1.1"), &[400, 404]),
        either("CONNECT", ask("CONNECT example.com:443 HTTP/1.1"), &[400, 404, 405]),
        case("OPTIONS for all", ask("OPTIONS * HTTP/1.1"), &[404]),
        case("a path that climbs", ask("GET /v1/../metrics HTTP/1.1"), &[404]),
        case("a path that climbs in disguise", ask("GET /v1/%2e%2e/metrics HTTP/1.1"), &[404]),
        case("a path with two slashes", ask("GET //healthz HTTP/1.1"), &[404]),
        either("a path with letters beyond ASCII", ask("GET /héalthz HTTP/1.1"), &[400, 404]),
        case("a path with a space", ask("GET /health z HTTP/1.1"), &[400]),
        case("no path", ask("GET HTTP/1.1"), &[400]),
    ]
}

/// Bodies that are no requests.
fn bodies(key: &str) -> Vec<Case> {
    let with = |headers: &str, body: &[u8]| {
        let headers = format!("connection: close\r\ncontent-length: {}\r\n{headers}", body.len());
        [post(key, &headers, "").as_bytes(), body].concat()
    };
    let json = |name, body: &str, status: u16| case(name, with("", body.as_bytes()), &[status]);
    let rest = &BODY[1..];
    let of_model = |name: &str| BODY.replacen("\"honest\"", &format!("\"{name}\""), 1);
    let keys: String = (0..50_000).map(|number| format!("\"k{number}\":1,")).collect();
    vec![
        json("an empty body", "", 400),
        json("a list", "[1]", 400),
        json("a text", "\"honest\"", 400),
        json("half an object", &BODY[..20], 400),
        json("a million brackets", &"[".repeat(1_000_000), 400),
        json("a million brackets in a field", &format!("{{\"a\":{}", "[".repeat(1_000_000)), 400),
        json("a byte order mark", &format!("\u{feff}{BODY}"), 400),
        json("NaN", &format!("{{\"temperature\":NaN,{rest}"), 400),
        json("the model twice", &format!("{{\"model\":\"other\",{rest}"), 400),
        json("a model that is a number", "{\"model\":7,\"messages\":[]}", 400),
        json("no model", "{\"messages\":[]}", 400),
        json("a model with a name of 1 MB", &of_model(&"m".repeat(1_000_000)), 404),
        json("a model that climbs", &of_model("../../etc/passwd"), 404),
        json("no messages", "{\"model\":\"honest\"}", 400),
        json("50,000 keys", &format!("{{{keys}{rest}"), 200),
        json("a key of 1 MB", &format!("{{\"{}\":1,{rest}", "k".repeat(1_000_000)), 200),
        json("a huge number", &format!("{{\"max_tokens\":1e999999,{rest}"), 200),
        case("invalid UTF-8", with("", b"{\"model\":\"\xff\xfe\"}"), &[400]),
        case("another media type", with("content-type: text/plain\r\n", BODY.as_bytes()), &[200]),
        case("gzip", with("content-encoding: gzip\r\n", &[0x1f, 0x8b, 8, 0]), &[415]),
        either(
            "gzip by encoding of the transfer",
            post(
                key,
                "transfer-encoding: gzip, chunked\r\nconnection: close\r\n",
                "2\r\n\x1f\x0b\r\n0\r\n\r\n",
            ),
            &[400, 415],
        ),
        case("9 MB", with("", &vec![b' '; 9 << 20]), &[413]),
        case("1 GiB announced", post(key, "content-length: 1073741824\r\n", "{"), &[413]),
    ]
}

fn others(key: &str) -> Vec<Case> {
    vec![either(
        "a body for a path that takes none",
        format!(
            "GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
        ),
        &[200],
    )]
}
