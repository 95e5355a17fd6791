//! A climb with real engines, begun as a person begins it: the program's own entry, its own runtime, its own record.

use integration_tests::desk::{Desk, NOISE, TRAINED};
use mesh_core::id::ModelId;
use mesh_core::ladder::{Outcome, Record, analyse, summarise};
use std::collections::BTreeSet;

#[tokio::test]
async fn a_random_model_is_gibberish_a_trained_one_is_not_and_the_machine_is_put_back() {
    let Some(ladder) = Desk::start().await else { return };
    let before = ladder.load_one().await;

    // Small figures: what is looked at is the way, not the speed. The trained model is so small that it goes in circles when
    // it is asked greedily for long.
    let line = "ladder run --node a --models trained,untrained --matrix 64:16,200:16 --streams 1,2 --repetitions 2 \
                --answer-tokens 24 --yes";
    assert_eq!(ladder.typed(line).await, 0);

    let record: Record = serde_json::from_str(&ladder.kept("ladder")).expect("a record within its bounds");
    assert_eq!(record.check(), Ok(()));
    assert!(record.ended_unix_ms.is_some());
    let rung = |name: &str| {
        let model = ModelId::new(name).expect("a good name");
        record.rungs.iter().find(|rung| rung.model == model).unwrap_or_else(|| panic!("{name}: {record:?}"))
    };
    for name in [TRAINED, NOISE] {
        let rung = rung(name);
        // Measured again where something else used the processors meanwhile: a test cannot keep that away.
        let works = rung.cells.iter().map(|cell| (cell.work.prompt_tokens, cell.work.streams));
        let works: BTreeSet<(u32, u32)> = works.collect();
        assert_eq!((&rung.outcome, works.len(), rung.answers.len()), (&Outcome::Done, 4, 5), "{name}");
        let again = rung.cells.iter().filter(|cell| !cell.marks.is_empty()).count();
        assert!((4..=4 + again).contains(&rung.cells.len()), "{name}: {again} of {}", rung.cells.len());
        assert!(rung.load_s.is_some_and(|seconds| seconds > 0.0), "{name}");
        for cell in &rung.cells {
            let counted = cell.runs.iter().filter(|run| !run.warm_up);
            assert_eq!(counted.count() as u32, cell.work.streams * 2, "{name}: {:?}", cell.work);
            assert!(cell.runs.iter().all(|run| run.error.is_none()), "{name}: {:?}", cell.runs);
        }
        assert!(summarise(rung).decode.is_some_and(|rate| rate.median > 0.0), "{name}");
    }
    let answers = |name: &str| summarise(rung(name)).answers.expect("it was asked");
    let (trained, noise) = (answers(TRAINED), answers(NOISE));
    let is_sound = trained.gibberish == 0 && trained.empty == 0 && trained.success.of >= 4;
    assert!(is_sound, "{trained:?}: {:?}", rung(TRAINED).answers);
    assert!(noise.gibberish >= 4 && noise.success.of <= 1, "{noise:?}: {:?}", rung(NOISE).answers);

    let analysis = analyse(&record);
    let avoided =
        analysis.avoid.iter().find(|avoided| avoided.model.as_str() == NOISE).expect("it is avoided");
    assert!(avoided.reasons[0].contains("answers gibberish"), "{avoided:?}");
    let chosen: Vec<&ModelId> = analysis.kinds.iter().filter_map(|kind| kind.model.as_ref()).collect();
    assert!(chosen.iter().all(|model| model.as_str() != NOISE), "{:?}", analysis.kinds);

    // As it was: the model in its size, and nobody holds the machine back.
    assert_eq!((ladder.loaded(), ladder.is_cordoned().await), (before, false));
    for line in ["ladder list", "ladder show", "ladder show --rung untrained --samples", "--json ladder show"]
    {
        assert_eq!(ladder.typed(line).await, 0, "{line}");
    }
    assert_eq!(ladder.typed("ladder show 1999").await, 4);
    ladder.mesh.stop().await;
}
