//! How good models are, by the examinations that machines' profiles tell of. Sizes say who is probably better; examinations
//! say more, where models sat the same.

use super::catalogue::Catalogue;
use crate::id::ModelId;
use crate::profile::TrialRecord;
use crate::statistics::Share;
use std::collections::{BTreeMap, BTreeSet};

/// Fewer items than this tell nothing of which model is better: with 50 the interval has 26 points.
pub const LEAST_ITEMS: u32 = 50;

/// Writes each model's grade into `catalogue`: the mean share over the suites that most of them sat together; who sat others
/// gets none. Lower ends of 95 % intervals, so that few items count for less. Of two results of one suite the newer
/// counts; results for one mode only, of too few items, and of another file of the same name do not.
pub fn grade<'a>(catalogue: &mut Catalogue, found: impl IntoIterator<Item = &'a TrialRecord>) {
    let mut results: BTreeMap<&ModelId, BTreeMap<&str, &TrialRecord>> = BTreeMap::new();
    for one in found {
        let Some(known) = catalogue.get(&one.model) else { continue };
        let is_other = |digest: &String| known.digest.as_ref().is_some_and(|known| known.as_str() != digest);
        if one.tried < LEAST_ITEMS || !one.mode.is_empty() || one.digest.as_ref().is_some_and(is_other) {
            continue;
        }
        let of_model = results.entry(&one.model).or_default();
        let is_newer = of_model.get(one.suite.as_str()).is_none_or(|known| known.at < one.at);
        if is_newer {
            of_model.insert(&one.suite, one);
        }
    }
    let suites = common(results.values());
    for (model, of_model) in &results {
        let shares = suites.iter().map(|suite| {
            let one = of_model.get(suite)?;
            Some(Share::wilson(one.passed.into(), one.tried.into())?.low)
        });
        let shares: Option<Vec<f64>> = shares.collect();
        let mean = shares.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>() / all.len() as f64);
        if let Some(known) = catalogue.get_mut(*model) {
            known.quality = mean;
        }
    }
}

/// The suites by which models are compared: of the sets that some model sat, and of single suites, the one that the most
/// models have whole; of equals the larger, then the first by name.
fn common<'a>(
    results: impl Iterator<Item = &'a BTreeMap<&'a str, &'a TrialRecord>> + Clone,
) -> BTreeSet<&'a str> {
    let sat: Vec<BTreeSet<&str>> = results.map(|one| one.keys().copied().collect()).collect();
    let all = sat.iter().cloned().reduce(|all, more| all.intersection(&more).copied().collect());
    let single = sat.iter().flatten().map(|suite| BTreeSet::from([*suite]));
    let sets: BTreeSet<BTreeSet<&str>> = sat.iter().cloned().chain(all).chain(single).collect();
    let have = |set: &BTreeSet<&str>| sat.iter().filter(|one| set.is_subset(one)).count();
    let best = sets.into_iter().filter(|set| !set.is_empty()).rev().max_by_key(|set| (have(set), set.len()));
    best.unwrap_or_default()
}

/// `models`, sorted by size, with those that have a grade sorted by it among themselves: who was not examined keeps the place
/// that the size gives.
pub(super) fn by_grade(models: Vec<ModelId>, catalogue: &Catalogue) -> Vec<ModelId> {
    let grade = |model: &ModelId| catalogue.get(model).and_then(|known| known.quality);
    let mut graded: Vec<(f64, ModelId)> =
        models.iter().filter_map(|model| Some((grade(model)?, model.clone()))).collect();
    // Stable: of equals the larger stays first.
    graded.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut graded = graded.into_iter().map(|(_, model)| model);
    let placed =
        |model: ModelId| if grade(&model).is_some() { graded.next().unwrap_or(model) } else { model };
    models.into_iter().map(placed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::KnownModel;
    use crate::units::Bytes;

    fn id(name: &str) -> ModelId {
        ModelId::new(name).expect("a good name")
    }

    fn result(model: &str, suite: &str, passed: u32, tried: u32, at: u64) -> TrialRecord {
        TrialRecord {
            model: id(model),
            suite: suite.into(),
            mode: String::new(),
            digest: None,
            passed,
            tried,
            at,
        }
    }

    /// What each of the models is graded.
    fn graded(found: &[TrialRecord]) -> BTreeMap<String, Option<u32>> {
        let names = ["large", "middle", "small"];
        let mut catalogue: Catalogue =
            names.iter().map(|name| (id(name), KnownModel::of_file(Bytes(1), None))).collect();
        grade(&mut catalogue, found);
        let percent = |known: &KnownModel| known.quality.map(|grade| (grade * 100.0).round() as u32);
        catalogue.iter().map(|(model, known)| (model.to_string(), percent(known))).collect()
    }

    fn expect(found: &[TrialRecord], large: Option<u32>, middle: Option<u32>, small: Option<u32>) {
        let all = [("large", large), ("middle", middle), ("small", small)];
        assert_eq!(graded(found), all.map(|(name, grade)| (name.to_owned(), grade)).into());
    }

    #[test]
    fn models_are_graded_by_the_suites_that_all_of_them_sat() {
        let mmlu = [result("large", "mmlu", 80, 100, 1), result("small", "mmlu", 60, 100, 1)];
        expect(&mmlu, Some(71), None, Some(50));
        let more = [mmlu.to_vec(), vec![result("large", "gsm8k", 0, 100, 1)]].concat();
        expect(&more, Some(71), None, Some(50));
        let apart = [result("large", "mmlu", 80, 100, 1), result("small", "gsm8k", 60, 100, 1)];
        expect(&apart, None, None, Some(50));
    }

    #[test]
    fn an_exam_that_one_model_sat_alone_changes_no_other_grade() {
        let two = |model: &str, mmlu, gsm8k| {
            [result(model, "mmlu", mmlu, 100, 1), result(model, "gsm8k", gsm8k, 100, 1)]
        };
        let both = [two("large", 80, 50), two("middle", 70, 60)].concat();
        let before = graded(&both);
        let after = graded(&[both, vec![result("small", "hellaswag", 90, 100, 1)]].concat());
        assert_eq!((after["large"], after["middle"]), (before["large"], before["middle"]));
        assert_eq!(after["small"], None, "it sat nothing that the others sat");
    }

    #[test]
    fn models_that_sat_more_than_the_others_are_compared_by_what_they_have_in_common() {
        let sat = |model: &str, suites: [(&str, u32); 3]| {
            suites.map(|(suite, passed)| result(model, suite, passed, 100, 1))
        };
        let two = [
            sat("large", [("a", 80), ("b", 20), ("c", 99)]),
            sat("middle", [("a", 70), ("b", 90), ("d", 99)]),
        ];
        // Wilson's lower ends of 80, 20, 70 and 90 of 100: 71, 13, 60 and 83.
        expect(&two.concat(), Some(42), Some(71), None);
        // Nothing that all of them sat: the suite that the most have.
        let three = [two.concat(), vec![result("small", "c", 50, 100, 1)]].concat();
        let by_one = [three, vec![result("middle", "c", 60, 100, 1)]].concat();
        expect(&by_one, Some(95), Some(50), Some(40));
        let apart = [
            [result("large", "a", 80, 100, 1), result("large", "b", 20, 100, 1)].to_vec(),
            [result("middle", "a", 70, 100, 1), result("middle", "c", 90, 100, 1)].to_vec(),
            vec![result("small", "d", 50, 100, 1)],
        ];
        expect(&apart.concat(), Some(71), Some(60), None);
    }

    #[test]
    fn a_result_of_another_file_of_the_same_name_counts_for_nothing() {
        let digest = |byte: &str| byte.repeat(32);
        let mut known = KnownModel::of_file(Bytes(1), None);
        known.digest = Some(crate::machine::Digest::new(&digest("0f")).expect("a digest"));
        let grade_of = |digest: Option<String>| {
            let mut catalogue: Catalogue = [(id("large"), known.clone())].into();
            grade(&mut catalogue, &[TrialRecord { digest, ..result("large", "mmlu", 80, 100, 1) }]);
            catalogue[&id("large")].quality
        };
        assert!(grade_of(Some(digest("0f"))).is_some() && grade_of(None).is_some());
        assert_eq!(grade_of(Some(digest("1f"))), None);
    }

    #[test]
    fn the_newest_result_counts_and_few_items_or_those_of_a_mode_do_not() {
        let newer = [result("large", "mmlu", 80, 100, 2), result("large", "mmlu", 10, 100, 1)];
        expect(&newer, Some(71), None, None);
        expect(&[result("large", "mmlu", 40, LEAST_ITEMS - 1, 1)], None, None, None);
        let of_mode = TrialRecord { mode: "code".into(), ..result("large", "mmlu", 80, 100, 1) };
        expect(&[of_mode], None, None, None);
        expect(&[result("gone", "mmlu", 80, 100, 1)], None, None, None);
        expect(&[result("large", "mmlu", 101, 100, 1)], None, None, None);
    }

    #[test]
    fn more_items_with_the_same_share_are_a_better_grade() {
        let found = [result("large", "mmlu", 40, 50, 1), result("small", "mmlu", 800, 1000, 1)];
        let grades = graded(&found);
        assert!(grades["small"] > grades["large"], "{grades:?}");
    }

    #[test]
    fn who_was_not_examined_keeps_the_place_of_its_size() {
        let sizes = ["a", "b", "c", "d"];
        let mut catalogue: Catalogue =
            sizes.iter().map(|name| (id(name), KnownModel::of_file(Bytes(1), None))).collect();
        for (name, quality) in [("b", 0.5), ("d", 0.7), ("a", 0.5)] {
            catalogue.get_mut(&id(name)).expect("it is there").quality = Some(quality);
        }
        let sorted = by_grade(sizes.map(id).to_vec(), &catalogue);
        assert_eq!(sorted.iter().map(ModelId::as_str).collect::<Vec<_>>(), ["d", "a", "c", "b"]);
    }
}
