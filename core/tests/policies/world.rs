//! Four machines with engines like llama.cpp's: a prompt is read alone and one after another, slots write together, and
//! a cache of limited size keeps the starts of prompts.

use mesh_core::fleet::{DataPath, Fleet, FleetView, Outcome};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Engine, EngineKind, EngineState, Replica, ReplicaState, Report};
use mesh_core::mode::Purpose;
use mesh_core::prefix::Block;
use mesh_core::routing::{Load, Policy, Request, Stake, decide};
use mesh_core::speed::{Lesson, Predicted, Timing};
use mesh_core::units::Moment;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

/// Requests of one run.
const REQUESTS: usize = 900;
/// Those at the beginning, from which the router learns, are not counted.
const WARM_UP: usize = 150;
/// Tokens of a block of the prompt's hash.
const BLOCK: u32 = 512;
/// The view is this old at most: the heartbeat.
const HEARTBEAT_S: f64 = 1.0;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// Prompts of their own.
    Separate,
    /// Sessions of an agent: one system prompt, and each prompt starts with the one before.
    Agents,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Result {
    /// Median seconds to the first token.
    pub(crate) ttft_p50: f64,
    /// 95th percentile of them.
    pub(crate) ttft_p95: f64,
    /// Mean seconds to the end of the answer.
    pub(crate) total: f64,
    /// Part of all prompt tokens that was found in a cache.
    pub(crate) cached: f64,
}

/// A machine: prompt tokens each second, seconds for a token alone and for each further stream, slots, cache.
struct Machine {
    id: MachineId,
    prefill: f64,
    step: (f64, f64),
    slots: usize,
    cache_tokens: u64,
    /// Seconds at which the prompts sent so far are read.
    read_until: f64,
    writing: usize,
    queue: VecDeque<usize>,
    /// Starts of prompts, by hash, with the clock of their last use.
    cache: BTreeMap<u64, u64>,
    uses: u64,
}

/// Speeds as assumed for a 5070 Ti, a 4070 laptop and two machines with unified memory.
fn machines() -> Vec<Machine> {
    [
        ("desktop", 4_000.0, 0.012, 65_536),
        ("laptop", 2_200.0, 0.018, 32_768),
        ("strix-1", 800.0, 0.025, 262_144),
        ("strix-2", 750.0, 0.026, 262_144),
    ]
    .into_iter()
    .map(|(name, prefill, step, cache_tokens)| Machine {
        id: MachineId::new(name).expect("valid"),
        prefill,
        step: (step, step * 0.15),
        slots: 4,
        cache_tokens,
        read_until: 0.0,
        writing: 0,
        queue: VecDeque::new(),
        cache: BTreeMap::new(),
        uses: 0,
    })
    .collect()
}

struct Job {
    at: f64,
    blocks: Vec<Block>,
    tokens: u32,
    answer: u32,
    session: u64,
    // What became of it.
    machine: usize,
    stake: Option<Stake>,
    predicted: Option<Predicted>,
    streams: usize,
    cached: u32,
    prefill_s: f64,
    first: f64,
    end: f64,
}

/// xorshift64*: enough for a trace.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between 0 and 1.
    fn part(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.part()).ln()
    }
}

fn jobs(trace: Trace, seed: u64) -> Vec<Job> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut sessions: Vec<(u64, u32)> = (0..24).map(|name| (name + 1, 4_000)).collect();
    let mut at = 0.0;
    (0..REQUESTS)
        .map(|number| {
            let (tokens, session, mean_gap) = match trace {
                Trace::Separate => {
                    ((500.0 + dice.exponential(3_500.0)).min(30_000.0) as u32, number as u64 + 1_000, 0.75)
                }
                Trace::Agents => {
                    let which = usize::try_from(dice.roll() % 24).unwrap_or(0);
                    let (name, length) = &mut sessions[which];
                    *length += 300 + dice.exponential(900.0) as u32;
                    if *length > 28_000 {
                        // The conversation is over; the next one has only the system prompt in common.
                        (*name, *length) = (*name + 24, 4_500);
                    }
                    (*length, *name, 2.0)
                }
            };
            at += dice.exponential(mean_gap);
            let answer = 20 + dice.exponential(130.0) as u32;
            let blocks = (1..=tokens / BLOCK).map(|block| {
                // The first 3,584 tokens are the system prompt of all agents.
                let owner = if trace == Trace::Agents && block <= 7 { 0 } else { session };
                let hash = (owner << 20 | u64::from(block)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                Block { hash, tokens: block * BLOCK }
            });
            Job {
                at,
                blocks: blocks.collect(),
                tokens,
                answer: answer.min(1_500),
                session,
                machine: 0,
                stake: None,
                predicted: None,
                streams: 1,
                cached: 0,
                prefill_s: 0.0,
                first: 0.0,
                end: 0.0,
            }
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    Reads(usize),
    Ends(usize),
    Heartbeat,
}

/// Microseconds, so that events are in a total order.
fn moment(seconds: f64) -> Moment {
    Moment(0).plus(Duration::from_secs_f64(seconds))
}

/// One run of a policy over a trace.
pub(crate) fn run(policy: Policy, trace: Trace, seed: u64) -> Result {
    let model = ModelId::new("coder").expect("valid");
    let (mut machines, mut jobs, mut fleet, mut load) =
        (machines(), jobs(trace, seed), Fleet::default(), Load::default());
    for machine in &machines {
        let replica = Replica {
            slots: u32::try_from(machine.slots).ok(),
            context: u32::try_from(machine.cache_tokens / machine.slots as u64).ok(),
            ..Replica::new(model.clone(), ReplicaState::Loaded)
        };
        let engine = Engine {
            state: EngineState::Up,
            replicas: vec![replica],
            ..Engine::new("llama-server-1", EngineKind::LlamaServer, true)
        };
        fleet.attached(&machine.id, Moment(0));
        fleet.linked(&machine.id, Some(DataPath::InProcess));
        fleet.apply(&machine.id, Report { engines: Some(vec![engine]), ..Report::default() }, Moment(0));
    }
    let mut view = fleet.view(Moment(0));
    let mut dice = Dice(seed ^ 0xd1ce);
    let mut events: BinaryHeap<Reverse<(Moment, Event)>> =
        jobs.iter().enumerate().map(|(at, job)| Reverse((moment(job.at), Event::Arrives(at)))).collect();
    events.push(Reverse((moment(HEARTBEAT_S), Event::Heartbeat)));
    let mut left = jobs.len();
    while let Some(Reverse((now, event))) = events.pop() {
        let seconds = now.0 as f64 / 1e6;
        match event {
            Event::Heartbeat => {
                for machine in &machines {
                    fleet.heard(&machine.id, now);
                }
                view = fleet.view(now);
                if left > 0 {
                    events.push(Reverse((now.plus(Duration::from_secs_f64(HEARTBEAT_S)), Event::Heartbeat)));
                }
            }
            Event::Arrives(at) => {
                let machine =
                    send(policy, &view, &mut load, &model, &mut jobs[at], now, dice.roll(), &machines);
                jobs[at].machine = machine;
                machines[machine].queue.push_back(at);
                start(&mut machines[machine], &mut jobs, seconds, &mut events);
            }
            Event::Reads(at) => {
                let job = &mut jobs[at];
                job.first = seconds;
                if let Some(stake) = &mut job.stake {
                    load.first_content(stake, &job.blocks, Some(job.session), now);
                }
                let machine = &machines[job.machine];
                job.streams = machine.writing;
                let step = machine.step.0 + machine.step.1 * machine.writing as f64;
                let end = now.plus(Duration::from_secs_f64(step * f64::from(job.answer)));
                events.push(Reverse((end, Event::Ends(at))));
            }
            Event::Ends(at) => {
                left -= 1;
                let job = &mut jobs[at];
                job.end = seconds;
                let machine = &mut machines[job.machine];
                machine.writing -= 1;
                if let Some(stake) = job.stake.take() {
                    load.engine_cached(&stake, job.cached.into(), job.tokens.into());
                    load.release(&stake);
                }
                let lesson = lesson(job, seconds);
                fleet.observe(&machine.id, &model, &Outcome::Answered(Some(Box::new(lesson))), now);
                start(machine, &mut jobs, seconds, &mut events);
            }
        }
    }
    result(&jobs[WARM_UP..])
}

#[expect(clippy::too_many_arguments, reason = "the whole world of one step of a simulation")]
fn send(
    policy: Policy,
    view: &FleetView,
    load: &mut Load,
    model: &ModelId,
    job: &mut Job,
    now: Moment,
    dice: u64,
    machines: &[Machine],
) -> usize {
    let request = Request {
        prompt_tokens: job.tokens.into(),
        prefix: &job.blocks,
        session: Some(job.session),
        policy,
        ..Request::new(vec![(model, None)], Purpose::Chat)
    };
    let decision = decide(view, load, &request, now, dice).expect("all machines are well");
    let best = &decision.ranked[0];
    job.stake = Some(load.claim(best, now));
    job.predicted = best.predicted;
    machines.iter().position(|machine| machine.id == best.machine).expect("one of ours")
}

/// Gives free slots to those that wait, in their order.
fn start(
    machine: &mut Machine,
    jobs: &mut [Job],
    seconds: f64,
    events: &mut BinaryHeap<Reverse<(Moment, Event)>>,
) {
    while machine.writing < machine.slots
        && let Some(at) = machine.queue.pop_front()
    {
        machine.writing += 1;
        let job = &mut jobs[at];
        let held = job.blocks.iter().take_while(|block| machine.cache.contains_key(&block.hash)).last();
        job.cached = held.map_or(0, |block| block.tokens);
        for block in &job.blocks {
            machine.uses += 1;
            machine.cache.insert(block.hash, machine.uses);
        }
        let room = usize::try_from(machine.cache_tokens / u64::from(BLOCK)).unwrap_or(usize::MAX);
        while machine.cache.len() > room {
            let oldest = machine.cache.iter().min_by_key(|(_, used)| **used).map(|(hash, _)| *hash);
            machine.cache.remove(&oldest.expect("it is over its room"));
        }
        job.prefill_s = f64::from((job.tokens - job.cached).max(1)) / machine.prefill;
        machine.read_until = machine.read_until.max(seconds) + job.prefill_s;
        events.push(Reverse((moment(machine.read_until), Event::Reads(at))));
    }
}

fn lesson(job: &Job, seconds: f64) -> Lesson {
    Lesson {
        timing: Some(Timing {
            prefill_tokens: (job.tokens - job.cached).into(),
            prefill_s: job.prefill_s,
            decode_tokens: job.answer.into(),
            decode_s: seconds - job.first,
            cached_tokens: Some(job.cached.into()),
        }),
        streams: job.streams as f64,
        ttft_s: Some(job.first - job.at),
        total_s: seconds - job.at,
        prompt_tokens: Some(job.tokens.into()),
        completion_tokens: Some(job.answer.into()),
        predicted: job.predicted,
        ..Lesson::default()
    }
}

fn result(jobs: &[Job]) -> Result {
    let mut ttft: Vec<f64> = jobs.iter().map(|job| job.first - job.at).collect();
    ttft.sort_by(f64::total_cmp);
    let at = |part: f64| ttft[((ttft.len() - 1) as f64 * part) as usize];
    let sum = |of: fn(&Job) -> u32| jobs.iter().map(|job| f64::from(of(job))).sum::<f64>();
    let total = jobs.iter().map(|job| job.end - job.at).sum::<f64>() / jobs.len() as f64;
    let cached = sum(|job| job.cached) / sum(|job| job.tokens);
    Result { ttft_p50: at(0.5), ttft_p95: at(0.95), total, cached }
}
