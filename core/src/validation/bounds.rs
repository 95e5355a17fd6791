//! Whether a validation's record keeps to its bounds. It comes from a file, and a file may come from anybody.

use super::record::{Called, Evidence, Formed, Needle, Record, SCHEMA, Said};
use crate::ladder::RecordProblem;
use crate::ladder::check::{
    FEW, MODES, REASON, TEXT, between, count, each, id, length, mode, problem, run, rung, times, within,
    words,
};
use crate::trial::{REPETITIONS, TOKENS};

/// The first field that is out of bounds.
pub(super) fn record(record: &Record) -> Result<(), RecordProblem> {
    if record.schema != SCHEMA {
        let shown: String = record.schema.chars().take(64).collect();
        return Err(problem("schema", format!("`{shown}`"), &format!("`{SCHEMA}`")));
    }
    id(&record.id)?;
    words("meshctl", &record.meshctl)?;
    times(record.started_unix_ms, record.ended_unix_ms)?;
    let settings = &record.settings;
    count("settings.contexts", settings.contexts.len(), 1, FEW)?;
    for (at, tokens) in settings.contexts.iter().enumerate() {
        between(&format!("settings.contexts[{at}]"), f64::from(*tokens), 1.0, f64::from(TOKENS))?;
    }
    between("settings.output", f64::from(settings.output), 1.0, f64::from(TOKENS))?;
    between("settings.repetitions", f64::from(settings.repetitions), 1.0, f64::from(REPETITIONS))?;
    words("settings.questions", &settings.questions)?;
    count("modes", record.modes.len(), 0, MODES)?;
    each("modes", &record.modes, |aim| {
        count("models", aim.models.len(), 0, FEW)?;
        mode(&aim.goal).map_err(|found| within("goal", found))
    })?;
    evidence(&record.candidate).map_err(|found| within("candidate", found))?;
    if let Some(champion) = &record.champion {
        evidence(champion).map_err(|found| within("champion", found))?;
        if champion.rung.model == record.candidate.rung.model {
            let wanted = "another model than the candidate";
            return Err(problem("champion.rung.model", &champion.rung.model, wanted));
        }
    }
    length("stopped", record.stopped.as_deref().unwrap_or_default(), REASON)
}

fn evidence(evidence: &Evidence) -> Result<(), RecordProblem> {
    rung(&evidence.rung).map_err(|found| within("rung", found))?;
    count("contexts", evidence.contexts.len(), 0, FEW)?;
    each("contexts", &evidence.contexts, |reached| {
        if let Some(prompt) = reached.prompt.filter(|prompt| *prompt == 0 || *prompt > reached.asked) {
            let wanted = format!("between 1 and asked, {}", reached.asked);
            return Err(problem("prompt", prompt, &wanted));
        }
        Ok(())
    })?;
    count("forms", evidence.forms.len(), 0, FEW)?;
    each("forms", &evidence.forms, formed)?;
    count("calls", evidence.calls.len(), 0, FEW)?;
    each("calls", &evidence.calls, called)?;
    count("needles", evidence.needles.len(), 0, FEW)?;
    each("needles", &evidence.needles, needle)?;
    count("unasked", evidence.unasked.len(), 0, FEW)?;
    each("unasked", &evidence.unasked, |unasked| length("why", &unasked.why, REASON))
}

fn formed(formed: &Formed) -> Result<(), RecordProblem> {
    count("wanted", formed.wanted.len(), 1, FEW)?;
    run(&formed.run).map_err(|found| within("run", found))?;
    said("said", &formed.said)
}

fn called(called: &Called) -> Result<(), RecordProblem> {
    words("wanted.tool", &called.wanted.tool)?;
    words("wanted.argument", &called.wanted.argument)?;
    words("wanted.value", &called.wanted.value)?;
    run(&called.run).map_err(|found| within("run", found))?;
    count("calls", called.calls.len(), 0, FEW)?;
    each("calls", &called.calls, |call| {
        length("name", &call.name, TEXT)?;
        said("arguments", &call.arguments)
    })
}

fn needle(needle: &Needle) -> Result<(), RecordProblem> {
    between("depth", f64::from(needle.depth), 0.0, 100.0)?;
    // An empty one would be found in any answer.
    words("code", &needle.code)?;
    run(&needle.run).map_err(|found| within("run", found))
}

fn said(field: &str, said: &Said) -> Result<(), RecordProblem> {
    match said {
        Said::Other(what) => length(field, what, REASON),
        Said::Object(keys) => {
            count(field, keys.len(), 0, FEW)?;
            keys.iter().try_for_each(|(key, piece)| {
                length(field, key, TEXT)?;
                length(field, &piece.text, TEXT)
            })
        }
    }
}
