//! `meshctl ladder report`: kept climbs, compared, with what things cost. Reads the records and the prices; what the report
//! says and how it is written is [`Report`]'s.

use super::prices;
use crate::cli::{Format, ReportArgs};
use crate::command::keep::Keep;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::report::Report;
use mesh_core::ladder::Record;

/// Climbs in one report, at most: more lines than that cannot be told apart.
const MOST: usize = 16;

/// # Errors
/// `NotFound` for a climb that there is not, `Usage` for one that is named twice, `Failed` for what cannot be read.
pub(super) fn run(args: &ReportArgs, keep: &Keep<Record>, screen: &Screen) -> Result<(), Failure> {
    let records = records(args, keep)?;
    let prices = args.prices.as_deref().map(prices::read).transpose()?;
    let report = Report::of(&records, prices.as_ref());
    screen.result(&match screen.format {
        Format::Table | Format::Md => report.markdown(),
        Format::Csv => report.csv(),
        Format::Json => report.json(),
        Format::Html => report.html(),
    })
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
