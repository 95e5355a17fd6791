//! What each kind of engine can be asked and told, as data: the table of `docs/engines.md`.

use mesh_core::machine::{Capabilities, EngineKind};

/// What the agent can do with an engine of `kind`, at its best: an adapter takes away what the one it sees lacks.
#[must_use]
pub fn of(kind: EngineKind) -> Capabilities {
    let none = Capabilities::default();
    // Every engine here stops working on a request whose connection closed.
    let openai = Capabilities { abort_safe: true, ..none };
    match kind {
        EngineKind::LlamaServer => {
            Capabilities { has_slots: true, has_queue: true, has_context: true, has_timings: true, ..openai }
        }
        EngineKind::LlamaRouter => Capabilities {
            can_load: true,
            can_unload: true,
            has_slots: true,
            has_queue: true,
            has_context: true,
            has_timings: true,
            ..openai
        },
        EngineKind::Ollama => Capabilities {
            can_load: true,
            can_unload: true,
            can_pull: true,
            can_delete: true,
            has_context: true,
            can_size: true,
            ..openai
        },
        EngineKind::Lemonade | EngineKind::LmStudio => {
            Capabilities { can_load: true, can_unload: true, has_context: true, ..openai }
        }
        EngineKind::Vllm => Capabilities { has_queue: true, has_context: true, has_kv_usage: true, ..openai },
        EngineKind::Sglang
        | EngineKind::TabbyApi
        | EngineKind::KoboldCpp
        | EngineKind::LocalAi
        | EngineKind::OpenAi => openai,
    }
}
