//! Who asks, as far as the order of requests depends on it, and what they said about waiting in their headers.

use super::waiting_room::Teller;
use super::wanted::hash_of;
use crate::http::reply::ApiError;
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// No client may ask to wait longer: its body stays in memory meanwhile.
const LONGEST_DEADLINE: Duration = Duration::from_secs(3600);

/// The headers that name a session. OpenCode and Kilo Code send both with the same value.
const SESSION: [&str; 2] = ["x-session-affinity", "x-session-id"];

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The id of its API key.
    pub key: String,
    /// A hash of its session, where it names one.
    pub session: Option<u64>,
    /// How long it is willing to wait for a slot: `x-mesh-deadline-ms`.
    pub deadline: Option<Duration>,
    /// Where to tell how the request stands before its first content.
    pub progress: Teller,
}

impl Caller {
    /// The caller with this key, as its headers describe it.
    ///
    /// # Errors
    /// 400 when `x-mesh-deadline-ms` is no number of milliseconds.
    pub fn read(key: String, headers: &HeaderMap) -> Result<Self, ApiError> {
        let session = SESSION.iter().find_map(|name| headers.get(*name)?.to_str().ok());
        let session = session.filter(|text| !text.is_empty()).map(hash_of);
        let deadline = match headers.get("x-mesh-deadline-ms") {
            None => None,
            Some(value) => {
                let ms = value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
                    let message = "the header x-mesh-deadline-ms must be a whole number of milliseconds";
                    ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", message)
                        .param("x-mesh-deadline-ms")
                })?;
                Some(Duration::from_millis(ms).min(LONGEST_DEADLINE))
            }
        };
        Ok(Self { key, session, deadline, progress: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn either_header_names_a_session_and_an_empty_one_names_none() {
        let session = |lines: &[_]| Caller::read("k".into(), &headers(lines)).expect("valid").session;
        let by_id = session(&[("x-session-id", "ses_1")]);
        assert!(by_id.is_some() && by_id == session(&[("x-session-affinity", "ses_1")]));
        assert_ne!(by_id, session(&[("x-session-id", "ses_2")]));
        assert_eq!(session(&[("x-session-id", "")]), None);
    }

    #[test]
    fn a_deadline_is_milliseconds_and_bounded() {
        let read = |text: &'static str| Caller::read("k".into(), &headers(&[("x-mesh-deadline-ms", text)]));
        assert_eq!(read("2500").expect("valid").deadline, Some(Duration::from_millis(2_500)));
        assert_eq!(read("99999999999").expect("valid").deadline, Some(LONGEST_DEADLINE));
        for wrong in ["", "soon", "-1", "1.5", "2s"] {
            assert_eq!(read(wrong).expect_err(wrong).code, "invalid_request");
        }
    }
}
