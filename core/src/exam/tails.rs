//! Tails of two distributions, which tests need: the fair coin's and Student's.

/// The probability of a split at least as uneven as `one` to `other` in as many throws of a fair coin: both tails,
/// exact. The exact test of McNemar is this of the items on which two runs differ (Fay 2010).
pub(super) fn coin(one: u64, other: u64) -> f64 {
    let (n, least) = (one.saturating_add(other), one.min(other));
    if one == other {
        return 1.0;
    }
    // P(X = least), then each smaller one from the one before; they fall, so the sum ends when they no longer count.
    let (n, k) = (n as f64, least as f64);
    let mut term = (ln_choose(n, k) - n * std::f64::consts::LN_2).exp();
    let mut sum = 0.0;
    let mut at = k;
    while term > sum * 1e-17 {
        sum += term;
        if at < 1.0 {
            break;
        }
        term *= at / (n - at + 1.0);
        at -= 1.0;
    }
    (2.0 * sum).min(1.0)
}

/// ln of n over k.
fn ln_choose(n: f64, k: f64) -> f64 {
    ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0)
}

/// ln Γ(x) for x > 0: Stirling's series from 15 on, where six terms are exact to 1e-16; smaller x are stepped up.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut steps) = (x, 1.0_f64);
    while x < 15.0 {
        steps *= x;
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let terms = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0];
    let series = terms.iter().rev().fold(0.0, |sum, term| sum * inverse + term) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - steps.ln()
}

/// The probability that Student's t with `freedom` degrees lies further from 0 than `t`, on either side.
pub(super) fn student(t: f64, freedom: f64) -> f64 {
    if t == 0.0 {
        return 1.0;
    }
    if !t.is_finite() {
        return 0.0;
    }
    let square = t * t;
    beta(freedom / (freedom + square), square / (freedom + square), freedom / 2.0, 0.5).clamp(0.0, 1.0)
}

/// How far from 0 Student's t with `freedom` degrees lies in 5 % of cases, on both sides together.
pub(super) fn student_95(freedom: f64) -> f64 {
    // 12.7 for one degree, 1.96 for many.
    let (mut low, mut high) = (1.9, 13.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if student(middle, freedom) > 0.05 { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The regularized incomplete beta function of x, with `rest` = 1 − x told beside it so that neither is rounded away.
fn beta(x: f64, rest: f64, a: f64, b: f64) -> f64 {
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * rest.ln()).exp();
    // The fraction converges fast on one side of the mean; the other is its mirror (DLMF 8.17.4, 8.17.22).
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(x, a, b) / a
    } else {
        1.0 - front * fraction(rest, b, a) / b
    }
}

/// The continued fraction of DLMF 8.17.22, by Lentz's method.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let shield = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / shield(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..2000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut step = 1.0;
        for term in [even, odd] {
            d = 1.0 / shield(1.0 + term * d);
            c = shield(1.0 + term / c);
            step = c * d;
            value *= step;
        }
        if (step - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}
