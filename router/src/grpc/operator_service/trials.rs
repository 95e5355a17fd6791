//! Trials: an operator's questions to one model of one machine, passed on to its agent, and the agent's lines passed back.
//! Nothing is kept here. Who leaves ends the trial.

use super::{OperatorParts, machine};
use crate::forward::agent_links::{AgentAnswer, AnswerBody};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use mesh_core::trial::Trial;
use mesh_proto::frame::TRIAL_PATH;
use mesh_proto::v1::response_head::Outcome;
use mesh_proto::v1::{Refused, RequestHead, TrialEvent, TrialRequest};
use std::time::Duration;
use tokio::time::timeout;
use tonic::Status;
use uuid::Uuid;

/// How long an agent may take to begin: it has only to take the model.
const BEGIN_WITHIN: Duration = Duration::from_secs(20);
/// The longest line, in bytes: an answer of [`mesh_core::trial`] twice, as text and as the engine had it.
const LINE_LIMIT: usize = 4 << 20;

/// The agent's lines, one message each.
pub(super) type Lines = BoxStream<'static, Result<TrialEvent, Status>>;

/// Begins a trial.
pub(super) async fn begin(parts: &OperatorParts, request: TrialRequest) -> Result<Lines, Status> {
    let node = machine(&request.node)?;
    let trial: Trial = serde_json::from_str(&request.trial_json)
        .map_err(|error| Status::invalid_argument(format!("the trial is not understood: {error}")))?;
    trial.check().map_err(|problem| Status::invalid_argument(problem.to_string()))?;
    let link = parts.links.get(&node).ok_or_else(|| {
        // Not "unavailable": that is the word for a router that cannot be reached.
        Status::failed_precondition(format!("node `{node}` is not connected: look at it with meshctl status"))
    })?;
    let body = Bytes::from(request.trial_json);
    let head = RequestHead {
        request_id: Uuid::now_v7().to_string(),
        model: trial.model.to_string(),
        path: TRIAL_PATH.into(),
        body_length: body.len() as u64,
        ..RequestHead::default()
    };
    let opened = timeout(BEGIN_WITHIN, link.open(head, body)).await;
    let opened = opened.map_err(|_| {
        Status::deadline_exceeded(format!("node `{node}` did not begin within {} s", BEGIN_WITHIN.as_secs()))
    })?;
    let AgentAnswer { head, body } =
        opened.map_err(|error| Status::failed_precondition(format!("node `{node}`: {error}")))?;
    match head.outcome {
        Some(Outcome::Answer(_)) => Ok(lines(body)),
        Some(Outcome::Refused(refused)) => Err(refusal(node.as_str(), &refused)),
        Some(Outcome::Blob(_)) | None => {
            Err(Status::internal(format!("node `{node}` answered with something else than a trial")))
        }
    }
}

fn refusal(node: &str, refused: &Refused) -> Status {
    let why = format!("node `{node}`: {}", refused.message);
    match refused.kind.as_str() {
        "no_such_model" => Status::not_found(why),
        // An agent of an earlier version knows no trials.
        "bad_request" => Status::invalid_argument(why),
        _ => Status::failed_precondition(why),
    }
}

/// Whole lines of `body`.
fn lines(body: AnswerBody) -> Lines {
    let start = (body, BytesMut::new());
    let next = |(mut body, mut carry): (AnswerBody, BytesMut)| async move {
        loop {
            if let Some(end) = carry.iter().position(|byte| *byte == b'\n') {
                let line = carry.split_to(end + 1);
                let event_json = String::from_utf8_lossy(&line[..end]).into_owned();
                return Some((Ok(TrialEvent { event_json }), (body, carry)));
            }
            let broke = match body.next().await {
                Some(Ok(bytes)) if carry.len() + bytes.len() <= LINE_LIMIT => {
                    carry.extend_from_slice(&bytes);
                    continue;
                }
                Some(Ok(_)) => "the node sent a line without end".to_owned(),
                Some(Err(error)) => format!("the trial broke off: {error}"),
                None => return None,
            };
            return Some((Err(Status::aborted(broke)), (stream::empty().boxed(), BytesMut::new())));
        }
    };
    stream::unfold(start, next).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::agent_links::LinkError;

    async fn read(pieces: Vec<Result<&'static str, LinkError>>) -> Vec<Result<String, String>> {
        let body =
            stream::iter(pieces).map(|piece| piece.map(|text| Bytes::from_static(text.as_bytes()))).boxed();
        let told = lines(body)
            .map(|line| line.map(|event| event.event_json).map_err(|status| status.message().to_owned()));
        told.collect().await
    }

    #[tokio::test]
    async fn lines_come_whole_however_they_were_cut() {
        let all = read(vec![Ok("{\"a\":1}\n{\"b"), Ok("\":2}"), Ok("\n\n"), Ok("half")]).await;
        assert_eq!(all, [Ok("{\"a\":1}".into()), Ok("{\"b\":2}".into()), Ok(String::new())]);
    }

    #[tokio::test]
    async fn what_breaks_or_floods_ends_with_an_error() {
        let broke = read(vec![Ok("a\nb"), Err(LinkError::Shutdown)]).await;
        assert_eq!(broke.len(), 2);
        assert_eq!(broke[1], Err("the trial broke off: the node is shutting down".into()));
        let much: &'static str = Box::leak("x".repeat(LINE_LIMIT).into_boxed_str());
        let flood = read(vec![Ok(much), Ok("x")]).await;
        assert_eq!(flood, [Err("the node sent a line without end".into())]);
    }
}
