//! Paths that are not there, most of them because a client's base URL has a `/v1` too much or too little.

use super::KNOWN;
use super::dialect::Door;
use super::reply::ApiError;
use http::{Method, StatusCode};

/// 404, with the path that was meant and the base URL that leads there.
#[must_use]
pub(super) fn no_such_path(method: &Method, path: &str) -> ApiError {
    let shown: String = path.chars().take(100).collect();
    let message = match meant(path) {
        // Of two that both add it one must not; which one is the client's own matter.
        Some(meant) if path.strip_prefix("/v1") == Some(meant) && meant.starts_with("/v1/") => format!(
            "there is no {method} {shown} here, but there is {meant}: this client's base URL has a `/v1` too many"
        ),
        Some(meant) => {
            // Anthropic's clients add the `/v1` themselves.
            let adds_it = path.contains("/v1/messages");
            let base = if meant.starts_with("/v1/") && !adds_it {
                "`http://HOST:PORT/v1`"
            } else {
                "`http://HOST:PORT`, without a path"
            };
            format!(
                "there is no {method} {shown} here, but there is {meant}: set this client's base URL to {base}"
            )
        }
        None => format!(
            "there is no {method} {shown} here; clients use /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages, /v1/models and Ollama's /api"
        ),
    };
    ApiError::client(StatusCode::NOT_FOUND, "no_such_path", message)
}

/// The longest known path at the end of this one; else the longest that would be with its `/v1`.
fn meant(path: &str) -> Option<&'static str> {
    let lists = KNOWN.iter().map(|(path, _)| *path).filter(|path| path.len() > 1);
    let known = || Door::ALL.into_iter().map(Door::path).chain(lists.clone());
    // `/v1/chat/completion` is no way to llama.cpp's own `/completion`.
    let is_no_typo = |known: &&str| *known != Door::Completion.path() || !path.contains("/chat/");
    let at_end = known().filter(|known| path.ends_with(known)).filter(is_no_typo);
    let without = known().filter(|known| known.strip_prefix("/v1").is_some_and(|rest| path.ends_with(rest)));
    let without = without.filter(|known| !path.ends_with(known));
    at_end.chain(without).max_by_key(|known| known.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_that_was_meant_and_its_base_url_are_told() {
        for (path, wanted, base) in [
            ("/v1/v1/chat/completions", "/v1/chat/completions", "a `/v1` too many"),
            ("/v1/chat/completions/chat/completions", "/v1/chat/completions", "`http://HOST:PORT/v1`"),
            ("/api/chat/completions", "/v1/chat/completions", "`http://HOST:PORT/v1`"),
            ("/proxy/v1/messages", "/v1/messages", "without a path"),
            ("/v1/messages/v1/models", "/v1/models", "without a path"),
            ("/openai/v1/chat/completions", "/v1/chat/completions", "`http://HOST:PORT/v1`"),
            ("/chat/completions", "/v1/chat/completions", "`http://HOST:PORT/v1`"),
            ("/models", "/v1/models", "`http://HOST:PORT/v1`"),
            ("/responses", "/v1/responses", "`http://HOST:PORT/v1`"),
            ("/v1/v1/messages", "/v1/messages", "a `/v1` too many"),
            ("/messages", "/v1/messages", "`http://HOST:PORT/v1`"),
            ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens", "a `/v1` too many"),
            ("/v1/api/chat", "/api/chat", "without a path"),
            ("/api/api/tags", "/api/tags", "without a path"),
            ("/v1/infill", "/infill", "without a path"),
            // The longest: not `/completion`'s or `/v1/completions`'.
            ("/x/v1/fim/completions", "/v1/fim/completions", "`http://HOST:PORT/v1`"),
            ("/v1/completion", "/completion", "without a path"),
            ("/v1/props", "/props", "without a path"),
        ] {
            let error = no_such_path(&Method::POST, path);
            assert_eq!((error.status, error.code), (StatusCode::NOT_FOUND, "no_such_path"));
            let start = format!("there is no POST {path} here, but there is {wanted}: ");
            assert!(error.message.starts_with(&start) && error.message.ends_with(base), "{}", error.message);
        }
    }

    #[test]
    fn another_path_is_told_what_there_is() {
        for path in
            ["/v2/chat", "/v1", "/", "(none)", "/v1/audio/speech", "/v1/chat/completion", "/xv1/models/x"]
        {
            let error = no_such_path(&Method::GET, path);
            assert!(error.message.contains("clients use /v1/chat/completions"), "{}", error.message);
        }
        let long = "/x".repeat(1000);
        assert!(no_such_path(&Method::GET, &long).message.len() < 300);
    }
}
