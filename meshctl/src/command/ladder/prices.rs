//! The file of prices: read, and checked before anything is computed with it. What is wrong is told with its line.

use crate::exit::{Failure, Kind};
use mesh_core::ladder::Prices;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;
use toml_edit::{ImDocument, Item};

/// The longest file of prices, in bytes.
const LONGEST: u64 = 1 << 20;
/// Prices of clouds, at most: each is a column.
const CLOUDS: usize = 32;

/// # Errors
/// `Failed` for a file that cannot be read or holds something else than prices.
pub(super) fn read(file: &Path) -> Result<Prices, Failure> {
    let failed = |cause: String| {
        Failure::new(Kind::Failed, format!("cannot read {}", file.display()))
            .cause(cause)
            .hint("copy configs/prices.toml of the project and change its figures")
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| failed(error.to_string()))?;
    opened.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    // A part of it would be other prices.
    if bytes.len() as u64 > LONGEST {
        return Err(failed(format!("it is longer than {} MiB", LONGEST >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?;
    parsed(&text).map_err(failed)
}

fn parsed(text: &str) -> Result<Prices, String> {
    let placed = |at: Option<Range<usize>>, what: &str| match at {
        Some(at) => format!("line {}: {what}", line(text, at.start)),
        None => what.to_owned(),
    };
    let document = ImDocument::parse(text).map_err(|error| placed(error.span(), error.message()))?;
    let prices: Prices =
        toml_edit::de::from_str(text).map_err(|error| placed(error.span(), error.message()))?;
    match wrong(&prices) {
        None => Ok(prices),
        Some((path, what)) => Err(placed(at(document.as_item(), &path), &what)),
    }
}

fn line(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// Where the innermost part of `path` stands that is written down.
fn at(mut item: &Item, path: &[String]) -> Option<Range<usize>> {
    let mut found = None;
    for name in path {
        let next = match name.parse::<usize>() {
            Ok(place) => item.get(place),
            Err(_) => item.get(name.as_str()),
        };
        let Some(next) = next else { break };
        found = next.span().or(found);
        item = next;
    }
    found
}

/// The first value that makes no sense: where it is, and what it must be.
fn wrong(prices: &Prices) -> Option<(Vec<String>, String)> {
    let path = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<String>>();
    if prices.currency.trim().is_empty() {
        return Some((path(&["currency"]), "currency is missing: €, $, or what your bills are in".into()));
    }
    let mut amounts = vec![(path(&["per_kwh"]), prices.per_kwh)];
    let named = prices.machines.iter().map(|(node, machine)| (path(&["machines", node.as_str()]), *machine));
    for (of, machine) in prices.machine.map(|machine| (path(&["machine"]), machine)).into_iter().chain(named)
    {
        let parts =
            [("price", machine.price), ("years", machine.years), ("hours_per_day", machine.hours_per_day)];
        amounts.extend(parts.map(|(part, value)| ([of.clone(), path(&[part])].concat(), Some(value))));
        if machine.hours_per_day > 24.0 {
            let what = format!("hours_per_day is {}, and a day has 24", machine.hours_per_day);
            return Some(([of, path(&["hours_per_day"])].concat(), what));
        }
    }
    for (place, cloud) in prices.cloud.iter().enumerate() {
        let of = |part: &str| vec!["cloud".to_owned(), place.to_string(), part.to_owned()];
        amounts.push((of("per_million"), Some(cloud.per_million)));
        let words = [("model", &cloud.model), ("as_of", &cloud.as_of), ("source", &cloud.source)];
        if let Some((part, _)) = words.iter().find(|(_, text)| text.trim().is_empty()) {
            return Some((of(part), format!("{part} of a cloud's price is empty")));
        }
        if !is_date(&cloud.as_of) {
            return Some((
                of("as_of"),
                format!("as_of is `{}`, and must be a day as 2026-11-21", cloud.as_of),
            ));
        }
    }
    if prices.cloud.len() > CLOUDS {
        return Some((
            path(&["cloud"]),
            format!("{} prices of clouds are more than {CLOUDS}", prices.cloud.len()),
        ));
    }
    let is_price = |value: f64| value.is_finite() && value > 0.0;
    let (of, value) =
        amounts.into_iter().find_map(|(of, value)| Some((of, value.filter(|value| !is_price(*value))?)))?;
    let what =
        format!("{} is {value}, and must be more than 0", of.last().map(String::as_str).unwrap_or_default());
    Some((of, what))
}

fn is_date(text: &str) -> bool {
    let is_number = |part: &&str, letters| part.len() == letters && part.chars().all(|c| c.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts.as_slice() else { return false };
    let within = |part: &str, most: u32| part.parse::<u32>().is_ok_and(|value| (1..=most).contains(&value));
    is_number(year, 4) && is_number(month, 2) && is_number(day, 2) && within(month, 12) && within(day, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../../configs/prices.toml");

    #[test]
    fn the_example_has_every_field_and_calls_each_price_an_example() {
        let prices = parsed(EXAMPLE).expect("prices");
        assert!(prices.per_kwh.is_some() && prices.machine.is_some() && !prices.machines.is_empty());
        assert!(!prices.cloud.is_empty());
        for cloud in &prices.cloud {
            let told = [&cloud.model, &cloud.source];
            assert!(told.iter().all(|text| text.contains("EXAMPLE")), "{cloud:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let base = "currency = \"€\"\n";
        for (more, said) in [
            ("per_kwh = 0.3\nper_kwh = 0.4\n", "line 3: duplicate key `per_kwh`"),
            ("per_kwh = \n", "line 2: "),
            ("per_kwh = \"a\"\n", "line 2: invalid type: string \"a\""),
            ("\nper_hour = 1\n", "line 3: unknown field `per_hour`"),
            ("\n\nper_kwh = -0.3\n", "line 4: per_kwh is -0.3, and must be more than 0"),
            ("per_kwh = nan\n", "line 2: per_kwh is NaN, and must be more than 0"),
            (
                "[machine]\nprice = 1\nyears = 0\nhours_per_day = 4\n",
                "line 4: years is 0, and must be more than 0",
            ),
            (
                "[machine]\nprice = 1\nyears = 1\nhours_per_day = 25\n",
                "line 5: hours_per_day is 25, and a day has 24",
            ),
            ("[machines.msi]\nprice = 1\n", "line 2: missing field `years`"),
            (
                "[[cloud]]\nmodel = \"m\"\nper_million = 1\nas_of = \"May\"\nsource = \"s\"\n",
                "line 5: as_of is `May`, and must be a day as 2026-11-21",
            ),
        ] {
            let found = parsed(&format!("{base}{more}")).expect_err(more);
            assert!(found.starts_with(said), "{more}: {found}");
        }
        let found = parsed("per_kwh = 1").expect_err("in which currency?");
        assert_eq!(found, "currency is missing: €, $, or what your bills are in");
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_and_none_of_it_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("prices.toml");
        let mut text = String::from("currency = \"€\"\n");
        text.extend(std::iter::repeat_n('#', (1 << 20) - text.len()));
        std::fs::write(&file, &text).expect("written");
        assert!(read(&file).is_ok(), "as long as may be");
        std::fs::write(&file, text + "\nper_kwh = 0.3\n").expect("written");
        let failure = read(&file).expect_err("one line too many");
        assert_eq!(failure.kind, Kind::Failed);
        assert_eq!(failure.cause.as_deref(), Some("it is longer than 1 MiB"));
    }

    #[test]
    fn a_file_that_is_not_there_says_what_to_copy() {
        let failure = read(Path::new("/nowhere/prices.toml")).expect_err("there is none");
        assert_eq!((failure.kind, failure.what.as_str()), (Kind::Failed, "cannot read /nowhere/prices.toml"));
        assert!(failure.hints[0].contains("configs/prices.toml"));
    }
}
