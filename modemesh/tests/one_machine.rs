//! The program `modemesh` as a person meets it: real processes, the real bundled engine.

#[path = "one_machine/program.rs"]
mod program;
#[path = "one_machine/up_and_demo.rs"]
mod up_and_demo;
#[path = "one_machine/up_refuses.rs"]
mod up_refuses;
