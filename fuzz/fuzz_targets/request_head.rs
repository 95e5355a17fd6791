//! Any bytes as the body of a request: refused, or read as serde reads them, and still JSON after every splice.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use router::http::head::{Cap, Head, HeadError};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct BySerde<'a> {
    model: String,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
}

fuzz_target!(|bytes: &[u8]| {
    let body = Bytes::copy_from_slice(bytes);
    let head = match Head::read(&body, true) {
        Ok(head) => head,
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 300, "an error for people");
            let place = matches!(error, HeadError::NotJson { line, .. } if line > 0);
            assert!(place || !matches!(error, HeadError::NotJson { .. }), "{text}");
            return;
        }
    };
    let serde: BySerde<'_> = serde_json::from_slice(&body).expect("what the scan accepts is JSON");
    assert_eq!(head.model, serde.model);
    assert_eq!(head.stream, serde.stream.is_some_and(|raw| raw.get() == "true"));
    let _ = head.has_media(&body);
    for cap in [None, Some(Cap { tokens: 7, add: None }), Some(Cap { tokens: 7, add: Some("max_tokens") })] {
        let spliced = head.splice_capped(&body, "new/name", cap);
        let again = Head::read(&spliced, true).expect("a splice leaves JSON");
        assert_eq!(again.model, "new/name");
        assert!(again.wants_usage && again.stream == head.stream && again.prompt.is_some() == head.prompt.is_some());
        assert!(cap.is_none_or(|cap| !again.is_over(cap)));
    }
});
