//! Installing the bundled engine: after an interruption, twice at once, and again.

use crate::house::bundled;
use node_agent::engine::bundled::BundledEngine;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test]
async fn two_installations_at_once_after_an_interrupted_one_fetch_once_and_a_third_does_nothing() {
    // Says loudly whether packages can be had here at all.
    if bundled().await.is_none() {
        return;
    }
    let done = tokio::task::spawn_blocking(|| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("venv/bin")).expect("a folder");
        std::fs::write(folder.path().join("venv/bin/python"), "half a file").expect("a file");
        let fetched = AtomicUsize::new(0);
        let install = || {
            BundledEngine::install(folder.path(), |step| {
                fetched.fetch_add(usize::from(step.starts_with("fetching")), Ordering::SeqCst);
            })
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(install);
            install().expect("installed");
            other.join().expect("no panic").expect("installed");
        });
        let engine = install().expect("installed");
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
        assert_eq!(BundledEngine::find(folder.path()), Some(engine.clone()));

        // Another version of the script needs no fetching.
        let marker = folder.path().join("installed");
        let text = std::fs::read_to_string(&marker).expect("written last");
        std::fs::write(&marker, text.replace("script", "old script")).expect("a file");
        assert_eq!(BundledEngine::find(folder.path()), None);
        install().expect("installed");
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
        assert!(BundledEngine::find(folder.path()).is_some());
    });
    done.await.expect("no panic");
}
