//! What the store says of the files that lie in its folder.

use super::{House, digest, gguf, gguf_with, model};
use mesh_core::machine::Store;
use mesh_proto::v1::BlobRequest;

fn names(store: &Store) -> Vec<&str> {
    store.models.iter().map(|one| one.model.as_str()).collect()
}

#[tokio::test]
async fn files_that_come_change_and_go_are_seen() {
    let house = House::start();
    house.until("an empty store", |store| store.models.is_empty()).await;
    let (first, second) = (gguf(1000, 1), gguf(1000, 2));
    house.write("org/x:y.gguf", &first);
    house.has("org/x:y", &first).await;
    house.write("org/x:y.gguf", &second);
    house.has("org/x:y", &second).await;
    std::fs::remove_file(house.models().join("org/x:y.gguf")).expect("there");
    house.until("an empty store again", |store| store.models.is_empty()).await;
    assert_eq!(house.store.file(&model("org/x:y")), None);
}

#[tokio::test]
async fn a_model_is_described_by_its_header() {
    let house = House::start();
    let texts = [("general.architecture", "qwen3")];
    house.write(
        "m.gguf",
        &gguf_with(1000, 1, &texts, &[("general.file_type", 15), ("qwen3.context_length", 32768)]),
    );
    let store = house.until("the model", |store| store.models.len() == 1).await;
    let seen = &store.models[0];
    assert_eq!(seen.architecture.as_deref(), Some("qwen3"));
    assert_eq!(seen.quantisation.as_deref(), Some("Q4_K_M"));
    assert_eq!((seen.parameters, seen.trained_context, &seen.broken), (Some(1000), Some(32768), &None));
}

#[tokio::test]
async fn broken_files_are_shown_with_the_reason_and_never_given_out() {
    let house = House::start();
    let mut cut = gguf(10_000, 1);
    cut.truncate(20_000);
    house.write("cut.gguf", &cut);
    house.write("page.gguf", b"<html>not found</html>");
    house.write("empty.gguf", b"");
    house.write("short.gguf", b"GGUF\x03\0\0\0");
    let store = house.until("all four", |store| store.models.len() == 4).await;
    for (name, reason) in
        [("cut", "cut short"), ("page", "no GGUF"), ("empty", "ends within"), ("short", "ends within")]
    {
        let seen = store.models.iter().find(|one| one.model.as_str() == name).expect("shown");
        assert!(seen.broken.as_ref().is_some_and(|why| why.contains(reason)), "{name}: {seen:?}");
        assert_eq!(house.store.file(&model(name)), None, "{name}");
    }
}

#[tokio::test]
async fn the_parts_of_a_split_model_are_one_model_once_all_are_there() {
    let house = House::start();
    let texts = [("general.architecture", "llama")];
    let part = |number: u16, seed| {
        let numbers = [("split.no", number), ("split.count", 3), ("split.tensors.count", 3)];
        gguf_with(1000, seed, &texts, &numbers)
    };
    house.write("big-00001-of-00003.gguf", &part(0, 1));
    house.write("big-00003-of-00003.gguf", &part(2, 3));
    let store = house.until("a model", |store| !store.models.is_empty()).await;
    assert_eq!(names(&store), ["big"]);
    let seen = house.until("what is missing", |store| store.models[0].broken.is_some()).await;
    assert!(seen.models[0].broken.as_ref().is_some_and(|why| why.contains("missing: 2")), "{seen:?}");
    assert_eq!(house.store.file(&model("big")), None);
    house.write("big-00002-of-00003.gguf", &part(1, 2));
    let store = house.until("a whole model", |store| store.models[0].broken.is_none()).await;
    assert_eq!((names(&store), store.models[0].parameters), (vec!["big"], Some(3000)));
    let file = house.store.file(&model("big")).expect("it can be loaded");
    assert!(file.path.ends_with("big-00001-of-00003.gguf"));
    assert_eq!(file.header.tensors.len(), 3);
}

#[tokio::test]
async fn a_projector_is_no_model_but_goes_with_the_one_it_is_named_after() {
    let house = House::start();
    let projector = gguf_with(1000, 1, &[("general.architecture", "clip"), ("general.type", "mmproj")], &[]);
    house.write("mmproj-gemma-3-4b-it-f16.gguf", &projector);
    house.write("gemma-3-4b-it-Q4_K_M.gguf", &gguf(1000, 2));
    house.write("llama-8b-Q4_K_M.gguf", &gguf(1000, 3));
    house.write("org/eyes/mmproj-F16.gguf", &projector);
    house.write("org/eyes/some-model-Q8_0.gguf", &gguf(1000, 4));
    let store = house.until("three models", |store| store.models.len() == 3).await;
    assert_eq!(names(&store), ["gemma-3-4b-it-Q4_K_M", "llama-8b-Q4_K_M", "org/eyes/some-model-Q8_0"]);
    let projector = |name: &str| {
        let file = house.store.file(&model(name)).expect("it can be loaded");
        file.projector.map(|path| path.file_name().expect("a file").to_string_lossy().into_owned())
    };
    assert_eq!(projector("gemma-3-4b-it-Q4_K_M").as_deref(), Some("mmproj-gemma-3-4b-it-f16.gguf"));
    assert_eq!(projector("llama-8b-Q4_K_M"), None);
    assert_eq!(projector("org/eyes/some-model-Q8_0").as_deref(), Some("mmproj-F16.gguf"));
}

#[tokio::test]
async fn a_digest_is_computed_once_and_remembered_over_a_restart() {
    let (house, file) = (House::start(), gguf(10_000, 1));
    house.write("x.gguf", &file);
    house.has("x", &file).await;
    let folders = house.stop().await;
    let index = folders.path().join("state/digests.json");
    let text = std::fs::read_to_string(&index).expect("written");
    assert!(text.contains(digest(&file).as_str()));
    // Another digest for the same file: believed, because it was remembered and not computed again.
    let wrong = "cd".repeat(32);
    std::fs::write(&index, text.replace(digest(&file).as_str(), &wrong)).expect("writable");
    let next = House::in_folders(folders, |_| ());
    let seen =
        |store: &Store| store.models.first().and_then(|one| one.digest.clone()).map(|one| one.to_string());
    let store = next.until("a digest", |store| seen(store).is_some()).await;
    assert_eq!(seen(&store), Some(wrong));
    // A file that changed is computed anew, and an index that is damaged is none.
    let folders = next.stop().await;
    std::fs::write(&index, b"{").expect("writable");
    House::in_folders(folders, |_| ()).has("x", &file).await;
}

#[tokio::test]
async fn a_file_that_has_changed_is_not_lent_under_its_old_digest() {
    // One look, at the start: what comes later is not seen.
    let folders = tempfile::tempdir().expect("a folder");
    let file = gguf(1000, 1);
    std::fs::create_dir(folders.path().join("models")).expect("a folder");
    std::fs::write(folders.path().join("models/m.gguf"), &file).expect("a file");
    let house =
        House::in_folders(folders, |config| config.pacing.scan = std::time::Duration::from_secs(3600));
    house.has("m", &file).await;
    let request = BlobRequest { digest: digest(&file).to_string(), ..BlobRequest::default() };
    let lent = house.store.lend(&request).await.map(|lent| lent.size);
    assert_eq!(lent.map_err(|refused| refused.message), Ok(file.len() as u64));
    house.write("m.gguf", &gguf(1000, 2));
    let refused = house.store.lend(&request).await.map(|lent| lent.size).expect_err("another file");
    assert_eq!(refused.kind, "no_such_blob");
    assert!(refused.message.contains("has changed"), "{}", refused.message);
}
