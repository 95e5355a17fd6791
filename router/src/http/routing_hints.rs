//! What a client's headers ask of routing: its session, and times that it wants.

use super::reply::ApiError;
use crate::forward::Hints;
use http::{HeaderMap, StatusCode};
use mesh_core::routing::Slo;
use twox_hash::XxHash3_64;

/// OpenCode and Kilo send both; the first one that is there counts.
const SESSION: [&str; 2] = ["x-session-affinity", "x-session-id"];
/// Longer names of sessions are none.
const SESSION_LIMIT: usize = 256;
/// Targets in milliseconds: from 1 to an hour.
const TARGET_MS: std::ops::RangeInclusive<u64> = 1..=3_600_000;

/// Reads the headers.
///
/// # Errors
/// 400 for a target that is no number of milliseconds: the client believes that it is honoured.
pub fn read(headers: &HeaderMap) -> Result<Hints, ApiError> {
    let session = SESSION.iter().find_map(|name| headers.get(*name)).map(http::HeaderValue::as_bytes);
    let session = session.filter(|name| !name.is_empty() && name.len() <= SESSION_LIMIT);
    let slo = Slo { ttft_s: target(headers, "x-slo-ttft-ms")?, tpot_s: target(headers, "x-slo-tpot-ms")? };
    Ok(Hints { session: session.map(XxHash3_64::oneshot), slo })
}

fn target(headers: &HeaderMap, name: &'static str) -> Result<Option<f64>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let milliseconds = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    match milliseconds.filter(|milliseconds| TARGET_MS.contains(milliseconds)) {
        Some(milliseconds) => Ok(Some(milliseconds as f64 / 1000.0)),
        None => {
            let message =
                format!("the header {name} must be a whole number of milliseconds, at most an hour");
            Err(ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn hints(pairs: &[(&'static str, &'static str)]) -> Result<Hints, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        read(&headers)
    }

    #[test]
    fn a_session_is_the_same_under_both_names_and_differs_from_another() {
        let session = |pairs: &[(&'static str, &'static str)]| hints(pairs).expect("valid").session;
        assert_eq!(session(&[("x-session-id", "ses_1")]), session(&[("x-session-affinity", "ses_1")]));
        assert_ne!(session(&[("x-session-id", "ses_1")]), session(&[("x-session-id", "ses_2")]));
        let both = session(&[("x-session-id", "ses_1"), ("x-session-affinity", "ses_2")]);
        assert_eq!(both, session(&[("x-session-id", "ses_2")]));
        assert_eq!((session(&[]), session(&[("x-session-id", "")])), (None, None));
    }

    #[test]
    fn targets_are_milliseconds_and_anything_else_is_refused() {
        let slo = hints(&[("x-slo-ttft-ms", "1500"), ("x-slo-tpot-ms", " 40 ")]).expect("valid").slo;
        assert_eq!(slo, Slo { ttft_s: Some(1.5), tpot_s: Some(0.04) });
        for wrong in ["", "0", "-1", "1.5", "2s", "99999999999"] {
            let error = hints(&[("x-slo-ttft-ms", wrong)]).expect_err(wrong);
            assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, "invalid_request"), "{wrong}");
        }
    }
}
