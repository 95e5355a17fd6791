//! Models in several files.

use crate::complete;
use crate::writer::Gguf;
use mesh_core::gguf::{Header, join};

/// Part `number` of `count` with one tensor, of a model that says it has `tensors`.
fn part(number: u32, count: u32, tensors: u32) -> Header {
    let file = Gguf::new()
        .text("general.architecture", if number == 0 { "llama" } else { "a later part says little" })
        .number("split.no", number)
        .number("split.count", count)
        .number("split.tensors.count", tensors)
        .tensor(&format!("blk.{number}.attn_q.weight"), &[32, 2], 8, 68);
    complete(&file.file())
}

fn why(parts: Vec<Header>) -> String {
    join(parts).expect_err("they do not belong together").to_string()
}

#[test]
fn parts_in_any_order_make_a_whole() {
    let whole = join(vec![part(2, 3, 3), part(0, 3, 3), part(1, 3, 3)]).expect("three of three");
    assert_eq!(whole.architecture(), Some("llama"), "the first part's metadata");
    let names: Vec<&str> = whole.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.2.attn_q.weight"]);
    assert_eq!((whole.weight_bytes(), whole.parameters()), (3 * 68, 3 * 64));
}

#[test]
fn a_file_that_is_no_part_is_whole() {
    let alone = complete(&Gguf::new().text("general.architecture", "llama").file());
    assert_eq!(join(vec![alone.clone()]), Ok(alone));
    let one_of_one = part(0, 1, 1);
    assert_eq!(join(vec![one_of_one.clone()]), Ok(one_of_one), "some tools write that");
}

#[test]
fn parts_that_do_not_belong_together_are_refused_with_the_reason() {
    assert_eq!(why(Vec::new()), "split model: there are no parts");
    assert_eq!(why(vec![part(0, 3, 3), part(1, 3, 3)]), "split model: 2 of 3 parts are there");
    assert_eq!(
        why(vec![part(0, 3, 3), part(1, 3, 3), part(1, 3, 3)]),
        "split model: part 2 is missing or there twice"
    );
    assert_eq!(
        why(vec![part(0, 3, 3), part(1, 3, 3), part(7, 3, 3)]),
        "split model: part 2 is missing or there twice"
    );
    assert_eq!(
        why(vec![part(0, 2, 2), part(1, 3, 2)]),
        "split model: part 1 is of a model with 3 parts and 2 tensors, part 0 of one with 2 and 2"
    );
    assert_eq!(
        why(vec![part(0, 2, 9), part(1, 2, 9)]),
        "split model: its parts have 2 tensors, and it says 9"
    );
    let alone = complete(&Gguf::new().file());
    assert_eq!(why(vec![part(0, 2, 2), alone]), "split model: a file is no part of a split model");
    let mut twice = part(1, 2, 2);
    twice.tensors[0].name = "blk.0.attn_q.weight".into();
    assert_eq!(why(vec![part(0, 2, 2), twice]), "tensor `blk.0.attn_q.weight` is there twice");
}
