//! Trials without an engine: what is refused. With real engines they are tested in `tests/`.

pub(super) mod proc_tree;

use super::*;
use mesh_core::trial::AskWork;

#[test]
fn only_paths_of_clients_and_counting_are_for_trials() {
    let work = |path: &str| AskWork {
        streams: 1,
        questions: vec![Question { id: "q".into(), path: path.into(), body: "{}".into() }],
    };
    for path in ["/v1/chat/completions", "/completion", "/tokenize"] {
        assert_eq!(allowed(&work(path)), Ok(()), "{path}");
    }
    for path in ["/slots/0?action=erase", "/models/unload", "/api/delete", "/mesh/trial", ""] {
        assert!(allowed(&work(path)).is_err_and(|why| why.contains("is not for trials")), "{path}");
    }
}
