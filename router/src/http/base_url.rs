//! Paths that are not there, most of them because a client's base URL has a `/v1` too much or too little.

use super::dialect::{Dialect, Door};
use super::reply::ApiError;
use http::{Method, StatusCode};

/// Paths without a door of their own that clients ask for under a base URL.
const LISTS: [&str; 4] = ["/v1/models", "/api/tags", "/api/show", "/api/version"];

/// 404, with the path that was meant and the base URL that leads there.
#[must_use]
pub(super) fn no_such_path(method: &Method, path: &str) -> ApiError {
    let shown: String = path.chars().take(100).collect();
    let message = match meant(path) {
        Some(meant) => format!(
            "there is no {method} {shown} here, but there is {meant}: set this client's base URL to {}",
            // Anthropic's clients add the `/v1` themselves.
            if meant.starts_with("/v1/") && Dialect::of_path(meant) != Dialect::Anthropic {
                "`http://HOST:PORT/v1`"
            } else {
                "`http://HOST:PORT`, without a path"
            }
        ),
        None => format!(
            "there is no {method} {shown} here; clients use /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages, /v1/models and Ollama's /api"
        ),
    };
    ApiError::client(StatusCode::NOT_FOUND, "no_such_path", message)
}

/// The longest known path at the end of this one; else the known path that it becomes with `/v1`.
fn meant(path: &str) -> Option<&'static str> {
    let known = || Door::ALL.into_iter().map(Door::path).chain(LISTS);
    let at_end = known().filter(|known| path.ends_with(known)).max_by_key(|known| known.len());
    at_end.or_else(|| known().find(|known| known.strip_prefix("/v1") == Some(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_that_was_meant_and_its_base_url_are_told() {
        for (path, wanted, base) in [
            ("/v1/v1/chat/completions", "/v1/chat/completions", "`http://HOST:PORT/v1`"),
            ("/openai/v1/chat/completions", "/v1/chat/completions", "`http://HOST:PORT/v1`"),
            ("/chat/completions", "/v1/chat/completions", "`http://HOST:PORT/v1`"),
            ("/models", "/v1/models", "`http://HOST:PORT/v1`"),
            ("/responses", "/v1/responses", "`http://HOST:PORT/v1`"),
            ("/v1/v1/messages", "/v1/messages", "without a path"),
            ("/messages", "/v1/messages", "without a path"),
            ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens", "without a path"),
            ("/v1/api/chat", "/api/chat", "without a path"),
            ("/api/api/tags", "/api/tags", "without a path"),
            ("/v1/infill", "/infill", "without a path"),
            // The longest: not `/completion`'s or `/v1/completions`'.
            ("/v1/v1/fim/completions", "/v1/fim/completions", "`http://HOST:PORT/v1`"),
        ] {
            let error = no_such_path(&Method::POST, path);
            assert_eq!((error.status, error.code), (StatusCode::NOT_FOUND, "no_such_path"));
            let start = format!("there is no POST {path} here, but there is {wanted}: ");
            assert!(error.message.starts_with(&start) && error.message.ends_with(base), "{}", error.message);
        }
    }

    #[test]
    fn another_path_is_told_what_there_is() {
        for path in ["/v2/chat", "/v1", "/", "(none)", "/v1/audio/speech", "/xv1/models/x"] {
            let error = no_such_path(&Method::GET, path);
            assert!(error.message.contains("clients use /v1/chat/completions"), "{}", error.message);
        }
        let long = "/x".repeat(1000);
        assert!(no_such_path(&Method::GET, &long).message.len() < 300);
    }
}
