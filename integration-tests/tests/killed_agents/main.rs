//! `kill -9` of the agent that answers, at 50 random points of a stream. Whatever the point, the client gets a whole
//! answer or one that says that it broke off, in order and from one machine only; others are served at once, and
//! nothing stays counted. `MESH_TEST_SEED` repeats a run.

mod points;

use futures_util::future::join_all;
use integration_tests::client::{Client, Events, data_of};
use integration_tests::scripted_engine::ScriptedEngine;
use integration_tests::test_mesh::{TestMesh, machine, mode};
use integration_tests::test_node::{EngineSpec, NodeProcess, be_an_agent_if_asked};
use integration_tests::{eventually, soon};
use mesh_daemon::clock::unix_ms;
use points::{Dice, Point, Said};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const CHAT: &str = "/v1/chat/completions";
/// Gives the seed of an earlier run.
const SEED: &str = "MESH_TEST_SEED";
/// Pairs of machines that are killed side by side, which saves time.
const PAIRS: usize = 10;
/// Kills in each pair.
const KILLS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "a run that fails is repeated by its seed")]
async fn after_kill_9_at_any_point_a_stream_ends_whole_or_with_an_error_and_others_are_served() {
    let seed = std::env::var(SEED).map_or_else(|_| unix_ms(), |seed| seed.parse().expect("a number"));
    println!("{SEED}={seed}");
    // One request of a key at a time: what stays counted in the queue would turn its next one away.
    let mesh = TestMesh::start(|config| {
        config.limits.per_key = 1;
        for pair in 0..PAIRS {
            let models = Pair::names(pair);
            let [a, b] = [0, 1].map(|first| [models[first].as_str(), models[1 - first].as_str()]);
            config.modes.extend([mode(&models[0], &a, &[]), mode(&models[1], &b, &[])]);
        }
    })
    .await;
    let mut dice = Dice::new(seed);
    let pairs = (0..PAIRS).map(|number| Pair::start(&mesh, number, Dice::new(dice.next())));
    let pairs = join_all(join_all(pairs).await.into_iter().map(Pair::through_all_kills)).await;
    let mut ends: BTreeMap<End, usize> = BTreeMap::new();
    pairs.into_iter().flatten().for_each(|end| *ends.entry(end).or_default() += 1);
    println!("{ends:?}");
    assert_eq!(ends.values().sum::<usize>(), PAIRS * KILLS);
    assert_eq!(ends.len(), 3, "every way to end was met: {ends:?}");

    mesh.until_idle(&[]).await;
    let client = mesh.client();
    eventually("the gauges are at zero", async || {
        let metrics = client.get("/metrics").await;
        let at_zero = |name: &str| metrics.text().lines().any(|line| line == format!("{name} 0"));
        (at_zero("modemesh_router_in_flight") && at_zero("modemesh_router_waiting")).then_some(())
    })
    .await;
    mesh.stop().await;
}

/// How a stream ended whose agent was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Whole, by the machine that was killed.
    Whole,
    /// Whole, by the other machine.
    WholeByOther,
    /// With an error after some of its events.
    Cut,
}

/// Two machines with a model each that stand in for each other. Mode `X` prefers the machine of the same name.
struct Pair<'a> {
    mesh: &'a TestMesh,
    names: [String; 2],
    nodes: [NodeProcess; 2],
    engines: [ScriptedEngine; 2],
    said: [Arc<Said>; 2],
    client: Client,
    other_client: Client,
    dice: Dice,
}

impl<'a> Pair<'a> {
    fn names(number: usize) -> [String; 2] {
        ["a", "b"].map(|side| format!("{side}{number}"))
    }

    async fn start(mesh: &'a TestMesh, number: usize, dice: Dice) -> Self {
        let names = Self::names(number);
        let said = [0, 1].map(|side| Arc::new(Said::by(&names[side])));
        let [a, b] = [0, 1].map(|side: usize| ScriptedEngine::start(&names[side]));
        let engines: [ScriptedEngine; 2] = tokio::join!(a, b).into();
        for (engine, said) in engines.iter().zip(&said) {
            engine.always(said.script());
        }
        let specs = [0, 1].map(|side: usize| [EngineSpec::scripted(&engines[side])]);
        let way = ["data_link = \"quic\"\n", "data_link = \"h2\"\n"][number % 2];
        let [a, b] = [0, 1].map(|side: usize| mesh.node_process_with(&names[side], &specs[side], way));
        let nodes: [NodeProcess; 2] = tokio::join!(a, b).into();
        let key = async |name: String| {
            let made = mesh.router().ledger.create_key(&name, unix_ms()).await;
            mesh.client().with_key(Some(&made.expect("a key").1))
        };
        let (client, other_client) =
            (key(format!("asks-{number}")).await, key(format!("other-{number}")).await);
        Self { mesh, names, nodes, engines, said, client, other_client, dice }
    }

    async fn through_all_kills(mut self) -> Vec<End> {
        let mut ends = Vec::new();
        for number in 0..KILLS {
            ends.push(self.is_killed(number).await);
        }
        ends
    }

    async fn is_killed(&mut self, number: usize) -> End {
        let killed = self.dice.below(2);
        let (name, said) = (self.names[killed].clone(), self.said[killed].clone());
        let point = Point::draw(&mut self.dice, number, &said);
        // A machine that comes back at once does so while its old connection still seems to stand.
        let back_at_once = self.dice.below(2) == 0;
        let what = format!("kill {number} of {name}, at {point:?}, back at once: {back_at_once}");
        let (engine, asked) = (&self.engines[killed], self.engines[killed].posts().len());
        engine.always(point.script(&said));

        let (client, body) = (self.client.clone(), question(&name));
        let asking = tokio::spawn(async move { client.events(CHAT, &body).await });
        let mut seen = Vec::new();
        let answer = match point.seen_before(&said) {
            Some(count) => {
                let mut events = soon(&what, asking).await.expect("no panic");
                while seen.len() < count {
                    seen.push(events.next().await.expect(&what));
                }
                Ok(events)
            }
            None => {
                if let Point::Sending(turns) = point {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                } else {
                    engine.until(&what, |events| events.posts.len() > asked).await;
                }
                Err(asking)
            }
        };
        // What it is asked from now on, it answers.
        engine.always(said.script());
        let old_link = self.mesh.router().links.get(&machine(&name));
        self.nodes[killed].kill();
        if back_at_once {
            self.nodes[killed].start_again();
        }
        self.is_served(&self.other_client, &name, &what).await;

        let events = match answer {
            Ok(events) => events,
            Err(asking) => soon(&what, asking).await.expect("no panic"),
        };
        let end = self.ended(events, seen, point, killed, &what).await;
        // The key's place in the queue is free: it has one.
        self.is_served(&self.client, &name, &what).await;
        eventually("no request of the pair is counted", async || {
            let counted = self.mesh.router().in_flight.load();
            counted
                .keys()
                .all(|(machine, _)| !self.names.iter().any(|name| machine.as_str() == name))
                .then_some(())
        })
        .await;

        if !back_at_once {
            self.nodes[killed].start_again();
        }
        // Its first reports know of no engine yet, and till then the other one answers.
        let link = || self.mesh.router().links.get(&machine(&name));
        eventually("it serves again", async || {
            let is_new =
                link().is_some_and(|new| old_link.as_ref().is_none_or(|old| !Arc::ptr_eq(old, &new)));
            (is_new && self.is_served(&self.client, &name, &what).await == killed).then_some(())
        })
        .await;
        end
    }

    /// Asks an honest question, which must be answered whole; by which of the two.
    async fn is_served(&self, client: &Client, name: &str, what: &str) -> usize {
        let answer = client.events(CHAT, &question(name)).await;
        let (status, by) = (answer.status, answer.header("x-mesh-node").to_owned());
        assert_eq!(status, 200, "{what}: an honest question");
        let events = answer.rest().await;
        let by = self.names.iter().position(|name| *name == by).expect("one of the two");
        assert_eq!(with_lines(events), self.said[by].events, "{what}: an honest question");
        by
    }

    /// Checks what came and how it ended. `seen` came before the kill.
    async fn ended(&self, events: Events, seen: Vec<String>, point: Point, killed: usize, what: &str) -> End {
        let (status, by) = (events.status, events.header("x-mesh-node").to_owned());
        let id = events.header("x-mesh-request-id").to_owned();
        let before = seen.len();
        assert_eq!(status, 200, "{what}");
        let mut events = with_lines(seen.into_iter().chain(events.rest().await));
        let outcome = self.mesh.explain(&id).await.outcome;
        if by == self.names[1 - killed] {
            assert_eq!(before, 0, "{what}: nothing of the killed machine was out");
            assert_eq!(
                (events, outcome.as_str()),
                (self.said[1 - killed].events.clone(), "complete"),
                "{what}"
            );
            assert!(point.seen_before(&self.said[killed]).is_none(), "{what}");
            return End::WholeByOther;
        }
        assert_eq!(by, self.names[killed], "{what}");
        let said = &self.said[killed].events;
        if events == *said {
            assert_eq!(outcome, "complete", "{what}");
            assert!(!point.is_exact() || before == said.len(), "{what}: events came out of nothing");
            return End::Whole;
        }
        let error = data_of(events.pop().expect(what).trim_end())["error"].clone();
        assert_eq!(error["code"], "node_failed_mid_stream", "{what}: {events:?}");
        assert_eq!(
            (&error["mesh"]["node"], &error["mesh"]["request_id"]),
            (&json!(by), &json!(id)),
            "{what}"
        );
        // Every event before the error is the engine's own, in its place; [DONE] is the last of those.
        assert_eq!(events, said[..events.len()], "{what}");
        assert!((2..said.len()).contains(&events.len()), "{what}: {events:?}");
        assert!(!point.is_exact() || events.len() == before, "{what}: {} after {before}", events.len());
        assert_eq!(outcome, "failed", "{what}");
        End::Cut
    }
}

fn question(name: &str) -> Value {
    let messages = json!([{"role": "user", "content": "Good morning"}]);
    json!({"model": format!("mesh/{name}"), "messages": messages, "stream": true})
}

fn with_lines(events: impl IntoIterator<Item = String>) -> Vec<String> {
    events.into_iter().map(|event| event + "\n\n").collect()
}

/// Not a test: what a node in a process of its own runs.
#[test]
#[ignore = "started by other tests"]
fn agent_process() {
    be_an_agent_if_asked();
}
