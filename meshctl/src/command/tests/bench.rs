//! A scripted machine that can be climbed: models that load where there is room for them, and trials that go as told.

use super::replies::{reply, thought};
use mesh_core::id::ModelId;
use mesh_core::machine::{
    Capabilities, Engine, EngineKind, EngineState, Replica, ReplicaState, Report, Store, StoredModel,
    Transfer, TransferKind, TransferState,
};
use mesh_core::machine::{Capacity, Reading, ThermalState, Vitals};
use mesh_core::trial::{Ended, Event, Run, Sample, Scored, SpeedWork, Subject, Trial, Work};
use mesh_core::units::Bytes;
use mesh_proto::fleet_wire::report_to_wire;
use mesh_proto::v1::{
    DirectRequest, EngineStatus, MachineReport, NodeStatus, ReplicaStatus, StatusReply, TrialEvent,
};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;

/// What an engine's end looks like that somebody killed.
pub(super) const KILLED: &str = "was killed by SIGKILL";

/// How a model's trials go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// As they should.
    Sound,
    /// Four of five answers have no text.
    Empty,
    /// The engine dies in the middle of a speed.
    Dies,
    /// Its engine is killed in the middle of the first speed; its agent starts it again if nobody minds.
    Killed,
    /// Speeds begin and never end.
    Hangs,
    /// The first speed ends, the second never does.
    Tires,
    /// The first speed is slowed down, the second disturbed by others.
    Troubled,
    /// Other programs use half of the processors during the first speed.
    Crowded,
    /// It finds nothing in a long text.
    Forgetful,
    /// It calls no tool.
    Silent,
    /// It calls the tool with something else.
    Careless,
    /// Its engine takes no tools.
    Toolless,
    /// Its template knows no tools, and the engine says so.
    Plain,
    /// It does not keep to a form.
    Formless,
    /// Its agent tells of each answer twice, and of answers to what nobody asked.
    Talkative,
    /// Its engine dies with more words than anybody reads.
    Wordy,
    /// It thinks for so many tokens before it says anything.
    Thinks(u32),
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) name: &'static str,
    /// In billions; the file has as many bytes.
    pub(super) parameters: u64,
    /// Tokens of all its slots together that the memory has room for.
    pub(super) room: u32,
    pub(super) manner: Manner,
    state: ReplicaState,
    context: Option<u32>,
    slots: Option<u32>,
}

impl Model {
    pub(super) fn new(name: &'static str, parameters: u64, room: u32, manner: Manner) -> Self {
        let state = ReplicaState::Available;
        Self { name, parameters, room, manner, state, context: None, slots: None }
    }

    /// Its engine has just ended; in a moment its agent starts it again.
    pub(super) fn killed(self) -> Self {
        Self { state: ReplicaState::Failed(KILLED.into()), ..self }
    }

    pub(super) fn loaded(self, context: u32, slots: u32) -> Self {
        Self { state: ReplicaState::Loaded, context: Some(context), slots: Some(slots), ..self }
    }
}

/// When sensors were read, and what they told.
pub(super) type Sensors = Arc<Mutex<Option<(Instant, Bytes)>>>;

/// How often machines were looked at: the clock of this process may be set by a test.
static READINGS: AtomicU64 = AtomicU64::new(1);
/// How often slow sensors are read: less often than a load takes.
const READ_EVERY: Duration = Duration::from_millis(1500);

/// The machine `msi`.
#[derive(Debug, Clone, Default)]
pub(super) struct Bench {
    pub(super) models: Vec<Model>,
    /// What it was told, and what was tried.
    pub(super) journal: Vec<String>,
    /// Told when a trial hangs.
    pub(super) hanging: Arc<Notify>,
    /// A folder that becomes a file with the second trial: nothing can be written there any more.
    pub(super) full: Option<PathBuf>,
    /// Trials before one that begins, answers half, and never ends.
    pub(super) sound_trials: Option<usize>,
    /// It keeps no findings.
    pub(super) forgets: bool,
    /// Free main memory; `None` = it does not tell.
    pub(super) ram: Option<Bytes>,
    /// Sensors that are read now and then: when last, and the main memory that was free. A model takes 10 of 100 bytes.
    pub(super) sensors: Option<Sensors>,
    /// Tokens of all models together, where there is room for more than one.
    pub(super) room: Option<u32>,
    /// How long it stays hot after a long text, and after it was slowed down.
    pub(super) cools_in: Option<Duration>,
    cool_at: Option<Instant>,
    /// Its engine has ended, and is about to be started again.
    pub(super) down: Option<&'static str>,
    /// A file that it does not let go.
    pub(super) keeps: Option<&'static str>,
    /// Files that were fetched, and how they stand.
    pub(super) files: Vec<(String, TransferState)>,
    speeds: usize,
    trials: usize,
}

impl Bench {
    pub(super) fn of(models: impl IntoIterator<Item = Model>) -> Self {
        Self { models: models.into_iter().collect(), ..Self::default() }
    }

    fn is_hot(&self) -> bool {
        self.cool_at.is_some_and(|at| Instant::now() < at)
    }

    fn replicas(&self) -> impl Iterator<Item = Replica> {
        self.models.iter().map(|model| {
            let mut replica = Replica::new(id(model.name), model.state.clone());
            (replica.context, replica.slots) = (model.context, model.slots);
            replica.abilities.tools = (model.manner == Manner::Plain).then_some(false);
            replica
        })
    }

    /// Names, contexts and slots of what is in memory.
    pub(super) fn in_memory(&self) -> Vec<(&'static str, Option<u32>, Option<u32>)> {
        let loaded = self.models.iter().filter(|model| model.state == ReplicaState::Loaded);
        loaded.map(|model| (model.name, model.context, model.slots)).collect()
    }

    pub(super) fn status(&self) -> StatusReply {
        let replicas = self.replicas().map(|replica| ReplicaStatus {
            model: replica.model.to_string(),
            state: replica.state.word().into(),
            failure: match replica.state {
                ReplicaState::Failed(why) => why,
                ReplicaState::Available | ReplicaState::Loading | ReplicaState::Loaded => String::new(),
            },
            context: replica.context,
            slots: replica.slots,
            ..ReplicaStatus::default()
        });
        let engines = vec![EngineStatus { replicas: replicas.collect(), ..EngineStatus::default() }];
        let node = NodeStatus { name: "msi".into(), state: "ready".into(), engines, ..NodeStatus::default() };
        StatusReply { nodes: vec![node], ..StatusReply::default() }
    }

    pub(super) fn machine(&self) -> MachineReport {
        let mut engine = Engine::new("llama-server", EngineKind::LlamaServer, true);
        engine.capabilities =
            Capabilities { can_load: true, can_unload: true, can_size: true, ..engine.capabilities };
        engine.replicas = self.replicas().collect();
        if let Some(why) = self.down {
            engine.state = EngineState::Down(why.into());
        }
        let stored = self.models.iter().map(|model| StoredModel {
            parameters: Some(model.parameters * 1_000_000_000),
            trained_context: Some(8192),
            ..StoredModel::new(id(model.name), Bytes(model.parameters * 1_000_000_000))
        });
        let came = self.files.iter().filter(|(_, state)| *state == TransferState::Done);
        let came = came.map(|(name, _)| StoredModel::new(id(name), Bytes(1 << 20)));
        let transfers = self.files.iter().map(|(name, state)| Transfer {
            model: id(name),
            kind: TransferKind::Download,
            source: "127.0.0.1".into(),
            state: state.clone(),
            done: Bytes(1 << 20),
            total: None,
            rate: None,
        });
        let (transfers, models) = (transfers.collect(), stored.chain(came).collect());
        let store = Store { models, transfers, ..Store::default() };
        let mut vitals = Vitals::unknown("a test");
        vitals.thermal.state = if self.is_hot() { ThermalState::Derated } else { ThermalState::Ok };
        if let Some(available) = self.ram {
            vitals.ram = Reading::Known(Capacity { total: available, available });
        }
        if let Some(sensors) = &self.sensors {
            let taken = self.in_memory().len() as u64;
            let seen = (Instant::now(), Bytes(100 - 10 * taken));
            let mut read = sensors.lock().expect("no panic holds it");
            if read.is_none_or(|(at, _)| at.elapsed() > READ_EVERY) {
                *read = Some(seen);
            }
            let available = read.map(|(_, available)| available).unwrap_or_default();
            vitals.ram = Reading::Known(Capacity { total: Bytes(100), available });
        }
        // Each report is a new reading, but of sensors that are slow.
        vitals.as_of = if self.sensors.is_some() { 0 } else { READINGS.fetch_add(1, Ordering::Relaxed) };
        let (engines, store, vitals) = (Some(vec![engine]), Some(store), Some(vitals));
        let report = Report { engines, store, vitals, ..Report::default() };
        MachineReport {
            node: "msi".into(),
            report: Some(report_to_wire(&report)),
            ..MachineReport::default()
        }
    }

    pub(super) fn direct(&mut self, request: &DirectRequest) {
        let size = match (request.context, request.slots) {
            (Some(context), Some(slots)) => format!(" {context}x{slots}"),
            _ => String::new(),
        };
        self.journal.push(format!("{} {}{size}", request.action, request.model));
        match request.action.as_str() {
            "pull" if request.url.contains("broken") => {
                let state = TransferState::Failed("connection refused".into());
                return self.files.push((request.model.clone(), state));
            }
            "pull" => {
                let is_short = request.url.contains("short");
                let state = if is_short { TransferState::Done } else { TransferState::Running };
                return self.files.push((request.model.clone(), state));
            }
            "cancel" => {
                return self.files.retain(|(name, state)| {
                    *name != request.model || matches!(state, TransferState::Done | TransferState::Failed(_))
                });
            }
            "delete" => return self.files.retain(|(name, _)| *name != request.model),
            _ => {}
        }
        let tokens =
            |(_, context, slots): (_, Option<u32>, Option<u32>)| context.zip(slots).map_or(0, |(a, b)| a * b);
        let used: u32 = self.in_memory().into_iter().map(tokens).sum();
        // One alone, unless there is room for several.
        let room = self.room.map(|room| room - used).or((used == 0).then_some(u32::MAX)).unwrap_or(0);
        let Some(model) = self.models.iter_mut().find(|model| model.name == request.model) else { return };
        self.down = None;
        let (context, slots) = (request.context.unwrap_or(4096), request.slots.unwrap_or(1));
        (model.state, model.context, model.slots) = match request.action.as_str() {
            "load" if context * slots <= model.room.min(room) => {
                (ReplicaState::Loaded, Some(context), Some(slots))
            }
            "load" => {
                let free = model.room.min(room);
                let why = format!("does not fit: needs {} tokens, {free} are free", context * slots);
                (ReplicaState::Failed(why), None, None)
            }
            _ => (ReplicaState::Available, None, None),
        };
    }

    /// The lines of a trial, and whether it ends with them.
    pub(super) fn trial(&mut self, trial: &Trial) -> Result<(Vec<TrialEvent>, bool), Status> {
        let Some(model) = self.models.iter().find(|model| model.name == trial.model.as_str()) else {
            return Err(Status::not_found("no engine of this machine has this model"));
        };
        if model.state != ReplicaState::Loaded {
            return Err(Status::failed_precondition("node `msi`: the model is not loaded"));
        }
        let (manner, context, slots) = (model.manner, model.context, model.slots);
        self.trials += 1;
        if let Some(folder) = self.full.as_ref().filter(|_| self.trials == 2) {
            std::fs::remove_dir_all(folder).expect("the records");
            std::fs::write(folder, "no folder").expect("a file in their place");
        }
        let stuck = self.sound_trials == Some(self.trials - 1);
        let subject = Subject { build: "llama-server b1".into(), context, slots, ..Subject::default() };
        let mut events = vec![Event::Began(subject), Event::Sample(Sample::default())];
        let mut others = 0;
        match &trial.work {
            Work::Ask(work) => {
                self.journal.push(format!("ask {}", trial.model));
                let half = if stuck { work.questions.len() / 2 } else { work.questions.len() };
                let answers = work.questions.iter().take(half).enumerate();
                let is_long = work.questions.iter().any(|question| question.id.starts_with("needle"));
                if let Some(time) = self.cools_in.filter(|_| is_long) {
                    self.cool_at = Some(Instant::now() + time);
                }
                events.extend(answers.map(|(at, question)| {
                    let plain = || answer(&question.id, manner == Manner::Empty && at < 4);
                    let said = reply(manner, question).unwrap_or_else(plain);
                    Event::Run(thought(manner, question, said))
                }));
                if manner == Manner::Talkative {
                    let again: Vec<Event> = events.iter().skip(2).cloned().collect();
                    events.insert(2, Event::Run(answer("needle-99", false)));
                    events.extend(again);
                }
                // An agent gives an engine up that answers three questions with nothing but a status.
                let is_refused = |event: &Event| matches!(event, Event::Run(run) if run.error.is_some());
                if events.iter().filter(|event| is_refused(event)).count() >= 3 {
                    events.push(Event::Failed("3 questions in a row got no answer: status 400".into()));
                }
            }
            Work::Speed(work) => {
                let (prompt, output, streams) = (work.prompt_tokens, work.output_tokens, work.streams);
                let hot = if self.is_hot() { " while hot" } else { "" };
                self.journal.push(format!("speed {} {prompt}:{output}x{streams}{hot}", trial.model));
                match manner {
                    Manner::Dies => events.push(Event::Failed("the engine died: killed".into())),
                    Manner::Killed if self.speeds == 0 => {
                        self.speeds += 1;
                        events.push(Event::Failed("3 requests in a row got no answer".into()));
                        self.down = Some(KILLED);
                        let killed = self.models.iter_mut().filter(|one| one.name == trial.model.as_str());
                        killed.for_each(|one| one.state = ReplicaState::Failed(KILLED.into()));
                    }
                    Manner::Wordy => {
                        events.push(Event::Failed(format!("the engine died: {}", "é".repeat(5000))));
                    }
                    Manner::Hangs => {
                        self.hanging.notify_one();
                        return Ok((events.iter().map(line).collect(), false));
                    }
                    Manner::Tires if self.speeds == 0 => self.speeds += 1,
                    Manner::Tires => return Ok((events.iter().map(line).collect(), false)),
                    Manner::Troubled => {
                        let throttled = Some(self.speeds == 0);
                        if let Some(time) = self.cools_in.filter(|_| self.speeds == 0) {
                            self.cool_at = Some(Instant::now() + time);
                        }
                        events.push(Event::Sample(Sample { throttled, at_s: 0.5, ..Sample::default() }));
                        others = u32::from(self.speeds == 2);
                        self.speeds += 1;
                    }
                    Manner::Crowded => {
                        let others = Some(if self.speeds == 0 { 0.5 } else { 0.03 });
                        events.push(Event::Sample(Sample { others, at_s: 1.0, ..Sample::default() }));
                        self.speeds += 1;
                    }
                    Manner::Sound
                    | Manner::Killed
                    | Manner::Empty
                    | Manner::Forgetful
                    | Manner::Silent
                    | Manner::Careless
                    | Manner::Toolless
                    | Manner::Plain
                    | Manner::Talkative
                    | Manner::Thinks(_)
                    | Manner::Formless => {}
                }
                events.extend(runs(work, 100.0 / model_speed(trial.model.as_str())).map(Event::Run));
            }
            Work::Keep(_) if self.forgets => return Err(Status::invalid_argument("unknown variant `keep`")),
            Work::Keep(work) => self.journal.extend(work.findings.iter().map(|found| {
                let suite = found.suite.split(' ').next().unwrap_or_default();
                format!("keep {} {suite} {} of {}", trial.model, found.passed, found.tried)
            })),
            Work::Score(work) => {
                self.journal.push(format!("score {} {}", trial.model, work.texts.len()));
                let half = if stuck { work.texts.len() / 2 } else { work.texts.len() };
                // The shortest choice is the likeliest; of equals the one that sorts first.
                events.extend(work.texts.iter().take(half).map(|text| {
                    let first = f64::from(text.text.bytes().last().unwrap_or_default());
                    let log_likelihood = -(text.text.len() as f64) - first / 1000.0;
                    Event::Scored(Scored {
                        id: text.id.clone(),
                        log_likelihood,
                        tokens: 1,
                        ..Scored::default()
                    })
                }));
            }
        }
        if stuck {
            self.hanging.notify_one();
            return Ok((events.iter().map(line).collect(), false));
        }
        events.push(Event::Ended(Ended { seconds: 1.0, others }));
        Ok((events.iter().map(line).collect(), true))
    }
}

/// Seconds for a hundred tokens: longer names are larger models.
fn model_speed(name: &str) -> f64 {
    100.0 / name.len() as f64
}

fn runs(work: &SpeedWork, seconds: f64) -> impl Iterator<Item = Run> {
    let all = (0..=work.repetitions).flat_map(|number| (0..work.streams).map(move |stream| (number, stream)));
    all.map(move |(number, stream)| Run {
        repetition: number.saturating_sub(1),
        stream,
        warm_up: number == 0,
        ttft_s: Some(0.1),
        total_s: 0.1 + seconds,
        prompt_tokens: Some(512),
        output_tokens: Some(101),
        ..Run::default()
    })
}

fn answer(id: &str, is_empty: bool) -> Run {
    let text = "The sky is blue because the air scatters blue light more than red light.";
    Run {
        id: id.into(),
        ttft_s: (!is_empty).then_some(0.1),
        total_s: 1.0,
        output_tokens: Some(if is_empty { 0 } else { 18 }),
        finish_reason: Some("stop".into()),
        text: if is_empty { String::new() } else { text.into() },
        ..Run::default()
    }
}

fn line(event: &Event) -> TrialEvent {
    TrialEvent { event_json: serde_json::to_string(event).expect("JSON") }
}

fn id(name: &str) -> ModelId {
    ModelId::new(name).expect("a good name")
}
