//! The request path of the router against scripted nodes, on a clock that the tests move: who waits, who is refused,
//! what is tried again, what is loaded.

mod aliases;
mod counting;
mod faults;
mod fixture;
mod loading;
mod overload;
mod retries;
mod returning;
mod stopping;
mod waiting;
