//! Four times what the mesh can do, on a real engine with two slots: is as much answered as at 1×, is the rest told so
//! at once, and does each mode get its share?

use crate::asking::{Asker, End, Outcome};
use crate::figures::{Arguments, at, head, judged, spread, told};
use integration_tests::engine_fixture::{real_engine, trained_model};
use integration_tests::test_mesh::{TestMesh, mode};
use integration_tests::test_node::EngineSpec;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

const MODES: [&str; 3] = ["ask", "code", "autocomplete"];
const SLOTS: u32 = 2;
/// How long clients wait: an answer that takes longer is no good to anybody any more.
const GOOD: Duration = Duration::from_secs(10);
/// How soon a refusal must be there.
const REFUSED: Duration = Duration::from_millis(50);
/// A mode with less than this share of an even part is starved.
const STARVED: f64 = 0.1;

pub(crate) async fn measure(arguments: &Arguments) {
    if !real_engine().await {
        return;
    }
    let length = Duration::from_secs(arguments.number("--seconds", 20).into());
    let mesh = TestMesh::with_modes(MODES.map(|name| mode(name, &["tiny"], &[]))).await;
    let node = mesh.node("msi", &[EngineSpec::real(trained_model(), "tiny", 1024, SLOTS)]).await;
    let asker = Asker::of(&mesh, GOOD);

    // As many clients as slots, each asking again at once: what it can do.
    let begin = Instant::now();
    let closed = async |part: usize| {
        let mut answered = 0_u32;
        while begin.elapsed() < length / 2 {
            answered += u32::from(asker.ask(question(part)).await.end == End::Whole);
        }
        answered
    };
    let (one, two) = tokio::join!(closed(0), closed(1));
    let capacity = f64::from(one + two) / begin.elapsed().as_secs_f64();

    head(&format!("Overload: {capacity:.1} req/s is what one engine with {SLOTS} slots can do"));
    let mut goodput = Vec::new();
    for times in [1.0, 4.0] {
        let outcomes = asker.keep_asking(capacity * times, length, question).await;
        let good = |outcome: &&(usize, Outcome)| outcome.1.end == End::Whole;
        let rate = outcomes.iter().filter(good).count() as f64 / length.as_secs_f64();
        goodput.push(rate);
        told(
            &format!("{times}×: sent, answered within {} s", GOOD.as_secs()),
            &format!("{} ({:.1}/s), {rate:.1}/s", outcomes.len(), capacity * times),
        );
        let refused = |newest_first: bool| -> Vec<Duration> {
            let of_kind = |number: usize| (MODES[number % MODES.len()] == "autocomplete") == newest_first;
            let refused = outcomes.iter().filter(|(_, outcome)| outcome.end == End::Refused);
            refused.filter(|(number, _)| of_kind(*number)).map(|(_, outcome)| outcome.took).collect()
        };
        let (refused, passed_over) = (refused(false), refused(true));
        let other =
            outcomes.iter().filter(|(_, outcome)| !matches!(outcome.end, End::Refused | End::Whole)).count();
        let firsts: Vec<Duration> = outcomes.iter().filter_map(|(_, outcome)| outcome.first).collect();
        told(&format!("{times}×: first content"), &spread(&firsts));
        told(&format!("{times}×: neither answered nor refused in time"), &other.to_string());
        if times > 1.0 {
            let soon = at(&refused, 0.99) <= REFUSED && !refused.is_empty();
            let goal = format!("p99 ≤ {} ms", REFUSED.as_millis());
            judged("4×: ask and code, refused", &spread(&refused), &goal, soon);
            // The newest goes first: nobody knows of one that waits whether it will be passed over to its end.
            told("4×: autocomplete, passed over until its deadline", &spread(&passed_over));
            for (index, name) in MODES.iter().enumerate() {
                let own = outcomes.iter().filter(|(number, _)| number % MODES.len() == index);
                let served = own.clone().filter(good).count();
                let even = rate * length.as_secs_f64() / MODES.len() as f64;
                judged(
                    &format!("4×: mode {name}"),
                    &format!("{served} of {} answered in time", own.count()),
                    "not starved",
                    served as f64 >= STARVED * even && served > 0,
                );
            }
        }
        mesh.until_idle(&[&node]).await;
    }
    let kept = goodput[1] / goodput[0].max(f64::MIN_POSITIVE);
    judged("goodput at 4× ÷ at 1×", &format!("{kept:.2}"), "≥ 0.9", kept >= 0.9);
    node.stop().await;
    mesh.stop().await;
}

fn question(number: usize) -> String {
    let messages = json!([{"role": "user", "content": format!("Question {number}: why?")}]);
    json!({"model": format!("mesh/{}", MODES[number % MODES.len()]), "messages": messages, "stream": true,
           "max_tokens": 64, "ignore_eos": true})
    .to_string()
}
