//! Responses cut anywhere.

use super::*;
use proptest::prelude::*;

/// Feeds `bytes` in pieces that end at `cuts`, as a connection would, then the end of the connection.
fn fed(bytes: &[u8], cuts: &[usize]) -> (Response, Result<(Head, Vec<u8>), HttpError>) {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let mut response = Response::new();
    let mut take = || {
        let (mut head, mut body) = (None, Vec::new());
        for pair in cuts.windows(2) {
            let mut piece = bytes[pair[0]..pair[1]].to_vec();
            if response.is_whole() || piece.is_empty() {
                continue;
            }
            if head.is_some() {
                body.extend_from_slice(&response.body(&mut piece)?);
            } else if let Some((known, first)) = response.head(&mut piece)? {
                head = Some(known);
                body.extend_from_slice(&first);
            }
            if let Some(wrong) = response.wrong() {
                return Err(wrong);
            }
        }
        response.closed()?;
        Ok((head.expect("a head before the end"), body))
    };
    let taken = take();
    (response, taken)
}

fn text(bytes: &str) -> Result<(Head, Vec<u8>), HttpError> {
    fed(bytes.as_bytes(), &[]).1
}

fn refused(bytes: &str) -> String {
    // Whole and byte by byte.
    let cuts: Vec<usize> = (0..bytes.len()).collect();
    let (whole, cut) = (text(bytes), fed(bytes.as_bytes(), &cuts).1);
    let (whole, cut) = (whole.expect_err(bytes), cut.expect_err(bytes));
    assert_eq!(whole.to_string(), cut.to_string());
    whole.to_string()
}

#[test]
fn a_head_is_told() {
    let (head, body) = text(
        "HTTP/1.1 503 Service Unavailable\r\nServer: x\r\nCONTENT-TYPE:  application/json; charset=utf-8 \r\n\
         Retry-After: 7\r\nContent-Length: 2\r\n\r\nok",
    )
    .expect("a response");
    assert_eq!(head.status, 503);
    assert_eq!(head.content_type.as_deref(), Some("application/json; charset=utf-8"));
    assert_eq!(head.retry_after_s, Some(7));
    assert_eq!(body, b"ok");
}

#[test]
fn interim_responses_are_passed_over() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
                  HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for cut in 0..bytes.len() {
        let (head, body) = fed(bytes, &[cut]).1.expect("a response");
        assert_eq!((head.status, body.as_slice()), (200, b"ok".as_slice()));
    }
    assert_eq!(refused("HTTP/1.1 101 Switching\r\n\r\n"), "nobody asked for an answer of status 101");
}

#[test]
fn a_connection_is_kept_only_where_both_sides_know_the_end() {
    let kept = |bytes: &str| fed(bytes.as_bytes(), &[]).0.leaves_open();
    assert!(kept("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    assert!(kept("HTTP/1.1 204 None\r\n\r\n"));
    assert!(kept("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"));
    assert!(kept("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"));
    assert!(kept("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n"));
    for closing in [
        "HTTP/1.1 200 OK\r\nconnection: Keep-Alive, Close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nconnection: close, \u{fc}\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n\r\nuntil it closes",
        // More than was announced: whose is it?
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    ] {
        let (response, taken) = fed(closing.as_bytes(), &[]);
        assert!(taken.is_ok() && !response.leaves_open(), "{closing:?}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let length = "`Content-Length` is not one number";
    for value in ["2\r\ncontent-length: 3", "2, 3", "+2", "-2", "", "2x", "99999999999999999999"] {
        assert_eq!(
            refused(&format!("HTTP/1.1 200 OK\r\ncontent-length: {value}\r\n\r\nok")),
            length,
            "{value}"
        );
    }
    for value in ["gzip, chunked", "identity", "chunked\r\ntransfer-encoding: chunked"] {
        let said = refused(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {value}\r\n\r\n0\r\n\r\n"));
        assert_eq!(said, "nobody asked for a `Transfer-Encoding` other than `chunked`");
    }
    let chunk = "the chunks are not framed as HTTP/1.1 has it";
    for framed in [
        "x\r\n",
        "\r\n",
        ";a\r\n",
        "-1\r\n",
        "1 ;\n",
        "1\n",
        "1\rX",
        "11111111111111111\r\n",
        "2\r\nokX",
        "2\r\nok\rX",
        "2\r\nok\n",
        "0\r\na\nb",
        "0\r\n\rX",
    ] {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(refused(&format!("{head}{framed}")), chunk, "{framed:?}");
    }
    for endless in ["1;".to_owned() + &"x".repeat(20_000), "0\r\n".to_owned() + &"a: b\r\n".repeat(4_000)] {
        assert_eq!(
            refused(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{endless}")),
            chunk
        );
    }
}

#[test]
fn an_early_end_is_no_end() {
    let closed = "it closed the connection";
    for cut in [
        "",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
    ] {
        assert_eq!(refused(cut), closed, "{cut:?}");
    }
    assert!(refused("what is this?\r\n\r\n").starts_with("that is not HTTP/1.1: "));
}

#[test]
fn what_was_right_is_passed_on_before_the_error() {
    let mut response = Response::new();
    let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nnonsense".to_vec();
    let (_, first) = response.head(&mut bytes).expect("right so far").expect("a head");
    assert_eq!(first, "ok");
    assert!(!response.is_whole());
    assert!(matches!(response.wrong(), Some(HttpError::Chunk)));
}

#[test]
fn what_is_no_text_for_a_client_is_not_passed_on() {
    for value in ["", "text/\u{fc}", &"x".repeat(CONTENT_TYPE_LIMIT + 1)] {
        let (head, _) = text(&format!("HTTP/1.1 204 None\r\ncontent-type: {value}\r\n\r\n")).expect("a head");
        assert_eq!(head.content_type, None);
    }
}

#[test]
fn a_response_that_has_begun_is_no_new_one() {
    for begun in ["HTTP/1.1 102 Processing\r\n\r\n", "H", "\n"] {
        let mut response = Response::new();
        assert!(response.is_new());
        assert!(response.head(&mut begun.as_bytes().to_vec()).expect("right so far").is_none());
        assert!(!response.is_new(), "{begun:?}");
    }
}

#[test]
fn a_head_has_a_limit() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    // In one piece, in pieces, and without an end.
    for (bytes, cuts) in
        [(&long[..], vec![]), (&long[..], vec![1_000, 40_000]), (&long[..66_000], vec![9, 65_999])]
    {
        let said = fed(bytes.as_bytes(), &cuts).1.expect_err("too long");
        assert_eq!(said.to_string(), "the headers are longer than 64 KiB");
    }
    // Nor may it never begin.
    for endless in ["\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let bytes = endless.repeat(70_000 / endless.len());
        let cuts: Vec<usize> = (0..bytes.len()).step_by(7).collect();
        let said = fed(bytes.as_bytes(), &cuts).1.expect_err("it never begins");
        assert_eq!(said.to_string(), "the headers are longer than 64 KiB");
    }
}

proptest! {
    #[test]
    fn no_cut_changes_what_is_said(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
        framing in 0..3,
        trailer in any::<bool>(),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let body = chunks.concat();
        let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n".to_vec();
        match framing {
            0 => bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes().chain(body.clone())),
            1 => bytes.extend(b"\r\n".iter().chain(&body)),
            _ => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    bytes.extend(format!("{:X} ;name=\"value\"\r\n", chunk.len()).bytes().chain(chunk.clone()));
                    bytes.extend(b"\r\n");
                }
                bytes.extend(if trailer { &b"0\r\nx: y\r\nz: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            }
        }
        let (response, taken) = fed(&bytes, &cuts);
        let (head, taken) = taken.expect("a response");
        prop_assert_eq!(head.content_type.as_deref(), Some("text/event-stream"));
        prop_assert_eq!(taken, body);
        prop_assert_eq!(response.leaves_open(), framing != 1);
    }

    #[test]
    fn nothing_that_comes_is_a_panic(
        after in prop::collection::vec(any::<u8>(), 0..200),
        head in 0..4_usize,
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let heads = ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n"];
        let bytes: Vec<u8> = heads[head].bytes().chain(after).collect();
        let (response, taken) = fed(&bytes, &cuts);
        // Either it is an answer or it is told as none.
        prop_assert!(taken.is_err() || response.is_whole());
    }
}
