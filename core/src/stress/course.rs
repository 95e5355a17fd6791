//! The machine's temperature over the whole time.

use super::record::Record;
use crate::statistics::sorted;
use serde::Serialize;
use std::collections::BTreeSet;

/// Points of the course, at most: as many as fit in a line beside words.
const POINTS: usize = 48;

/// How warm it became. `null` = no sensor told.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Course {
    /// Degrees Celsius at the first look.
    pub start: Option<f64>,
    /// At the last.
    pub end: Option<f64>,
    /// At most.
    pub max: Option<f64>,
    /// Seconds in which the machine was seen slowed down for heat or power.
    pub throttled_s: Option<u64>,
    /// From the first look to the last, in seconds.
    pub seconds: f64,
    /// The highest of each piece of that time, all pieces being equally long; `null` = nobody looked.
    pub points: Vec<Option<f64>>,
}

/// The course of all stints together.
pub(super) fn course(record: &Record) -> Course {
    let mut looks: Vec<(f64, Option<f64>, Option<bool>)> = Vec::new();
    for stint in &record.stints {
        looks.extend(stint.cell.samples.iter().map(|sample| {
            let degrees = sample.temperature.or(sample.gpu_temperature).map(f64::from);
            (stint.began_s + sample.at_s, degrees.filter(|degrees| degrees.is_finite()), sample.throttled)
        }));
    }
    looks.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Several models that work at once are each told of the same second.
    let slowed: BTreeSet<u64> =
        looks.iter().filter(|look| look.2 == Some(true)).map(|look| whole(look.0)).collect();
    let throttled_s = looks.iter().any(|look| look.2.is_some()).then_some(slowed.len() as u64);
    let warm: Vec<(f64, f64)> = looks.iter().filter_map(|look| Some((look.0, look.1?))).collect();
    let (Some(first), Some(last)) = (warm.first(), warm.last()) else {
        return Course { throttled_s, ..Course::default() };
    };
    let seconds = last.0 - first.0;
    let count = POINTS.min(warm.len());
    let mut points: Vec<Option<f64>> = vec![None; count];
    for (at, degrees) in &warm {
        let share = if seconds > 0.0 { (at - first.0) / seconds } else { 0.0 };
        let place = (whole(share * count as f64) as usize).min(count - 1);
        points[place] = Some(points[place].map_or(*degrees, |known| known.max(*degrees)));
    }
    Course {
        start: Some(first.1),
        end: Some(last.1),
        max: sorted(warm.iter().map(|look| look.1)).last().copied(),
        throttled_s,
        seconds,
        points,
    }
}

/// The whole part of what is not negative.
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}
