//! Reports: the owner's climb and two machines in each form, and what must hold whatever a record says.

mod climbs;
mod laws;
mod well_formed;

use super::Report;
use climbs::{model, owners, prices, two_machines};
use mesh_core::ladder::{Outcome, Record, Rung};
use well_formed::{Page, elements};

#[test]
fn the_owners_climb_as_markdown() {
    insta::assert_snapshot!(Report::of(&[owners()], None).markdown());
}

#[test]
fn the_owners_climb_as_csv() {
    insta::assert_snapshot!(Report::of(&[owners()], None).csv());
}

#[test]
fn the_owners_climb_as_json() {
    insta::assert_snapshot!(Report::of(&[owners()], None).json());
}

#[test]
fn two_machines_as_markdown() {
    insta::assert_snapshot!(Report::of(&two_machines(), Some(&prices())).markdown());
}

#[test]
fn two_machines_as_csv() {
    insta::assert_snapshot!(Report::of(&two_machines(), Some(&prices())).csv());
}

#[test]
fn two_machines_as_json() {
    insta::assert_snapshot!(Report::of(&two_machines(), Some(&prices())).json());
}

/// With `UPDATE_DOCS=1` the example in `docs/` is written anew; else it must be what the program writes.
#[test]
fn the_example_in_the_docs_is_the_report_of_the_owners_climb() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ladder-report.html");
    let html = Report::of(&[owners()], None).html();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(file, &html).expect("docs/ can be written");
    }
    let kept = std::fs::read_to_string(file).expect("docs/ladder-report.html");
    assert!(
        kept == html,
        "docs/ladder-report.html is not what the program writes: run this test with UPDATE_DOCS=1"
    );
}

/// Where `REPORTS` names a folder, the pages are left there, to be looked at.
#[test]
fn every_page_is_well_formed_and_fetches_and_runs_nothing() {
    let empty = Record { rungs: vec![], stopped: None, ..owners() };
    for (name, records, prices) in [
        ("owners", vec![owners()], None),
        ("two-machines", two_machines(), Some(prices())),
        ("empty", vec![empty], None),
        ("hostile", vec![hostile()], None),
    ] {
        let html = Report::of(&records, prices.as_ref()).html();
        if let Some(folder) = std::env::var_os("REPORTS") {
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.html")), &html)
                .expect("a folder");
        }
        let page = elements(&html).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        for element in &page.elements {
            assert!(
                !matches!(element.name.as_str(), "script" | "link" | "img" | "iframe" | "object"),
                "{name}"
            );
            for (attribute, value) in &element.attributes {
                assert!(!attribute.starts_with("on") && attribute != "src", "{name}: {attribute}");
                assert!(attribute != "href" || value.starts_with('#'), "{name}: {value}");
            }
        }
        assert!(!html.contains("url(") && !html.contains("@import") && !html.contains("NaN"), "{name}");
        // What the browser shows must be in the style as it was written.
        assert!(html.contains("prefers-color-scheme: dark") && html.contains("@media print"), "{name}");
    }
}

/// Every text that may come from outside holds markup.
const HOSTILE: &str = "<script>alert(\"1\")</script>'\"><img src=x onerror=a>|`=1\u{1b}[2J\u{202e}";

fn hostile() -> Record {
    let mut record = owners();
    record.meshctl = HOSTILE.into();
    record.hardware.cpu = Some(HOSTILE.into());
    record.hardware.gpus[0].name = HOSTILE.into();
    record.software.system = Some(HOSTILE.into());
    record.software.agent = HOSTILE.into();
    record.software.drivers = vec![HOSTILE.into()];
    record.settings.prompts = HOSTILE.into();
    if let Some(stopped) = &mut record.stopped {
        stopped.why = HOSTILE.into();
    }
    for rung in &mut record.rungs {
        rung.label = HOSTILE.into();
        rung.quantisation = Some(HOSTILE.into());
        rung.digest = Some(HOSTILE.into());
        rung.specialty = Some(HOSTILE.into());
        let subject = rung.subject.as_mut().expect("each has one");
        (subject.build, subject.device) = (HOSTILE.into(), HOSTILE.into());
        rung.answers[0].run.text = HOSTILE.into();
    }
    let failed = Rung { outcome: Outcome::Failed(HOSTILE.into()), ..Rung::new(model("failed:1b"), HOSTILE) };
    let skipped =
        Rung { outcome: Outcome::Skipped(HOSTILE.into()), ..Rung::new(model("skipped:1b"), HOSTILE) };
    record.rungs.extend([failed, skipped]);
    record
}

#[test]
fn what_a_record_says_is_text_in_every_form() {
    let records = [hostile()];
    let report = Report::of(&records, None);
    let Page { text, .. } = elements(&report.html()).expect("well formed");
    // It is shown, all of it, and none of it is markup.
    let shown = HOSTILE.replace(['\u{1b}', '\u{202e}'], "\u{fffd}");
    assert!(text.matches(&shown).count() > 20, "{}", text.matches(&shown).count());
    let markdown = report.markdown();
    assert!(!markdown.contains("<script") && !markdown.contains("<img") && !markdown.contains('\u{1b}'));
    for line in markdown.lines().filter(|line| line.starts_with('|')) {
        let bars = line.replace("\\|", "").matches('|').count();
        assert!(bars > 1, "{line}");
    }
    let csv = report.csv();
    assert!(csv.contains("\"<script>alert(\"\"1\"\")</script>"));
    let value: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
    assert_eq!(value["climbs"][0]["models"][0]["quantisation"], HOSTILE);
}

#[test]
fn tables_have_as_many_cells_as_heads_in_every_row() {
    for records in [vec![owners()], two_machines(), vec![hostile()]] {
        let report = Report::of(&records, None);
        let mut columns = None;
        for line in report.markdown().lines() {
            let bars = line.replace("\\\\", "").replace("\\|", "").matches('|').count();
            match columns {
                _ if !line.starts_with('|') => columns = None,
                None => columns = Some(bars),
                Some(heads) => assert_eq!(bars, heads, "{line}"),
            }
        }
    }
}

/// The fields of a file as RFC 4180 reads it.
fn fields(csv: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field, mut is_quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut letters = csv.chars().peekable();
    while let Some(c) = letters.next() {
        match c {
            '"' if is_quoted && letters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => row.push(std::mem::take(&mut field)),
            '\r' if !is_quoted && letters.next_if_eq(&'\n').is_some() => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            c => field.push(c),
        }
    }
    assert!(row.is_empty() && field.is_empty(), "the last line has an end");
    rows
}

#[test]
fn csv_has_a_row_for_each_cell_and_a_field_for_each_head() {
    for (records, cells) in [(vec![owners()], 5), (two_machines(), 29), (vec![hostile()], 7)] {
        let rows = fields(&Report::of(&records, Some(&prices())).csv());
        assert_eq!(rows.len(), cells + 1);
        for row in &rows {
            assert_eq!(row.len(), rows[0].len(), "{row:?}");
            assert!(row.iter().all(|field| !field.starts_with(['=', '+', '@'])), "{row:?}");
        }
        let at = |head: &str| rows[0].iter().position(|known| known == head).expect("a head");
        let models: Vec<&str> = rows[1..].iter().map(|row| row[at("model")].as_str()).collect();
        assert_eq!(models[0], records[0].rungs[0].model.as_str());
        assert!(rows[1..].iter().all(|row| row[at("n")].is_empty() || row[at("n")].parse::<u32>().is_ok()));
    }
}

#[test]
fn nothing_measured_gives_sentences_in_place_of_plots() {
    let empty = [Record { rungs: vec![], stopped: None, ..owners() }];
    let page = elements(&Report::of(&empty, None).html()).expect("well formed");
    assert!(page.elements.iter().all(|element| element.name != "svg"));
    for said in [
        "No model with a known size has a measured speed.",
        "No time to the first token was measured",
        "No model with a known size was asked questions.",
        "No temperature was read while it worked.",
        "No model was tried.",
    ] {
        assert!(page.text.contains(said), "{said}");
    }
}

#[test]
fn two_climbs_of_one_machine_are_told_apart_by_their_ids() {
    let again = Record { id: "20261122-080000-000".into(), ..owners() };
    let markdown = Report::of(&[owners(), again], None).markdown();
    assert!(
        markdown
            .starts_with("# Ladder report: msi-raider 20261121-120411-007, msi-raider 20261122-080000-000\n")
    );
}
