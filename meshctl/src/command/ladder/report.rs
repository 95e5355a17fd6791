//! `meshctl ladder report`: kept climbs, compared, with what things cost. Reads the records and the prices; what the report
//! says and how it is written is [`Report`]'s.

use super::prices;
use crate::cli::{Format, ReportArgs};
use crate::command::keep::Keep;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::report::Report;
use mesh_core::id::MachineId;
use mesh_core::ladder::{Prices, Record};
use std::collections::BTreeSet;
use std::path::Path;

/// Climbs in one report, at most: more lines than that cannot be told apart.
const MOST: usize = 16;

/// # Errors
/// `NotFound` for a climb that there is not, `Usage` for one that is named twice, `Failed` for what cannot be read.
pub(super) fn run(args: &ReportArgs, keep: &Keep<Record>, screen: &Screen) -> Result<(), Failure> {
    let records = records(args, keep)?;
    let prices = args.prices.as_deref().map(prices::read).transpose()?;
    if let (Some(file), Some(prices)) = (&args.prices, &prices) {
        for line in unknown(file, prices, &records, keep)? {
            screen.note(&(screen.look.text(&line) + "\n"));
        }
    }
    let report = Report::of(&records, prices.as_ref());
    screen.result(&match screen.format {
        Format::Table | Format::Md => report.markdown(),
        Format::Csv => report.csv(),
        Format::Json => report.json(),
        Format::Html => report.html(),
    })
}

/// Which machines of a file of prices no kept climb is of, in words: a name may be mistyped, and then another
/// price is taken for it.
fn unknown(
    file: &Path,
    prices: &Prices,
    records: &[Record],
    keep: &Keep<Record>,
) -> Result<Vec<String>, Failure> {
    let mut known: BTreeSet<MachineId> = records.iter().map(|record| record.node.clone()).collect();
    if prices.machines.keys().all(|node| known.contains(node)) {
        return Ok(Vec::new());
    }
    // A file of prices may be for all machines, the report for some.
    known.extend(keep.ids()?.iter().filter_map(|id| keep.read(id).ok()).map(|record| record.node));
    let there: Vec<&str> = known.iter().map(MachineId::as_str).collect();
    let line = |node: &MachineId| {
        format!(
            "{}: no climb is of machines.{node}; there are climbs of {}",
            file.display(),
            there.join(", ")
        )
    };
    Ok(prices.machines.keys().filter(|node| !known.contains(*node)).map(line).collect())
}

/// Those that are named, in their order, or the newest.
fn records(args: &ReportArgs, keep: &Keep<Record>) -> Result<Vec<Record>, Failure> {
    if args.ids.is_empty() {
        return Ok(vec![keep.named(None)?]);
    }
    if args.ids.len() > MOST {
        let what = format!("{} climbs are more than the {MOST} that one report compares", args.ids.len());
        return Err(Failure::new(Kind::Usage, what).hint("list all: meshctl ladder list"));
    }
    let mut records: Vec<Record> = Vec::new();
    for id in &args.ids {
        let record = keep.named(Some(id))?;
        if records.iter().any(|known| known.id == record.id) {
            let what = format!("climb {} is named twice, the second time as `{id}`", record.id);
            return Err(Failure::new(Kind::Usage, what).hint("list all: meshctl ladder list"));
        }
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::ladder::{About, BenchRow, MachinePrice, import};

    fn climb(node: &str, id: &str) -> Record {
        let rows: Vec<BenchRow> =
            serde_json::from_str(include_str!("import_samples/llama-bench.json")).expect("rows");
        let node = MachineId::new(node).expect("a good name");
        import(&rows, About { id: id.into(), node, meshctl: "0.1.0".into() }).expect("a climb").0
    }

    #[test]
    fn prices_of_a_machine_that_no_climb_knows_are_told_and_those_of_another_climb_are_not() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let keep = Keep::<Record>::of(data.path());
        let (msi, strix) = (climb("msi", "1"), climb("strix-1", "2"));
        for record in [&msi, &strix] {
            keep.write(record).expect("it is kept");
        }
        let told = |nodes: &[&str]| {
            let price = MachinePrice { price: 900.0, years: 4.0, hours_per_day: 8.0 };
            let priced = nodes.iter().map(|node| (MachineId::new(*node).expect("a good name"), price));
            let prices = Prices { machines: priced.collect(), ..Prices::default() };
            unknown(Path::new("p.toml"), &prices, std::slice::from_ref(&msi), &keep)
                .expect("the folder is there")
        };
        assert_eq!((told(&[]), told(&["msi"]), told(&["msi", "strix-1"])), Default::default());
        assert_eq!(
            told(&["msi", "strix-2", "strx-1"]),
            ["strix-2", "strx-1"].map(|node| {
                format!("p.toml: no climb is of machines.{node}; there are climbs of msi, strix-1")
            })
        );
    }
}
