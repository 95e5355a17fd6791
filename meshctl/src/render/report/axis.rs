//! Axes: where a value lies on paper, and at which round values the reader is told so.

/// How values are spread over an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spacing {
    /// Equal differences are equally wide; 0 is on it.
    FromZero,
    /// The same without the 0: what is between the least and the largest value.
    Within,
    /// Equal ratios are equally wide.
    Ratio,
    /// The same, told at powers of two: tokens.
    Doubling,
}

/// The least and the largest value that is drawn on an axis of ratios.
const RATIOS: std::ops::RangeInclusive<f64> = 1e-9..=1e12;
/// The most ticks that are readable.
const MOST_TICKS: usize = 9;

/// One axis on paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    spacing: Spacing,
    /// What is drawn at `from`, and at `to`; never equal.
    low: f64,
    high: f64,
    /// Pixels.
    from: f64,
    to: f64,
}

impl Scale {
    /// An axis for all `values` that can be drawn; `None` where there is none.
    pub(super) fn of(
        spacing: Spacing,
        values: impl Iterator<Item = f64>,
        from: f64,
        to: f64,
    ) -> Option<Self> {
        let mut ends: Option<(f64, f64)> = None;
        for value in values.filter(|value| can_be_drawn(spacing, *value)) {
            let (low, high) = ends.unwrap_or((value, value));
            ends = Some((low.min(value), high.max(value)));
        }
        let (low, high) = ends?;
        let (low, high) = match spacing {
            Spacing::FromZero => (0.0, nice_above(if high > 0.0 { high } else { 1.0 })),
            Spacing::Within => {
                // A single value has a little around it.
                let around = (low.abs() * 0.01).max(1.0);
                let (low, high) = if high > low { (low, high) } else { (low - around, high + around) };
                let step = round_step((high - low) / 5.0);
                ((low / step).floor() * step, (high / step).ceil() * step)
            }
            // Room for markers, and for a single value.
            Spacing::Ratio | Spacing::Doubling => {
                let room = (high / low).powf(0.06).max(1.15);
                (low / room, high * room)
            }
        };
        Some(Self { spacing, low, high, from, to })
    }

    /// Where `value` lies; what is beyond the ends is drawn at them.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = match self.spacing {
            Spacing::FromZero | Spacing::Within => (value - self.low) / (self.high - self.low),
            Spacing::Ratio | Spacing::Doubling => {
                (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
            }
        };
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        self.from + share * (self.to - self.from)
    }

    /// Round values between the ends, with their words.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let values = match self.spacing {
            Spacing::FromZero | Spacing::Within => even(self.low, self.high),
            Spacing::Doubling => thinned(powers(2.0, &[1.0], self.low, self.high)),
            Spacing::Ratio => {
                let fine = powers(10.0, &[1.0, 2.0, 5.0], self.low, self.high);
                match fine.len() {
                    0..2 => even(self.low, self.high),
                    2..=MOST_TICKS => fine,
                    _ => thinned(powers(10.0, &[1.0], self.low, self.high)),
                }
            }
        };
        // Neighbours that are told apart need as many digits as their distance.
        let step = values.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        let word = |value: f64| match self.spacing {
            Spacing::FromZero | Spacing::Within => words(value, step),
            Spacing::Doubling if value >= 1024.0 => format!("{}K", words(value / 1024.0, step / 1024.0)),
            Spacing::Ratio | Spacing::Doubling => words(value, step.min(value)),
        };
        values.iter().map(|value| (*value, word(*value))).collect()
    }
}

pub(super) fn can_be_drawn(spacing: Spacing, value: f64) -> bool {
    match spacing {
        Spacing::FromZero => value.is_finite() && (0.0..=*RATIOS.end()).contains(&value),
        Spacing::Within => value.abs() <= *RATIOS.end(),
        Spacing::Ratio | Spacing::Doubling => RATIOS.contains(&value),
    }
}

/// Multiples of a round step between two values.
fn even(low: f64, high: f64) -> Vec<f64> {
    let step = round_step((high - low) / 5.0);
    let first = (low / step).ceil();
    let count = ((high / step + 1e-9).floor() - first).max(-1.0) as usize;
    (0..=count.min(2 * MOST_TICKS))
        .map(|at| (first + at as f64) * step)
        .filter(|value| *value <= high * (1.0 + 1e-9))
        .collect()
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-12).log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// The next round value that is not below `value`.
fn nice_above(value: f64) -> f64 {
    let step = round_step(value / 5.0);
    (value / step - 1e-9).ceil().max(1.0) * step
}

fn powers(of: f64, factors: &[f64], low: f64, high: f64) -> Vec<f64> {
    let first = low.log(of).floor() as i32;
    let last = high.log(of).ceil() as i32;
    let all = (first..=last).flat_map(|power| factors.iter().map(move |factor| factor * of.powi(power)));
    all.filter(|value| (low..=high).contains(value)).collect()
}

/// Every second, third … of them, so that they can be read.
fn thinned(values: Vec<f64>) -> Vec<f64> {
    let stride = values.len().div_ceil(MOST_TICKS).max(1);
    values.into_iter().step_by(stride).collect()
}

/// `0.05`, `20`, `1500`, with the digits that tell two values apart that are `step` away from each other.
fn words(value: f64, step: f64) -> String {
    let digits = (-step.log10()).ceil().clamp(0.0, 12.0) as usize;
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".into() } else { text.to_owned() }
}
