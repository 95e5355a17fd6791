//! The scan against JSON and what is none.

use super::*;

fn scanned(body: &[u8]) -> Result<Vec<(String, String)>, Met> {
    let text = |range: Range<usize>| String::from_utf8(body[range].to_vec()).expect("UTF-8");
    let mut found = Vec::new();
    fields(body, |field| {
        found.push((text(field.key), text(field.value)));
        Ok::<_, Met>(())
    })?;
    Ok(found)
}

#[test]
fn fields_are_found_with_their_values_as_they_stand() {
    let body = br#" { "a" : [1, {"b":"]}\""}, []] ,"c\"":-0.5e+7, "d":null,"e":{}} "#;
    let found = scanned(body).expect("valid");
    let wanted = [
        (r#""a""#, r#"[1, {"b":"]}\""}, []]"#),
        (r#""c\"""#, "-0.5e+7"),
        (r#""d""#, "null"),
        (r#""e""#, "{}"),
    ];
    assert_eq!(found.len(), wanted.len());
    for ((key, value), (wanted_key, wanted_value)) in found.iter().zip(wanted) {
        assert_eq!((key.as_str(), value.as_str()), (wanted_key, wanted_value));
    }
}

#[test]
fn each_special_byte_is_found_at_each_place_in_the_word() {
    for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
        for place in 0..20 {
            for filler in [b'a', 0x20, 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']'] {
                let mut text = vec![filler; 20];
                text[place] = special;
                assert_eq!(plain_end(&text, 0), place, "{special} among {filler}");
            }
        }
    }
    assert_eq!(plain_end(&[0xff; 21], 0), 21);
    // In long strings, where whole blocks are looked at, and from any start.
    for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
        for filler in [b'a', 0x20, 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']'] {
            for place in 0..4 * BLOCK {
                let mut text = vec![filler; 4 * BLOCK + place % 9];
                text[place] = special;
                for from in [0, 1, 7, 16, 63] {
                    let wanted = if place >= from { place } else { text.len() };
                    assert_eq!(plain_end(&text, from), wanted, "{special} among {filler} at {place}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_json_is_a_fault() {
    for body in [
        &b""[..],
        b"{",
        b"{}x",
        b"[]",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"{,}",
        b"{\"a\":01}",
        b"{\"a\":1.}",
        b"{\"a\":-}",
        b"{\"a\":1e}",
        b"{\"a\":.5}",
        b"{\"a\":+1}",
        b"{\"a\":nul}",
        b"{\"a\":[1}",
        b"{\"a\":{\"b\":1]}",
        b"{\"a\":[1,]}",
        b"{\"a\":\"\\x\"}",
        b"{\"a\":\"\\u12g4\"}",
        b"{\"a\":\"\n\"}",
        b"{\"a\":\"",
        b"{\"a\":\"\\",
        b"{\"a\":\"\\u12",
        b"\xef\xbb\xbf{}",
        b"{\"a\":NaN}",
        b"{\"a\":\"\0\"}",
        b"{}\0",
        b"{'a':1}",
        b"{\"a\":1 \"b\":2}",
    ] {
        assert!(matches!(scanned(body), Err((Fault::Syntax, _))), "{:?}", String::from_utf8_lossy(body));
    }
    assert!(matches!(scanned(b"{\"a\":\"\xff\"}"), Err((Fault::Encoding, 6))));
}

#[test]
fn depth_is_bounded_without_recursion() {
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let most = DEPTH_LIMIT as usize - 1;
    assert!(scanned(nested(most).as_bytes()).is_ok());
    assert!(matches!(scanned(nested(most + 1).as_bytes()), Err((Fault::Depth, _))));
    let objects = format!("{{\"a\":{}", "{\"a\":".repeat(1_000_000));
    assert!(matches!(scanned(objects.as_bytes()), Err((Fault::Depth, _))));
    // Messages are walked by other code, to the same depth.
    for (from, to, outer) in [("", "", 0), ("[", "]", 1), ("[{\"a\":", "}]", 2)] {
        let nested = |levels: usize| {
            format!("{{\"messages\":{from}{}{}{to}}}", "[".repeat(levels), "]".repeat(levels))
        };
        assert!(scanned(nested(most - outer).as_bytes()).is_ok(), "{from}");
        let deeper = scanned(nested(most - outer + 1).as_bytes());
        assert!(matches!(deeper, Err((Fault::Depth, _))), "{from}");
    }
}

#[test]
fn messages_that_no_chat_can_begin_with_are_told_on_the_way() {
    for (messages, wanted) in [
        (r#"[{"role":"user"}]"#, None),
        (r#" [ { "content" : [ {"role":1} ] , "role" : "user" } , {"role":"\u0078"} ] "#, None),
        (r#"[{"role":"assistant"},{"role":"system"},{"role":"x"}]"#, Some(Unsound::OtherRole(2))),
        (r#"[{"role":"x"},{}]"#, Some(Unsound::NoRole(1))),
        (r#"[{"r\u006fle":"user"}]"#, None),
        (r#"[{"r\u006fle":"user","role":1}]"#, Some(Unsound::RoleNoText(0))),
        ("null", Some(Unsound::NoList)),
        (r#"{"role":"user"}"#, Some(Unsound::NoList)),
        ("[ ]", Some(Unsound::Empty)),
        (r#"[{"role":"user"},[{"role":"user"}]]"#, Some(Unsound::NoObject(1))),
        (r#"[{"role":"user"},{ },"x"]"#, Some(Unsound::NoRole(1))),
        (r#"[{"roles":"user","content":"role"}]"#, Some(Unsound::NoRole(0))),
        (r#"[{"content":{"role":"user"}}]"#, Some(Unsound::NoRole(0))),
        (r#"[{"role":null},{}]"#, Some(Unsound::RoleNoText(0))),
    ] {
        let body = format!("{{\"messages\":{messages}, \"a\": {messages}}}");
        let mut found = Vec::new();
        fields(body.as_bytes(), |field| {
            found.push(field.unsound);
            Ok::<_, Met>(())
        })
        .unwrap_or_else(|met| panic!("{met:?} {body}"));
        assert_eq!(found, [wanted, None], "{body}");
    }
}

#[test]
fn items_of_an_input_need_a_role_where_they_are_messages() {
    for (input, wanted) in [
        (r#"[{"role":"user"},{"type":"function_call"},{"content":"x","type":"reasoning"}]"#, None),
        (r#"[{"type":"message","role":"user"},{"role":"user","type":"message"}]"#, None),
        ("\"x\"", None),
        ("1", Some(Unsound::NoList)),
        ("[]", Some(Unsound::Empty)),
        (r#"["x"]"#, Some(Unsound::NoObject(0))),
        (r#"[{"content":"x"}]"#, Some(Unsound::NoRole(0))),
        (r#"[{"role":"user"},{"type":"message","content":"x"}]"#, Some(Unsound::NoRole(1))),
        (r#"[{"type":"reasoning","role":1}]"#, Some(Unsound::RoleNoText(0))),
    ] {
        let body = format!("{{\"input\":{input}}}");
        let mut found = Vec::new();
        fields(body.as_bytes(), |field| {
            found.push(field.unsound);
            Ok::<_, Met>(())
        })
        .unwrap_or_else(|met| panic!("{met:?} {body}"));
        assert_eq!(found, [wanted], "{body}");
    }
}

#[test]
fn what_is_not_json_within_messages_is_a_fault() {
    for messages in [
        "",
        "[",
        "[1",
        "[1,]",
        "[,]",
        "[1 2]",
        "[{]",
        "[{,}]",
        r#"[{"a"}]"#,
        r#"[{"a":}]"#,
        r#"[{"a":1,}]"#,
        r#"[{"a":1 "b":2}]"#,
        r#"[{"a":1]"#,
        r#"[{"role":"}]"#,
        r#"[{"role":user}]"#,
        r#"[{'role':"u"}]"#,
    ] {
        let body = format!("{{\"messages\":{messages}}}");
        assert!(matches!(scanned(body.as_bytes()), Err((Fault::Syntax, _))), "{body}");
    }
}
