//! What is kept of requests, and how it is found.

use super::*;
use mesh_core::routing::Why;
use mesh_core::speed::Timing;
use mesh_proto::v1::{AttemptLine, CandidateLine, CostTerm};

fn record(id: &str) -> SharedRecord {
    Record { id: id.into(), ..Record::default() }.into()
}

fn finish(outcome: &'static str, ttft_s: f64) -> Finish {
    Finish {
        mode: "code".parse().expect("valid"),
        outcome,
        ttft_s: Some(ttft_s),
        queued_s: None,
        tokens_per_second: None,
    }
}

#[test]
fn a_unique_start_finds_a_request_and_an_ambiguous_one_lists_them() {
    let mut records = Records::default();
    assert_eq!(records.find("x"), Err(NotFound::Unknown("x".into())));
    assert_eq!(records.find(""), Err(NotFound::Empty));
    records.begun(record("req-ab"));
    records.begun(record("req-ac"));
    assert_eq!(records.find("req-ab").map(|r| r.request_id), Ok("req-ab".into()));
    assert_eq!(records.find("").map(|r| r.request_id), Ok("req-ac".into()));
    let said = records.find("req-a").expect_err("two").to_string();
    assert_eq!(said, "`req-a` is the start of several requests: req-ac, req-ab");
    for number in 0..12 {
        records.begun(record(&format!("req-a{number:02}")));
    }
    let said = records.find("req-a").expect_err("many").to_string();
    assert!(said.ends_with(": req-a11, req-a10, req-a09, req-a08, req-a07, +9 more"), "{said}");
    assert_eq!(records.find("req-a0").map(|_| ()).expect_err("ten").to_string().matches("req-a").count(), 6);
    assert_eq!(
        records.find("req-ab").map(|r| r.request_id),
        Ok("req-ab".into()),
        "far behind the first five"
    );
}

#[test]
fn only_the_last_ten_thousand_are_kept() {
    let mut records = Records::default();
    for number in 0..=CAPACITY {
        records.begun(record(&format!("req-{number:05}")));
    }
    assert!(records.find("req-00000").is_err());
    assert!(records.find("req-00001").is_ok());
    assert_eq!(records.kept.len(), CAPACITY);
}

#[test]
fn a_record_is_found_as_it_is_now() {
    let (mut records, shared) = (Records::default(), record("req-1"));
    records.begun(shared.clone());
    shared.lock().outcome = "complete";
    assert_eq!(records.find("req-1").map(|r| r.outcome), Ok("complete".into()));
}

#[test]
fn a_finished_record_tells_all_that_it_knew() {
    let (machine, model) = (|| "strix".parse().expect("valid"), || "tiny:1b".parse().expect("valid"));
    let candidate = Candidate {
        in_flight: 3,
        predicted_s: Some(1.5),
        predicted_ttft_s: Some(0.0),
        cached_tokens: 40,
        terms: vec![("prefill", 1.25), ("bias", -0.25)],
        ..Candidate::new(machine(), model())
    };
    let rejected =
        vec![Rejection { machine: "msi".parse().expect("valid"), model: None, why: Why::Draining }];
    let decision = Decision { ranked: vec![candidate], rejected, feasible: 1, any_free: true };
    let timing = Timing { decode_tokens: 40, decode_s: 2.0, ..Timing::default() };
    let shared = SharedRecord::from(Record {
        id: "req-1".into(),
        at_unix_ms: 1_790_000_000_000,
        path: "/v1/chat/completions",
        client: "sdk \u{e9}".into(),
        body_bytes: 300,
        asked: "mesh/code".into(),
        stream: true,
        mode: Some("code".parse().expect("valid")),
        reason: "only candidate".into(),
        attempts: vec![Attempted {
            node: machine(),
            model: model(),
            started_after_s: 0.25,
            result: "answered".into(),
        }],
        outcome: "complete",
        outcome_detail: "a detail".into(),
        status: 200,
        predicted_s: (Some(0.5), Some(4.0)),
        ttft_s: Some(0.75),
        duration_s: Some(3.0),
        queued_s: Some(0.125),
        usage: Usage { prompt_tokens: Some(0), completion_tokens: Some(40), timing: Some(timing) },
        decision: Some(Arc::new(decision)),
        refused: Vec::new(),
        refused_more: 0,
    });
    let wanted = ExplainReply {
        request_id: "req-1".into(),
        at_unix_ms: 1_790_000_000_000,
        path: "/v1/chat/completions".into(),
        asked: "mesh/code".into(),
        mode: "code".into(),
        client: "sdk \u{e9}".into(),
        body_bytes: 300,
        stream: true,
        candidates: vec![
            CandidateLine {
                node: "strix".into(),
                model: "tiny:1b".into(),
                rank: 1,
                why: Why::OnlyCandidate.to_string(),
                predicted_s: Some(1.5),
                in_flight: 3,
                terms: vec![
                    CostTerm { name: "prefill".into(), seconds: 1.25 },
                    CostTerm { name: "bias".into(), seconds: -0.25 },
                ],
                predicted_ttft_s: Some(0.0),
                cached_tokens: 40,
            },
            CandidateLine { node: "msi".into(), why: "draining".into(), ..CandidateLine::default() },
        ],
        attempts: vec![AttemptLine {
            node: "strix".into(),
            model: "tiny:1b".into(),
            started_after_s: 0.25,
            result: "answered".into(),
        }],
        outcome: "complete".into(),
        outcome_detail: "a detail".into(),
        status: 200,
        ttft_s: Some(0.75),
        duration_s: Some(3.0),
        prompt_tokens: Some(0),
        completion_tokens: Some(40),
        tokens_per_second: Some(20.0),
        reason: "only candidate".into(),
        queued_s: Some(0.125),
        predicted_ttft_s: Some(0.5),
        predicted_answer_s: Some(4.0),
    };
    let mut records = Records::default();
    records.begun(record("req-0"));
    records.begun(shared.clone());
    records.begun(record("req-2"));
    assert_eq!(records.find("req-1"), Ok(wanted.clone()), "as it is known while it goes on");
    records.close(&shared);
    assert!(matches!(records.kept[1], Kept::Closed(_)) && matches!(records.kept[0], Kept::Open(_)));
    assert_eq!(records.find("req-1"), Ok(wanted), "and once it has ended");
}

#[test]
fn requests_of_a_mode_are_counted_by_how_they_ended() {
    let mut records = Records::default();
    for ended in [finish("complete", 0.3), finish("failed", 0.1), finish("complete", 0.2)] {
        records.ended(ended);
    }
    let stats = &records.stats()["code"];
    assert_eq!((stats.ok, stats.failed, stats.ttft_s), (2, 1, Some(0.2)));
}
