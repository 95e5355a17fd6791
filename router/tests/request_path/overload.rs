//! Four times the load that the mesh can carry.

use crate::fixture::{Mesh, Script, caller, engine, error_of, replica};
use mesh_core::machine::ReplicaState::Loaded;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Two machines with four slots each, and a second for each request: eight requests per second.
const CAPACITY: f64 = 8.0;
/// How long requests are offered.
const TIME: Duration = Duration::from_secs(200);

#[derive(Debug, Default)]
struct Tally {
    served: BTreeMap<&'static str, u32>,
    refused: u32,
    refused_late: u32,
}

impl Tally {
    fn served(&self) -> u32 {
        self.served.values().sum()
    }
}

/// Offers `times` the capacity in even steps, the modes in turn, and tells what became of them within the time.
async fn offer(times: f64) -> Tally {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let mut controls = Vec::new();
    for name in ["a", "b"] {
        let (node, control) = mesh.node(name, engine(vec![replica("m", Loaded, Some(4))])).await;
        node.always(Script::After(Duration::from_secs(1)));
        controls.push((node, control));
    }
    let modes = ["mesh/ask", "mesh/code", "mesh/architect", "mesh/background"];
    let (end, mut requests, mut tally) = (Instant::now() + TIME, JoinSet::new(), Tally::default());
    let every = Duration::from_secs_f64(1.0 / (CAPACITY * times));
    let mut count = |done: (&'static str, u16, Duration, Instant)| {
        let (mode, status, took, at) = done;
        match status {
            200 if at <= end => *tally.served.entry(mode).or_default() += 1,
            200 => {}
            _ => {
                tally.refused += 1;
                tally.refused_late += u32::from(took > Duration::from_millis(50));
            }
        }
    };
    for (at, mode) in modes.into_iter().cycle().enumerate() {
        if Instant::now() >= end {
            break;
        }
        let mesh = mesh.clone();
        // Four users, each with a key of their own.
        let key = ["k1", "k2", "k3", "k4"][at / 4 % 4];
        requests.spawn(async move {
            let before = Instant::now();
            let (status, _, _) = error_of(mesh.send(mode, caller(key)).await).await;
            (mode, status, before.elapsed(), Instant::now())
        });
        tokio::time::sleep(every).await;
        while let Some(done) = requests.try_join_next() {
            count(done.expect("no panic"));
        }
    }
    while let Some(done) = requests.join_next().await {
        count(done.expect("no panic"));
    }
    mesh.until_idle().await;
    for (node, _) in &controls {
        assert!(node.seen.borrow().most <= 4, "never more than the slots");
    }
    tally
}

#[tokio::test(start_paused = true)]
async fn at_four_times_the_load_as_much_is_served_no_mode_starves_and_the_rest_is_refused_at_once() {
    let (once, four_times) = (offer(1.0).await, offer(4.0).await);
    assert!(f64::from(four_times.served()) >= 0.9 * f64::from(once.served()), "{once:?} {four_times:?}");
    for mode in ["mesh/ask", "mesh/code", "mesh/architect", "mesh/background"] {
        assert!(
            four_times.served.get(mode).is_some_and(|&served| served > 0),
            "{mode} starved: {four_times:?}"
        );
    }
    assert!(f64::from(four_times.refused_late) <= 0.05 * f64::from(four_times.refused), "{four_times:?}");
}
