//! Deleting models, and refusing to.

use super::{House, gguf, gguf_with, model};
use mesh_core::machine::Store;
use node_agent::model_store::StoreWish;
use std::sync::Arc;
use tokio::sync::watch;

fn refusal(store: &Store, name: &str) -> Option<String> {
    store.refusals.iter().find(|one| one.model.as_str() == name).map(|one| one.reason.clone())
}

#[tokio::test]
async fn a_model_is_deleted_only_after_everybody_has_let_go_of_it() {
    let (house, file) = (House::start(), gguf(1000, 1));
    house.write("x.gguf", &file);
    house.has("x", &file).await;
    let (asked, mut was_asked) = watch::channel(None);
    let (let_go, released) = watch::channel(false);
    house.store.release_with(Arc::new(move |model| {
        asked.send_replace(Some(model));
        let mut released = released.clone();
        Box::pin(async move { drop(released.wait_for(|done| *done).await) })
    }));
    house.store.direct(StoreWish::Delete(model("x")));
    was_asked.wait_for(|asked| *asked == Some(model("x"))).await.expect("asked");
    assert!(house.models().join("x.gguf").exists(), "somebody still has it");
    let_go.send_replace(true);
    house.until("it is gone", |store| store.models.is_empty()).await;
    assert!(!house.models().join("x.gguf").exists());
}

#[tokio::test]
async fn a_split_model_goes_with_all_its_parts() {
    let house = House::start();
    for number in 0..2_u16 {
        let numbers = [("split.no", number), ("split.count", 2), ("split.tensors.count", 2)];
        let part = gguf_with(100, number.into(), &[("general.architecture", "llama")], &numbers);
        house.write(&format!("org/big-0000{}-of-00002.gguf", number + 1), &part);
    }
    house.until("the model", |store| store.models.iter().any(|one| one.broken.is_none())).await;
    house.store.direct(StoreWish::Delete(model("org/big-00001-of-00002")));
    let store = house.until("a refusal", |store| !store.refusals.is_empty()).await;
    assert!(refusal(&store, "org/big-00001-of-00002").is_some_and(|why| why.contains("a part of org/big")));
    house.store.direct(StoreWish::Delete(model("org/big")));
    house.until("it is gone", |store| store.models.is_empty()).await;
    assert_eq!(super::files_below(&house.models()).len(), 0);
}

#[tokio::test]
async fn what_an_engine_is_configured_with_and_what_is_not_there_is_refused_with_the_reason() {
    let folders = tempfile::tempdir().expect("a temporary folder");
    let kept = folders.path().join("models/kept.gguf");
    let house = House::in_folders(folders, |config| config.kept.push(kept));
    house.write("kept.gguf", &gguf(100, 1));
    house.until("the model", |store| !store.models.is_empty()).await;
    for (name, reason) in [("kept", "configured"), ("nowhere", "no such model")] {
        house.store.direct(StoreWish::Delete(model(name)));
        let store = house.until("a refusal", |store| refusal(store, name).is_some()).await;
        assert!(refusal(&store, name).is_some_and(|why| why.contains(reason)), "{store:?}");
    }
    assert!(house.models().join("kept.gguf").exists());
}

#[tokio::test]
async fn deleting_a_link_leaves_the_file_that_it_names() {
    let (house, file) = (House::start(), gguf(1000, 1));
    house.write("blobs/abc", &file);
    std::os::unix::fs::symlink("blobs/abc", house.models().join("x.gguf")).expect("a link");
    house.has("x", &file).await;
    house.store.direct(StoreWish::Delete(model("x")));
    house.until("it is gone", |store| store.models.is_empty()).await;
    assert!(house.models().join("blobs/abc").exists());
}
