//! What a million tokens cost: electricity, the machine, and a cloud beside them.

use crate::built::measured;
use mesh_core::id::MachineId;
use mesh_core::ladder::{CloudPrice, MachinePrice, Prices, RungSummary, cost, summarise};
use std::collections::BTreeMap;

fn rung() -> RungSummary {
    RungSummary { joules_per_token: Some(3.6), ..summarise(&measured("m", 1.0, 50.0)) }
}

fn prices() -> Prices {
    Prices {
        currency: "€".into(),
        per_kwh: Some(0.3),
        machine: Some(MachinePrice { price: 3944.7, years: 3.0, hours_per_day: 4.0 }),
        machines: BTreeMap::new(),
        cloud: vec![CloudPrice {
            model: "big".into(),
            per_million: 15.0,
            as_of: "2026-11-21".into(),
            source: "its price list".into(),
        }],
    }
}

#[test]
fn a_million_tokens_cost_electricity_and_a_part_of_the_machine() {
    let found = cost(&rung(), &prices());
    let energy = found.energy.expect("given");
    assert!((energy.per_million - 0.3).abs() < 1e-9, "3.6 J are a kWh for a million: {energy:?}");
    assert_eq!(
        energy.how,
        "3.60 J/token (512:128 tokens, 1 stream) = 1.00 kWh, at 0.30 €/kWh; graphics processors only"
    );
    // 3 × 365.25 days of 4 h are 4383 h; 50 tokens each second make 788.94 million: 5 € each.
    let machine = found.amortised.expect("given");
    assert!((machine.per_million - 5.0).abs() < 1e-3, "{machine:?}");
    assert_eq!(machine.how, "3945 € over 3.00 years of 4.00 h a day, 50.0 tok/s of one request at a time");
    let total = found.total.expect("both");
    assert!((total - 5.3).abs() < 1e-3);
    assert!((found.cloud[0].share.expect("both") - 5.3 / 15.0).abs() < 1e-4);
    assert_eq!(
        found.cloud[0].why,
        "5.30 € here (electricity and machine), big asks 15.0 € (2026-11-21, its price list): 35 % of that"
    );
}

#[test]
fn what_is_not_given_is_not_guessed() {
    let only_power = cost(&rung(), &Prices { machine: None, ..prices() });
    assert_eq!((only_power.amortised, only_power.total), (None, None));
    assert!(
        only_power.cloud[0].why.starts_with("0.30 € here (electricity alone)"),
        "{}",
        only_power.cloud[0].why
    );
    let nothing = cost(&RungSummary { joules_per_token: None, decode: None, ..rung() }, &prices());
    assert_eq!((nothing.energy, nothing.amortised, nothing.total), (None, None, None));
    assert_eq!(nothing.cloud[0].share, None);
    let free = MachinePrice { price: 1.0, years: 0.0, hours_per_day: f64::NAN };
    assert_eq!(cost(&rung(), &Prices { machine: Some(free), ..prices() }).amortised, None);
}

#[test]
fn a_machine_with_a_price_of_its_own_has_that() {
    let (strix, other) = (MachineId::new("strix").expect("a name"), MachineId::new("other").expect("a name"));
    let own = MachinePrice { price: 2000.0, years: 4.0, hours_per_day: 8.0 };
    let prices = Prices { machines: BTreeMap::from([(strix.clone(), own)]), ..prices() };
    assert_eq!(prices.of(&strix).machine, Some(own));
    assert_eq!(prices.of(&other).machine, prices.machine);
}
