//! One round: the ranked nodes of a decision, tried until one has content.

use super::answer_judge::Judgement;
use super::attempt::{Attempt, Failure};
use super::course::{ATTEMPTS, Course};
use super::in_flight::Claim;
use super::ticket::Ticket;
use super::waiting_room::Progress;
use super::{Forward, Incoming};
use crate::fleet_keeper::Snapshot;
use crate::http::head::Head;
use crate::http::reply::ApiError;
use crate::metrics::ReasonLabel;
use http::StatusCode;
use mesh_core::fleet::Outcome;
use mesh_core::health::Liveness;
use mesh_core::id::MachineId;
use mesh_core::routing::{Candidate, Decision};
use std::pin::pin;
use std::sync::Arc;

/// An answer that is no stream has its first content at its end: it may take this many times as long.
const WHOLE_ANSWER: u32 = 6;

/// A node has content.
pub(super) struct Won {
    pub(super) attempt: Attempt,
    pub(super) candidate: Candidate,
    pub(super) claim: Box<Claim>,
}

/// No node of a decision gave content.
pub(super) enum Exhausted {
    /// And waiting does not help.
    Error(Box<ApiError>),
    /// But one is loading the model.
    Loading,
    /// But there are others, whose slots are all taken.
    Full,
    /// And an engine was absent, while no other began with the request: the fleet will have heard in a moment whether
    /// that one comes back.
    Absent,
}

impl Forward {
    /// Tries the ranked nodes until one has content.
    pub(super) async fn attempts(
        &self,
        course: &mut Course<'_>,
        decision: Decision,
        first_claim: Box<Claim>,
        ticket: &mut Ticket,
    ) -> Result<Box<Won>, Exhausted> {
        let decision = Arc::new(decision);
        ticket.decided(decision.clone());
        let head = course.head;
        let mut claim = Some(first_claim);
        let mut ranked: Vec<&Candidate> = decision.ranked.iter().collect();
        // An answer with nothing in it, kept while another node is asked once.
        let mut empty = None::<(Attempt, Candidate, Judgement)>;
        while course.round.tried < ATTEMPTS && !ranked.is_empty() {
            let free = || self.in_flight.claim_free(&ranked, self.clock.now(), course.wanted.trace());
            let Some((at, mut claim)) = claim.take().map(|claim| (0, claim)).or_else(free) else {
                match empty {
                    Some(_) => break,
                    None if course.round.loading.is_some() => return Err(Exhausted::Loading),
                    None if course.looks_again() => return Err(Exhausted::Absent),
                    None => return Err(Exhausted::Full),
                }
            };
            let candidate = ranked.remove(at);
            // What failed on a node that is there is repeated within a budget only, or a mesh in trouble gets twice the
            // work. Going elsewhere from one that is gone adds nothing to anybody's.
            if course.round.costs && !self.brakes().retries.take(self.clock.now()) {
                course.round.otherwise = true;
                ticket.attempt_ended(format!("{}; the budget for retries is spent", ticket.last_result()));
                break;
            }
            course.round.tried += 1;
            let reason = match &course.round.failed {
                None => candidate.why.to_string(),
                Some((node, why)) => format!("next after {node}: {why}"),
            };
            ticket.attempt(candidate, reason, claim.started());
            course.tell(Progress::Sent { node: candidate.machine.clone(), model: candidate.model.clone() });
            let others = course.round.tried < ATTEMPTS && !ranked.is_empty();
            let failure = match self.attempt(course.incoming, head, candidate, others, ticket).await {
                Ok(attempt) => {
                    // Of the last one nothing better is to be had: it is judged when it is delivered.
                    let judgement = (others && empty.is_none())
                        .then(|| attempt.judgement(&self.fleet, candidate))
                        .flatten();
                    match judgement.filter(Judgement::is_empty_answer) {
                        None => {
                            let now = self.clock.now();
                            // A count has no content whose time would be worth a median.
                            if !course.wanted.counts_only {
                                ticket.first_content(now);
                            }
                            claim.first_content(now);
                            if let Some((_, candidate, judgement)) = empty {
                                judgement.count(&candidate, &self.metrics);
                                let failed = Outcome::ReplicaFailed;
                                self.fleet.observe(&candidate.machine, &candidate.model, failed);
                            }
                            return Ok(Box::new(Won { attempt, candidate: candidate.clone(), claim }));
                        }
                        Some(judgement) => {
                            let why = judgement.text();
                            empty = Some((attempt, candidate.clone(), judgement));
                            Failure::Empty(why)
                        }
                    }
                }
                Err(failure) => failure,
            };
            ticket.attempt_ended(failure.to_string());
            course.stay.in_vain();
            Arc::make_mut(&mut course.wanted).tried.push(candidate.key);
            if matches!(failure, Failure::Link(_) | Failure::Busy(_) | Failure::Resting(..)) {
                course.round.passing.push(candidate.key);
            }
            course.round.otherwise |= !matches!(failure, Failure::Replica(_));
            course.round.absent |= matches!(failure, Failure::Absent(_));
            course.round.begun |= failure.has_begun();
            course.round.failed = Some((candidate.machine.clone(), failure.to_string()));
            tracing::debug!(request_id = &**ticket.id(), node = %candidate.machine, %failure, "attempt failed");
            if let Some(outcome) = failure.outcome() {
                self.fleet.observe(&candidate.machine, &candidate.model, outcome);
            }
            self.metrics.retries.get_or_create(&ReasonLabel { reason: failure.word() }).inc();
            let round = &mut course.round;
            match failure {
                // The answer in hand is better than an error.
                Failure::Client(_) if empty.is_some() => break,
                Failure::Late(_) if empty.is_some() && !head.stream => break,
                Failure::Client(error) => return Err(Exhausted::Error(error)),
                Failure::NoSuchPath(error) => course.beyond = Some(error),
                Failure::Beyond { least_context, error } => {
                    let wanted = Arc::make_mut(&mut course.wanted);
                    wanted.least_context = wanted.least_context.max(least_context);
                    let least = wanted.least_context;
                    ranked.retain(|other| other.context.is_none_or(|context| context >= least));
                    course.beyond = Some(error);
                }
                Failure::Loading => {
                    round.loading = Some((candidate.machine.clone(), candidate.model.clone()));
                }
                Failure::Late(limit) if !head.stream => {
                    let message = format!("the answer was not complete within {} s", limit.as_secs());
                    let error = ApiError::mesh(StatusCode::GATEWAY_TIMEOUT, "answer_too_late", message);
                    return Err(Exhausted::Error(Box::new(error)));
                }
                Failure::Link(_) => round.broken = true,
                Failure::Replica(_)
                | Failure::Absent(_)
                | Failure::Busy(_)
                | Failure::Resting(..)
                | Failure::Late(_)
                | Failure::Empty(_) => (round.broken, round.costs) = (true, true),
            }
        }
        if let Some((attempt, candidate, _)) = empty {
            // Nobody does better: the client decides what an empty answer is worth.
            let now = self.clock.now();
            let claim = self.in_flight.claim_next(&candidate, now, course.wanted.trace());
            ticket.attempt(&candidate, "its empty answer is all there is".into(), now);
            ticket.first_content(now);
            return Ok(Box::new(Won { attempt, candidate, claim }));
        }
        if course.round.loading.is_some() {
            return Err(Exhausted::Loading);
        }
        if course.looks_again() {
            return Err(Exhausted::Absent);
        }
        Err(Exhausted::Error(Box::new(course.verdict(ticket))))
    }

    /// One try on one node. With another node at hand, it ends as soon as this one is in doubt: a machine
    /// that was switched off sends nothing, and QUIC alone would wait for four seconds.
    async fn attempt(
        &self,
        incoming: &Incoming,
        head: &Head,
        candidate: &Candidate,
        others: bool,
        ticket: &mut Ticket,
    ) -> Result<Attempt, Failure> {
        let link = self
            .links
            .get(&candidate.machine)
            .ok_or_else(|| Failure::Link("there is no data link".into()))?;
        // Pinned here: `select!` would move it, and with it the room of all its states.
        let mut opened = pin!(self.open(link, incoming, head, candidate, ticket));
        let limit = self.settings.answer_wait * if head.stream { 1 } else { WHOLE_ANSWER };
        tokio::select! {
            biased;
            opened = &mut opened => opened,
            () = self.in_doubt(&candidate.machine), if others => {
                Err(Failure::Link("its control stream was lost".into()))
            }
            () = tokio::time::sleep(limit) => Err(Failure::Late(limit)),
        }
    }

    /// Completes when a machine that is alive now is so no longer.
    async fn in_doubt(&self, machine: &MachineId) {
        let mut snapshots = self.fleet.snapshots();
        let alive = |snapshot: &Snapshot| {
            snapshot.view.machine(machine).is_some_and(|view| view.liveness == Liveness::Alive)
        };
        let was_alive = alive(&snapshots.borrow_and_update());
        if !was_alive || snapshots.wait_for(|snapshot| !alive(snapshot)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
