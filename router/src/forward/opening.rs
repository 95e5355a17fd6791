//! How one node is asked: in which dialect, with which limit on the answer, and what the answer is compared with.

use super::agent_links::AgentLink;
use super::answer_judge::Truth;
use super::attempt::{self, Attempt, Failure};
use super::prompt_measure::{self, Known};
use super::ticket::Ticket;
use super::{Forward, Incoming};
use crate::http::dialect::passage::Passage;
use crate::http::dialect::translation::Label;
use crate::http::head::{Cap, Head};
use crate::metrics::ReasonLabel;
use mesh_core::machine::EngineKind;
use mesh_core::routing::Candidate;
use mesh_daemon::clock::unix_ms;
use std::sync::Arc;

impl Forward {
    /// Asks the engine in the dialect it speaks best, and if it is too old for that, in the next one.
    pub(super) async fn open(
        &self,
        link: Arc<dyn AgentLink>,
        incoming: &Incoming,
        head: &Head,
        candidate: &Candidate,
        ticket: &mut Ticket,
    ) -> Result<Attempt, Failure> {
        let snapshot = self.fleet.snapshot();
        let machine = snapshot.view.machine(&candidate.machine);
        let kind = machine.and_then(|machine| machine.replica(&candidate.model));
        let kind = kind.map(|(engine, _)| engine.kind);
        let limit = ticket.mode().and_then(|mode| snapshot.rules.max_tokens.get(mode).copied());
        drop(snapshot);
        let (cap, known) = self.measure(&*link, incoming, head, candidate, (kind, limit), ticket).await?;
        let beyond = |error| Failure::Beyond { least_context: 0, error };
        let kind = kind.unwrap_or(EngineKind::OpenAi);
        let ways = Passage::ways(incoming.door, kind, &incoming.body).map_err(beyond)?;
        let model = candidate.model.as_str();
        let mut failure = None;
        for way in ways {
            let label = || Label { model: model.into(), id: incoming.id.to_string(), at_unix_ms: unix_ms() };
            let prepared =
                way.prepare(incoming.door, &incoming.body, head, model, label, cap).map_err(|error| {
                    if error.code == "unsupported" { beyond(error) } else { Failure::Client(error) }
                })?;
            let truth = Truth { known, stop_repetition: self.settings.stop_repetition, ..Truth::default() };
            match attempt::open(link.clone(), incoming, head, candidate, prepared, truth).await {
                Err(Failure::NoSuchPath(error)) => failure = Some(beyond(error)),
                result => return result,
            }
        }
        Err(failure.unwrap_or_else(|| Failure::Replica("there is no way to ask it".into())))
    }

    /// Measures the prompt for one node: the limit of its answer, and what the answer will be compared with.
    async fn measure(
        &self,
        link: &dyn AgentLink,
        incoming: &Incoming,
        head: &Head,
        candidate: &Candidate,
        (engine, limit): (Option<EngineKind>, Option<u32>),
        ticket: &mut Ticket,
    ) -> Result<(Option<Cap>, Known), Failure> {
        let measured = prompt_measure::measure(link, incoming, head, candidate, engine).await;
        if let Some(reason) = prompt_measure::counted_as(&measured) {
            self.metrics.prompt_counts.get_or_create(&ReasonLabel { reason }).inc();
        }
        let measured = measured?;
        let of_mode = limit.and_then(|tokens| prompt_measure::mode_cap(head, incoming.door.path(), tokens));
        let cap = match (of_mode, measured.cap) {
            // The lower one, with the mode's way of adding what is not there.
            (Some((mode, why)), Some((context, _))) if mode.tokens <= context.tokens => Some((mode, why)),
            (Some((mode, _)), Some((context, why))) => Some((Cap { tokens: context.tokens, ..mode }, why)),
            (one, other) => one.or(other),
        };
        ticket.clamped(cap.map(|(cap, why)| format!("{}, {why}", cap.tokens)));
        Ok((cap.map(|(cap, _)| cap), measured.known))
    }
}
