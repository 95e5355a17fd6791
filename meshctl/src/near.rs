//! Names that look like one that was mistyped.

/// Names that are proposed, at most.
const PROPOSED: usize = 3;

/// The names most like `typed`, best first; none where nothing is alike.
pub(crate) fn near<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let typed = plain(typed);
    // A third of a name may be wrong; five letters off are another name however long it is.
    let bound = (typed.len() / 3).clamp(1, 5);
    let mut scored: Vec<(usize, &str)> = names
        .into_iter()
        .map(|name| (steps(&typed, &plain(name)), name))
        .filter(|(steps, _)| *steps <= bound)
        .collect();
    scored.sort_unstable();
    scored.dedup();
    scored.into_iter().take(PROPOSED).map(|(_, name)| name).collect()
}

/// `did you mean a or b?`, where anything is alike.
pub(crate) fn did_you_mean<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near = near(typed, names);
    (!near.is_empty()).then(|| format!("did you mean {}?", near.join(" or ")))
}

/// Without what people mistype most: case and separators.
fn plain(name: &str) -> Vec<char> {
    let separators = |c: char| if matches!(c, '/' | '_' | ' ' | ':') { '-' } else { c };
    name.chars().take(64).map(separators).flat_map(char::to_lowercase).collect()
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour (optimal string alignment).
fn steps(from: &[char], to: &[char]) -> usize {
    let mut rows: [Vec<usize>; 3] = [vec![0; to.len() + 1], vec![0; to.len() + 1], (0..=to.len()).collect()];
    for (i, a) in from.iter().enumerate() {
        rows.rotate_left(1);
        rows[2][0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let mut least = (rows[1][j] + usize::from(a != b)).min(rows[1][j + 1] + 1).min(rows[2][j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(rows[0][j - 1] + 1);
            }
            rows[2][j + 1] = least;
        }
    }
    rows[2][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_are_missing_added_wrong_or_swapped_are_one_step() {
        let steps = |a: &str, b: &str| super::steps(&plain(a), &plain(b));
        assert_eq!(steps("strix-1", "strix-1"), 0);
        assert_eq!(steps("Strix_1", "strix-1"), 0);
        for typed in ["strx-1", "strrix-1", "strix-2", "srtix-1"] {
            assert_eq!(steps(typed, "strix-1"), 1, "{typed}");
        }
        assert_eq!((steps("", "abc"), steps("abc", "")), (3, 3));
    }

    #[test]
    fn the_most_similar_name_comes_first_and_strangers_do_not_come() {
        let names = ["msi-4070", "strix-1", "strix-2"];
        assert_eq!(near("strix1", names), ["strix-1", "strix-2"]);
        assert_eq!(near("beelink", names), Vec::<&str>::new());
        assert_eq!(near("nope", ["code", "mode"]), Vec::<&str>::new(), "half of it is another word");
        assert_eq!(did_you_mean("strx-1", ["strix-1"]).as_deref(), Some("did you mean strix-1?"));
    }
}
