//! The supervisor with real engines: the bundled llama.cpp server, an Ollama simulator, and strangers.
#![cfg(target_os = "linux")]

#[path = "engines_house/adapters.rs"]
mod adapters;
#[path = "engines_house/child_words.rs"]
mod child_words;
#[path = "engines_house/children.rs"]
mod children;
#[path = "engines_house/discovery.rs"]
mod discovery;
#[path = "engines_house/house.rs"]
mod house;
#[path = "engines_house/installation.rs"]
mod installation;
#[path = "engines_house/ollama.rs"]
mod ollama;
#[path = "engines_house/outside.rs"]
mod outside;
#[path = "engines_house/router_mode.rs"]
mod router_mode;
#[path = "engines_house/router_simulator.rs"]
mod router_simulator;
#[path = "ollama_simulator/simulator.rs"]
mod simulator;
#[path = "engines_house/stored.rs"]
mod stored;
#[path = "engines_house/web_server.rs"]
mod web_server;
