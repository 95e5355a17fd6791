//! What a client's headers ask of routing: its session, times that it wants, and how long it is willing to wait.

use super::reply::ApiError;
use http::{HeaderMap, HeaderName, StatusCode};
use mesh_core::routing::Slo;
use std::time::Duration;
use twox_hash::XxHash3_64;

/// OpenCode and Kilo send both; the first one that is there counts.
const SESSION: [HeaderName; 2] =
    [HeaderName::from_static("x-session-affinity"), HeaderName::from_static("x-session-id")];
const TTFT: HeaderName = HeaderName::from_static("x-slo-ttft-ms");
const TPOT: HeaderName = HeaderName::from_static("x-slo-tpot-ms");
const DEADLINE: HeaderName = HeaderName::from_static("x-mesh-deadline-ms");
/// What the names of all of them begin with.
const STARTS: [&str; 3] = ["x-session-", "x-slo-", "x-mesh-"];
/// Longer names of sessions are none.
const SESSION_LIMIT: usize = 256;
/// Characters of a value that are repeated.
const SHOWN: usize = 40;
/// Times in milliseconds: from 1 to an hour. A request that waits keeps its body in memory.
const TIMES_MS: std::ops::RangeInclusive<u64> = 1..=3_600_000;

/// What all of them say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Hints {
    /// The session's name as a number.
    pub session: Option<u64>,
    /// The times that are asked for.
    pub slo: Slo,
    /// How long the client is willing to wait for its first content.
    pub deadline: Option<Duration>,
}

/// Reads them.
///
/// # Errors
/// 400 for a time that is no number of milliseconds: the client believes that it is honoured.
pub fn read(headers: &HeaderMap) -> Result<Hints, ApiError> {
    // Most clients send none: one look at their few headers in place of five searches.
    if !headers.keys().any(|name| STARTS.iter().any(|start| name.as_str().starts_with(start))) {
        return Ok(Hints::default());
    }
    Ok(Hints { session: session(headers), slo: targets(headers)?, deadline: deadline(headers)? })
}

/// The session's name as a number.
fn session(headers: &HeaderMap) -> Option<u64> {
    let name = SESSION.iter().find_map(|name| headers.get(name))?.as_bytes();
    (!name.is_empty() && name.len() <= SESSION_LIMIT).then(|| XxHash3_64::oneshot(name))
}

fn targets(headers: &HeaderMap) -> Result<Slo, ApiError> {
    Ok(Slo { ttft_s: target(headers, TTFT)?, tpot_s: target(headers, TPOT)? })
}

fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    Ok(milliseconds(headers, DEADLINE)?.map(Duration::from_millis))
}

fn target(headers: &HeaderMap, name: HeaderName) -> Result<Option<f64>, ApiError> {
    Ok(milliseconds(headers, name)?.map(|milliseconds| milliseconds as f64 / 1000.0))
}

/// What is no time is refused, and so is one that is not kept: the client would believe that it is.
fn milliseconds(headers: &HeaderMap, name: HeaderName) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(&name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    if let Some(number) = number.filter(|number| TIMES_MS.contains(number)) {
        return Ok(Some(number));
    }
    let clean = |&byte: &u8| if matches!(byte, b' '..=b'~') { char::from(byte) } else { '?' };
    let got: String = value.as_bytes().iter().take(SHOWN).map(clean).collect();
    let message = format!(
        "the header {name} is `{got}`, and must be a whole number of milliseconds from {} to {} (an hour)",
        TIMES_MS.start(),
        TIMES_MS.end(),
    );
    let error = ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", message);
    Err(error.param(name.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn a_session_is_the_same_under_both_names_and_differs_from_another() {
        let session = |pairs: &[_]| read(&headers(pairs)).expect("no times").session;
        assert_eq!(session(&[("x-session-id", "ses_1")]), session(&[("x-session-affinity", "ses_1")]));
        assert_ne!(session(&[("x-session-id", "ses_1")]), session(&[("x-session-id", "ses_2")]));
        let both = session(&[("x-session-id", "ses_1"), ("x-session-affinity", "ses_2")]);
        assert_eq!(both, session(&[("x-session-id", "ses_2")]));
        assert_eq!((session(&[]), session(&[("x-session-id", "")])), (None, None));
    }

    #[test]
    fn each_hint_is_looked_for() {
        for name in SESSION.into_iter().chain([TTFT, TPOT, DEADLINE]) {
            let mut headers = headers(&[("x-stainless-lang", "python")]);
            assert_eq!(read(&headers).expect("none"), Hints::default());
            headers.insert(&name, HeaderValue::from_static("7"));
            assert_ne!(read(&headers).expect("a time"), Hints::default(), "{name}");
        }
    }

    #[test]
    fn targets_are_milliseconds_and_anything_else_is_refused() {
        let hints = read(&headers(&[("x-slo-ttft-ms", "1500"), ("x-slo-tpot-ms", " 40 ")]));
        assert_eq!(hints.expect("valid").slo, Slo { ttft_s: Some(1.5), tpot_s: Some(0.04) });
        for wrong in ["", "0", "-1", "1.5", "2s", "99999999999"] {
            let error = read(&headers(&[("x-slo-ttft-ms", wrong)])).expect_err(wrong);
            assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, "invalid_request"), "{wrong}");
        }
    }

    #[test]
    fn a_deadline_is_milliseconds_and_bounded() {
        let read = |text: &'static str| {
            super::read(&headers(&[("x-mesh-deadline-ms", text)])).map(|hints| hints.deadline)
        };
        assert_eq!(read("2500").expect("valid"), Some(Duration::from_millis(2_500)));
        assert_eq!(read("3600000").expect("valid"), Some(Duration::from_secs(3_600)));
        for wrong in ["", "soon", "0", "-1", "1.5", "2s", "3600001", "99999999999"] {
            let error = read(wrong).expect_err(wrong);
            assert_eq!((error.code, error.param.as_deref()), ("invalid_request", Some("x-mesh-deadline-ms")));
            let words = format!("the header x-mesh-deadline-ms is `{wrong}`, and must be");
            assert!(error.message.starts_with(&words), "{}", error.message);
            assert!(error.message.ends_with("from 1 to 3600000 (an hour)"), "{}", error.message);
        }
    }
}
