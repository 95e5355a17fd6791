//! Trials: an operator's questions to one model of this machine, asked here and not over the network, so that times are
//! the engine's. Reached by [`frame::TRIAL_PATH`] like a request, and like one it ends when whoever asked has gone.
//!
//! It holds a lease while it runs. It does not keep others away: how many requests came beside it is told at the end.
//! Answers travel to whoever asked and are neither logged nor kept; of speeds the median is kept in the profile.
//!
//! [`frame::TRIAL_PATH`]: mesh_proto::frame::TRIAL_PATH

mod asking;
mod processors;
mod prompts;
mod score;
mod speed;
mod watching;

use crate::profile::ProfileHandle;
use crate::supervisor::load_facts::Subject as Loaded;
use crate::supervisor::{Lease, SupervisorHandle};
use crate::truth::speed_key;
use asking::Asker;
use bytes::Bytes;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt as _, StreamExt as _};
use mesh_core::machine::{EngineKind, Vitals};
use mesh_core::profile::TrialRecord;
use mesh_core::trial::{AskWork, Ended, Event, Finding, KeepWork, Question, Run, Subject, Trial, Work};
use mesh_daemon::clock::unix_ms;
use processors::Processors;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use watching::Machine;

/// Lines that may wait for whoever asked.
const WAITING: usize = 64;
/// After so many requests in a row that got no answer at all the engine is given up.
const GIVEN_UP: u32 = 3;
/// Paths on an engine that a trial's question may have, beside those of clients.
const OWN_PATHS: [&str; 1] = ["/tokenize"];

/// Everything that trials need.
pub(crate) struct Trials {
    pub(crate) supervisor: SupervisorHandle,
    pub(crate) vitals: watch::Receiver<Arc<Vitals>>,
    pub(crate) profile: ProfileHandle,
}

/// A trial that has not begun.
pub(crate) struct Ready {
    trial: Trial,
    lease: Lease,
    loaded: Loaded,
    asker: Asker,
}

/// Why a trial does not begin: a word of [`mesh_proto::v1::Refused`], and a sentence.
pub(crate) type NotReady = (&'static str, String);

impl Trials {
    /// Reads what is asked, checks it, and takes the model.
    pub(crate) async fn ready(&self, body: &[u8]) -> Result<Ready, NotReady> {
        let bad = |why: String| ("bad_request", why);
        let trial: Trial = serde_json::from_slice(body)
            .map_err(|error| bad(format!("the trial is not understood: {error}")))?;
        trial.check().map_err(|problem| bad(problem.to_string()))?;
        if let Work::Ask(work) = &trial.work {
            allowed(work).map_err(bad)?;
        }
        let lease = self
            .supervisor
            .lease(&trial.model)
            .await
            .map_err(|refusal| (refusal.kind(), refusal.to_string()))?;
        let loaded = self.supervisor.subject(&lease.engine, &trial.model);
        let loaded = loaded.ok_or(("not_loaded", "the model has just left the memory".to_owned()))?;
        let asker = Asker::new(&lease, loaded.kind, loaded.supervised, trial.patience_s)
            .map_err(|error| ("engine_down", format!("no HTTP client can be made: {error}")))?;
        Ok(Ready { trial, lease, loaded, asker })
    }

    /// Begins. `others` counts the requests that run beside it. Dropping the lines ends it.
    pub(crate) fn begin(
        self: Arc<Self>,
        ready: Ready,
        others: impl Fn() -> u32 + Send + 'static,
    ) -> BoxStream<'static, Bytes> {
        let (lines, told) = mpsc::channel(WAITING);
        let task = AbortOnDropHandle::new(tokio::spawn(self.run(ready, others, Told { lines })));
        let kept = move |event: Event| {
            // Held as long as its lines are wanted.
            let _task = &task;
            let mut line = serde_json::to_vec(&event).expect("plain data");
            line.push(b'\n');
            Bytes::from(line)
        };
        ReceiverStream::new(told).map(kept).boxed()
    }

    async fn run(self: Arc<Self>, ready: Ready, others: impl Fn() -> u32 + Send, told: Told) {
        let Ready { trial, lease, loaded, asker } = ready;
        let began = Instant::now();
        told.event(Event::Began(self.subject(&loaded))).await;
        let processors = Processors::beside(Path::new("/"), loaded.supervised, &lease.base_url);
        let mut machine = Machine::of(self.vitals.clone(), began, processors);
        let work = async {
            match &trial.work {
                Work::Speed(work) => speed::measure(&asker, *work, &loaded, began, &told).await,
                Work::Ask(work) => ask_all(&asker, work, began, &told).await.map(|()| None),
                Work::Score(work) => score::all(&asker, work, &loaded, &told).await.map(|()| None),
                Work::Keep(work) => {
                    self.note(&loaded, work);
                    Ok(None)
                }
            }
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = machine.watch(&told) => Err("the machine's sensors ended".to_owned()),
        };
        machine.last_look(&told).await;
        let (seconds, others) = (began.elapsed().as_secs_f64(), others());
        match outcome {
            Ok(figures) => {
                // What was measured beside others, or on a machine that was slowed down, must not become what is expected.
                if let Some(figures) = figures.filter(|_| others == 0 && !machine.was_troubled()) {
                    self.keep(&loaded, figures);
                }
                told.event(Event::Ended(Ended { seconds, others })).await;
            }
            Err(why) => told.event(Event::Failed(why)).await,
        }
        // Until here it must not be unloaded.
        drop(lease);
    }

    fn subject(&self, loaded: &Loaded) -> Subject {
        let key = speed_key(loaded, &self.vitals.borrow());
        let exact = loaded.kind == EngineKind::LlamaServer;
        let replica = &loaded.replica;
        Subject {
            build: key.build,
            device: key.device,
            digest: replica.digest.as_ref().map(|digest| digest.as_str().to_owned()),
            offload: replica.offload.or_else(|| loaded.facts.as_ref().map(|facts| facts.key.options.offload)),
            context: replica.context,
            slots: replica.slots,
            exact_prompts: exact,
            exact_answers: exact,
            exact_prefix: exact,
            unix_ms: unix_ms(),
        }
    }

    /// Keeps what examinations found: plans order models by it.
    fn note(&self, loaded: &Loaded, work: &KeepWork) {
        let model = &loaded.replica.model;
        let digest = loaded.replica.digest.as_ref().map(|digest| digest.as_str().to_owned());
        self.profile.change(|profile, at| {
            for Finding { suite, passed, tried } in &work.findings {
                let (model, suite, mode) = (model.clone(), suite.clone(), String::new());
                let (passed, tried, digest) = (*passed, *tried, digest.clone());
                profile.keep_trial(TrialRecord { model, suite, mode, digest, passed, tried, at });
            }
        });
    }

    /// Keeps what was measured alone: routing and plans go by it.
    fn keep(&self, loaded: &Loaded, figures: speed::Figures) {
        let key = speed_key(loaded, &self.vitals.borrow());
        self.profile
            .change(|profile, at| profile.keep_speed(key.record(figures.prefill, figures.decode, at)));
    }
}

/// Whoever asked.
#[derive(Debug, Clone)]
struct Told {
    lines: mpsc::Sender<Event>,
}

impl Told {
    /// Nobody who listens is nobody to tell: the task is ended with its lines.
    async fn event(&self, event: Event) {
        self.lines.send(event).await.ok();
    }
}

fn allowed(work: &AskWork) -> Result<(), String> {
    for question in &work.questions {
        let path = question.path.as_str();
        if !mesh_proto::frame::PATHS.contains(&path) && !OWN_PATHS.contains(&path) {
            let shown: String = path.chars().take(64).collect();
            return Err(format!("question `{}`: an engine's `{shown}` is not for trials", question.id));
        }
    }
    Ok(())
}

/// Asks all questions, `streams` at a time, each as soon as there is room.
async fn ask_all(asker: &Asker, work: &AskWork, began: Instant, told: &Told) -> Result<(), String> {
    let streams = usize::try_from(work.streams).unwrap_or(1);
    let (mut waiting, mut running) = (work.questions.iter().zip(0_u32..), FuturesUnordered::new());
    let mut silent = 0;
    loop {
        while running.len() < streams
            && let Some((question, number)) = waiting.next()
        {
            running.push(asked(asker, question, number, began).boxed());
        }
        let Some(answer) = running.next().await else { return Ok(()) };
        silent = if answer.is_silent() { silent + 1 } else { 0 };
        let why = answer.error.clone();
        told.event(Event::Run(answer)).await;
        if silent >= GIVEN_UP {
            return Err(format!("{GIVEN_UP} questions in a row got no answer: {}", why.unwrap_or_default()));
        }
    }
}

async fn asked(asker: &Asker, question: &Question, number: u32, began: Instant) -> Run {
    Run { repetition: number, ..asker.ask(question, began).await }
}

/// What the agent says of a model that it tries.
trait Silence {
    /// Nothing at all came back.
    fn is_silent(&self) -> bool;
}

impl Silence for Run {
    fn is_silent(&self) -> bool {
        self.error.is_some() && self.ttft_s.is_none() && self.raw.is_none()
    }
}

#[cfg(test)]
mod tests;
