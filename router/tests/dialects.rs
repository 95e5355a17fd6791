//! Translations of real answers of llama.cpp b11549, recorded in `captures/`: in every dialect, cut at every byte, and
//! translations of requests.

#[path = "dialects/answers.rs"]
mod answers;
#[path = "dialects/framings.rs"]
mod framings;
#[path = "dialects/requests.rs"]
mod requests;
