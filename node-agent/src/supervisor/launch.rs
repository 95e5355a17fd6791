//! How a model's file is started so that it fits: what was wished, what is configured, and the memory there is.

use super::load_facts::LoadFacts;
use super::resident::resident;
use crate::engine::child::ChildSpec;
use crate::engine::{BufferKind, Program, Reported, Sizing};
use crate::model_store::{StoreHandle, StoredFile, whole_header};
use crate::profile::ProfileHandle;
use crate::reservation::{Ledger, Refused, Reservation, Shrunk};
use crate::truth::RAM;
use mesh_core::fit::{Choice, Claim, Demand, Margin, Offload, Pools, Trial, Wanted, choose};
use mesh_core::gguf::{self, Header};
use mesh_core::id::ModelId;
use mesh_core::machine::{
    Digest, GpuVendor, LoadWish, Replica, ReplicaMemory, Thermal, ThermalState, Vitals,
};
use mesh_core::memory::{CacheType, Footprint, HOST_OVERHEAD, Options, Shape, footprint};
use mesh_core::profile::{LoadKey, LoadOptions, Measured, MeasuredBy};
use mesh_core::units::Bytes;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Parts of a split model that are looked for; the largest ones published have under 50.
const PARTS: u32 = 128;
/// What the driver may have given to others while a model loaded, until the difference tells nothing of the model.
const PLAUSIBLE: u64 = 2 << 30;

/// How models of the store are started where nobody says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchDefaults {
    /// What starts them.
    pub program: Program,
    /// Tokens of one request; fewer where the model was trained for fewer, or the memory is short.
    pub context: u32,
    /// Requests at once.
    pub slots: u32,
}

impl LaunchDefaults {
    /// Editors begin with ten thousand tokens of prompt and files.
    pub const CONTEXT: u32 = 16_384;
    /// Each slot costs a context of its own.
    pub const SLOTS: u32 = 1;
}

impl Default for LaunchDefaults {
    fn default() -> Self {
        Self { program: Program::Bundled, context: Self::CONTEXT, slots: Self::SLOTS }
    }
}

/// A model's file with all that decides how it is started.
#[derive(Debug, Clone)]
pub(super) struct Berth {
    /// Its name towards clients.
    pub(super) alias: ModelId,
    pub(super) program: Program,
    pub(super) engine_folder: PathBuf,
    pub(super) context: u32,
    pub(super) slots: u32,
    /// A wish may say otherwise, and less context will do.
    pub(super) flexible: bool,
    pub(super) source: Source,
}

/// Where the file comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The configuration names it; it may come and go.
    Configured {
        /// The file.
        file: PathBuf,
        /// Whether it makes embeddings.
        embedding: bool,
    },
    /// The store has it, and has read it.
    Stored {
        /// As it was when it was taken up.
        file: Box<StoredFile>,
        /// Knows its digest and its projector when they come later.
        store: StoreHandle,
    },
}

/// Why a model is not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoBerth {
    /// It does not fit.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The machine takes no load in its thermal state.
    #[error(transparent)]
    Heat(#[from] TooWarm),
    /// The wish names a cache that is none.
    #[error("`{word}` is no type of KV cache; f16 and q8_0 are some")]
    CacheType {
        /// As wished.
        word: String,
    },
}

/// A machine that takes no load in its thermal state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the machine takes no load while it is {}: {}{}", thermal.state.word(), thermal.why, self.advice())]
pub(super) struct TooWarm {
    thermal: Thermal,
}

impl TooWarm {
    /// Refuses a wish while the machine is derated or hot, and what its owner wrote down only while it is hot: a
    /// laptop that starts on battery serves what it was set up for.
    pub(super) fn check(vitals: &Vitals, wished: bool) -> Result<(), Self> {
        let state = vitals.thermal.state;
        let may = if wished { state.admits_load() } else { state != ThermalState::Hot };
        if may { Ok(()) } else { Err(Self { thermal: vitals.thermal.clone() }) }
    }

    fn advice(&self) -> &'static str {
        if self.thermal.why.contains("on battery") {
            "; its owner can allow that with thermal.on_battery in agent.toml"
        } else {
            "; it takes some again a minute after it has cooled down"
        }
    }
}

/// A model that may start now.
pub(super) struct Berthed {
    pub(super) spec: ChildSpec,
    pub(super) reservation: Reservation,
    pub(super) planned: Planned,
}

/// How a model is started, and what that was predicted to take.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) key: LoadKey,
    pub(super) predicted: Footprint,
    pub(super) sizing: Sizing,
    /// The graphics processor's id.
    pub(super) gpu: Option<String>,
}

impl Planned {
    /// Whether a wish asks for nothing else than this.
    pub(super) fn satisfies(&self, wish: &LoadWish) -> bool {
        wish.context.is_none_or(|context| context <= self.sizing.context)
            && wish.slots.is_none_or(|slots| slots == self.sizing.slots)
            && wish.cache_type.as_ref().is_none_or(|word| word == self.sizing.cache.word())
            && wish.offload.is_none_or(|offload| offload == self.key.options.offload)
    }
}

/// What is known of the file.
struct Facts {
    shape: Shape,
    /// What its memory is kept under in the profile.
    model: String,
    projector: Option<Bytes>,
    embedding: bool,
}

impl Berth {
    /// The file that engines are given.
    pub(super) fn file(&self) -> &Path {
        match &self.source {
            Source::Configured { file, .. } => file,
            Source::Stored { file, .. } => &file.path,
        }
    }

    /// Whether it makes embeddings and no text.
    pub(super) fn embedding(&self) -> bool {
        match &self.source {
            Source::Configured { embedding, .. } => *embedding,
            // Models that make text have no pooling, or none (0).
            Source::Stored { file: stored, .. } => {
                stored.header.arch_number("pooling_type").is_some_and(|pooling| pooling != 0)
            }
        }
    }

    /// Bytes of its weights.
    pub(super) fn size(&self) -> Option<Bytes> {
        match &self.source {
            Source::Configured { file, .. } => Some(size_of(&parts_of(file))).filter(|size| size.0 > 0),
            Source::Stored { file, .. } => Some(Bytes(file.header.weight_bytes())),
        }
    }

    /// Of its file, where the store has computed it.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.stored().and_then(|stored| stored.digest)
    }

    /// Adds what its header tells to what is shown of it.
    pub(super) fn describe(&self, replica: &mut Replica) {
        if let Source::Stored { file: stored, .. } = &self.source {
            let trained = stored.header.arch_number("context_length");
            replica.trained_context = trained.and_then(|tokens| u32::try_from(tokens).ok());
            replica.parameters = Some(stored.header.parameters()).filter(|&count| count > 0);
        }
    }

    /// The store's file with what is known of it now.
    fn stored(&self) -> Option<StoredFile> {
        let Source::Stored { file, store } = &self.source else { return None };
        let now = store.file(&self.alias);
        let same = now.filter(|now| now.path == file.path && now.header == file.header);
        Some(same.unwrap_or_else(|| (**file).clone()))
    }

    async fn facts(&self) -> Facts {
        let embedding = self.embedding();
        match &self.source {
            Source::Configured { file, .. } => {
                let path = file.clone();
                let read = move || {
                    let parts = parts_of(&path);
                    let shape = joined(&parts).and_then(|header| Shape::from_header(&header).ok());
                    shape.unwrap_or_else(|| Shape::of_size(size_of(&parts)))
                };
                let shape =
                    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Shape::of_size(Bytes(0)));
                Facts { shape, model: self.alias.to_string(), projector: None, embedding }
            }
            Source::Stored { file, .. } => {
                let stored = self.stored().unwrap_or_else(|| (**file).clone());
                let weights = Bytes(stored.header.weight_bytes());
                let shape = Shape::from_header(&stored.header).unwrap_or_else(|_| Shape::of_size(weights));
                let model = stored
                    .digest
                    .as_ref()
                    .map_or_else(|| self.alias.to_string(), |digest| digest.to_string());
                let size = |path: &PathBuf| std::fs::metadata(path).ok().map(|file| Bytes(file.len()));
                Facts { shape, model, projector: stored.projector.as_ref().and_then(size), embedding }
            }
        }
    }

    /// Finds out how to start it and waits for its turn. `version` is the engine's, where it has been seen.
    pub(super) async fn take(
        &self,
        wish: &LoadWish,
        ledger: &Ledger,
        holders: &[Claim],
        profile: &ProfileHandle,
        version: Option<&str>,
    ) -> Result<Berthed, NoBerth> {
        TooWarm::check(&ledger.vitals(), self.flexible)?;
        let facts = self.facts().await;
        let request = self.request(wish, &facts)?;
        let margin = Margin::of(&profile.read(mesh_core::profile::Profile::residuals));
        let decide = |pools: &Pools, claims: &[Claim]| {
            self.choose(&request, &facts, pools.clone(), claims, margin, profile, version)
        };
        let (reservation, choice) = ledger.admit(self.alias.as_str(), holders, decide).await?;
        let planned = self.planned(&request, &facts, &choice, &ledger.vitals(), version);
        if choice.trial.context < request.sizing.context {
            tracing::info!(
                model = %self.alias,
                "loading with a context of {} instead of {} tokens, which is what fits",
                choice.trial.context, request.sizing.context
            );
        }
        let spec = ChildSpec {
            program: self.program.clone(),
            engine_folder: self.engine_folder.clone(),
            model: self.file().to_owned(),
            alias: self.alias.clone(),
            sizing: planned.sizing.clone(),
            projector: self.stored().and_then(|stored| stored.projector),
            embedding: facts.embedding,
            cards: cards(&ledger.vitals(), planned.gpu.as_deref()),
        };
        profile.change(|profile, at| {
            profile.keep_footprint(planned.key.clone(), planned.predicted.clone(), None, at);
        });
        Ok(Berthed { spec, reservation, planned })
    }

    /// Whether `wish` would fit in place of what is loaded now and holds `own`.
    pub(super) async fn would_fit(
        &self,
        wish: &LoadWish,
        ledger: &Ledger,
        own: ReplicaMemory,
        profile: &ProfileHandle,
    ) -> Result<(), NoBerth> {
        TooWarm::check(&ledger.vitals(), self.flexible)?;
        let facts = self.facts().await;
        let request = self.request(wish, &facts)?;
        let margin = Margin::of(&profile.read(mesh_core::profile::Profile::residuals));
        let mut pools = Pools::of(&ledger.vitals());
        pools.give_back(own.device, own.host);
        let choice = self.choose(&request, &facts, pools, &ledger.claims(), margin, profile, None);
        if choice.fit.fits { Ok(()) } else { Err(Refused { fit: Box::new(choice.fit) }.into()) }
    }

    fn request(&self, wish: &LoadWish, facts: &Facts) -> Result<Request, NoBerth> {
        let wish = if self.flexible { wish.clone() } else { LoadWish::from(self.alias.clone()) };
        let trained = facts.shape.trained_context.and_then(|tokens| u32::try_from(tokens).ok());
        let usual = match trained {
            Some(trained) if self.flexible => self.context.min(trained.max(1)),
            Some(_) | None => self.context,
        };
        let mut sizing = Sizing::default_for(wish.context.unwrap_or(usual), wish.slots.unwrap_or(self.slots));
        if let Some(word) = &wish.cache_type {
            sizing.cache =
                CacheType::from_word(word).ok_or_else(|| NoBerth::CacheType { word: word.clone() })?;
        }
        let context_is_open = self.flexible && wish.context.is_none();
        Ok(Request { sizing, context_is_open, offload: wish.offload })
    }

    #[expect(clippy::too_many_arguments, reason = "all of them decide, and they come from four places")]
    fn choose(
        &self,
        request: &Request,
        facts: &Facts,
        pools: Pools,
        claims: &[Claim],
        margin: Margin,
        profile: &ProfileHandle,
        version: Option<&str>,
    ) -> Choice {
        let pools = match self.program {
            Program::Bundled => pools.host_only("the bundled engine uses the processor only"),
            Program::Path(_) => pools,
        };
        let layers = facts.shape.layers.len();
        let wanted = Wanted {
            context: request.sizing.context,
            context_is_open: request.context_is_open,
            layers: u32::try_from(layers + 1).unwrap_or(u32::MAX),
            experts: facts.shape.layers.iter().any(|layer| layer.experts > 0),
            divisible: layers > 1,
            offload: request.offload,
        };
        // The device's name does not matter here: of one machine's processors the best is the one that was measured.
        let devices: Vec<String> = pools.devices.iter().map(device_name).collect();
        let needs = |trial: Trial| {
            let sizing = sized(&request.sizing, trial);
            let names = if trial.offload == Offload::None { &[][..] } else { &devices[..] };
            let measured = names.first().map_or(RAM, String::as_str);
            let key = load_key(facts, &sizing, trial.offload, measured, version);
            profile.read(|profile| profile.measured_of(&key, version.is_some())).unwrap_or_else(|| {
                let predicted = predict(facts, &sizing);
                Demand { device: predicted.device.total(), host: predicted.host.total() }
            })
        };
        choose(&pools, claims, wanted, margin, needs)
    }

    fn planned(
        &self,
        request: &Request,
        facts: &Facts,
        choice: &Choice,
        vitals: &Vitals,
        version: Option<&str>,
    ) -> Planned {
        let mut sizing = sized(&request.sizing, choice.trial);
        let pools = Pools::of(vitals);
        let gpu = choice.fit.gpu.clone();
        let device = pools.devices.iter().find(|device| Some(&device.id) == gpu.as_ref());
        // On shared memory the page cache would hold the weights a second time.
        sizing.direct_io = device.is_some_and(|device| device.carve_out.is_some());
        let name = device.map_or_else(|| RAM.to_owned(), device_name);
        Planned {
            key: load_key(facts, &sizing, choice.trial.offload, &name, version),
            predicted: predict(facts, &sizing),
            sizing,
            gpu,
        }
    }
}

/// What is asked for, before anything is found to fit.
struct Request {
    sizing: Sizing,
    context_is_open: bool,
    offload: Option<Offload>,
}

/// Variables that leave an engine only the card `gpu`, where the machine has several of its maker: llama.cpp would
/// spread a model over all that it sees. CUDA and ROCm count cards in the order of their addresses when told so.
fn cards(vitals: &Vitals, gpu: Option<&str>) -> Vec<(&'static str, String)> {
    let all = || vitals.gpus.known().into_iter().flatten();
    let Some(chosen) = all().find(|known| Some(known.id.as_str()) == gpu) else { return Vec::new() };
    let mut ids: Vec<&str> =
        all().filter(|known| known.vendor == chosen.vendor).map(|known| known.id.as_str()).collect();
    ids.sort_unstable();
    let place = ids.iter().position(|id| *id == chosen.id).unwrap_or(0).to_string();
    match chosen.vendor {
        GpuVendor::Nvidia if ids.len() > 1 => {
            vec![("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()), ("CUDA_VISIBLE_DEVICES", place)]
        }
        GpuVendor::Amd if ids.len() > 1 => vec![("HIP_VISIBLE_DEVICES", place)],
        GpuVendor::Nvidia | GpuVendor::Amd | GpuVendor::Intel => Vec::new(),
    }
}

fn device_name(device: &mesh_core::fit::Device) -> String {
    format!("{} {}", device.name, device.id)
}

/// The name of an engine's build in the profile.
pub(super) fn build_name(version: Option<&str>) -> String {
    format!("llama-server {}", version.unwrap_or("?"))
}

fn sized(sizing: &Sizing, trial: Trial) -> Sizing {
    let (gpu_layers, cpu_moe) = match trial.offload {
        Offload::Full => (None, None),
        Offload::ExpertsOfFirst(count) => (None, Some(count)),
        Offload::Layers(count) => (Some(count), None),
        Offload::None => (Some(0), None),
    };
    Sizing { context: trial.context, gpu_layers, cpu_moe, ..sizing.clone() }
}

fn load_key(
    facts: &Facts,
    sizing: &Sizing,
    offload: Offload,
    device: &str,
    version: Option<&str>,
) -> LoadKey {
    LoadKey {
        model: facts.model.clone(),
        build: build_name(version),
        device: device.to_owned(),
        options: LoadOptions {
            context: sizing.context,
            slots: sizing.slots,
            cache: sizing.cache.word().to_owned(),
            ubatch: sizing.ubatch,
            offload,
        },
    }
}

fn predict(facts: &Facts, sizing: &Sizing) -> Footprint {
    let options = sizing.options();
    // Embeddings are computed in one step.
    let ubatch = if facts.embedding { sizing.context } else { options.ubatch };
    footprint(&facts.shape, &Options { ubatch, projector: facts.projector, ..options })
}

/// All files of the model that begins with `first`: `x-00001-of-00003.gguf` has two more.
fn parts_of(first: &Path) -> Vec<PathBuf> {
    const FIRST: &str = "-00001-of-";
    let name = first.to_string_lossy();
    let Some((before, count)) = name.strip_suffix(".gguf").and_then(|name| name.rsplit_once(FIRST)) else {
        return vec![first.to_owned()];
    };
    match count.parse::<u32>() {
        Ok(parts) if count.len() == 5 && (2..=PARTS).contains(&parts) => {
            (1..=parts).map(|part| format!("{before}-{part:05}-of-{count}.gguf").into()).collect()
        }
        Ok(_) | Err(_) => vec![first.to_owned()],
    }
}

/// The header of the whole model; `None` where a part is missing or is none.
fn joined(parts: &[PathBuf]) -> Option<Header> {
    let headers: Option<Vec<Header>> = parts
        .iter()
        .map(|part| {
            let file = File::open(part).ok()?;
            let size = file.metadata().ok()?.len();
            whole_header(&file, size).ok()
        })
        .collect();
    gguf::join(headers?).ok()
}

fn size_of(parts: &[PathBuf]) -> Bytes {
    let sizes = parts.iter().filter_map(|part| std::fs::metadata(part).ok()).map(|file| file.len());
    Bytes(sizes.fold(0, u64::saturating_add))
}

/// What a load took, by the best source there is, kept in the profile and told to the mesh.
pub(super) async fn measure(
    planned: &Planned,
    shrunk: Shrunk,
    pid: Option<u32>,
    said: &Reported,
    ledger: &Ledger,
    profile: &ProfileHandle,
    version: Option<&str>,
) -> LoadFacts {
    let rss = match pid {
        Some(pid) => {
            tokio::task::spawn_blocking(move || resident(Path::new("/proc"), pid)).await.ok().flatten()
        }
        None => None,
    };
    let device = on_device(planned, shrunk, pid, said, &ledger.vitals());
    let key = LoadKey { build: build_name(version), ..planned.key.clone() };
    let predicted = planned.predicted.clone();
    let measured = device.zip(rss).map(|((device, source), rss)| {
        // Caches of prompts fill later; a load that is admitted by this figure needs their room.
        let later = predicted.host.overhead.0.saturating_sub(HOST_OVERHEAD.0);
        Measured { device, host: Bytes(rss.0.saturating_add(later)), source }
    });
    profile.change(|profile, at| {
        if key.build != planned.key.build {
            profile.forget_footprint(&planned.key);
        }
        profile.keep_footprint(key.clone(), predicted.clone(), measured, at);
    });
    let memory = match (device, rss) {
        (Some((device, _)), Some(host)) => ReplicaMemory { device, host, measured: true },
        _ => {
            ReplicaMemory { device: predicted.device.total(), host: predicted.host.total(), measured: false }
        }
    };
    LoadFacts { key, predicted, shrunk, memory, offloaded: said.offloaded }
}

/// Bytes on the device: the driver's figure for the process, else how far free memory shrank where that agrees with
/// the engine's own words, else those words and what a backend takes beside its buffers.
fn on_device(
    planned: &Planned,
    shrunk: Shrunk,
    pid: Option<u32>,
    said: &Reported,
    vitals: &Vitals,
) -> Option<(Bytes, MeasuredBy)> {
    let Some(gpu) = &planned.gpu else { return Some((Bytes(0), MeasuredBy::Process)) };
    let gpus = vitals.gpus.known().into_iter().flatten();
    let processes =
        gpus.filter(|known| known.id == *gpu).filter_map(|known| known.processes.known()).flatten();
    let of_process: u64 = processes
        .filter(|process| Some(process.pid) == pid)
        .filter_map(|process| process.memory.known())
        .map(|bytes| bytes.0)
        .sum();
    if of_process > 0 {
        return Some((Bytes(of_process), MeasuredBy::Process));
    }
    let said_bytes: u64 = said
        .buffers
        .iter()
        .filter(|buffer| !buffer.is_on_host() && buffer.kind != BufferKind::Output)
        .map(|buffer| buffer.bytes)
        .sum();
    let lost = shrunk.device.and_then(|bytes| u64::try_from(bytes).ok());
    match (said_bytes, lost) {
        (0, Some(lost)) => Some((Bytes(lost), MeasuredBy::FreeMemory)),
        (0, None) => None,
        (said, Some(lost)) if (said..=said.saturating_add(PLAUSIBLE)).contains(&lost) => {
            Some((Bytes(lost), MeasuredBy::FreeMemory))
        }
        (said, _) => {
            let beside = planned.predicted.device.overhead.0;
            Some((Bytes(said.saturating_add(beside)), MeasuredBy::EngineLog))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::machine::{Gpu, Reading};

    #[test]
    fn of_several_cards_of_one_maker_the_engine_sees_the_chosen_one() {
        let card = |id: &str, vendor| Gpu::unknown(id, "card", vendor, "a test");
        let vitals = Vitals {
            gpus: Reading::Known(vec![
                card("0000:41:00.0", GpuVendor::Nvidia),
                card("0000:01:00.0", GpuVendor::Nvidia),
                card("0000:c5:00.0", GpuVendor::Amd),
            ]),
            ..Vitals::unknown("a test")
        };
        let order = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned());
        assert_eq!(cards(&vitals, Some("0000:41:00.0")), [order, ("CUDA_VISIBLE_DEVICES", "1".to_owned())]);
        assert_eq!(cards(&vitals, Some("0000:c5:00.0")), [], "there is no other of its maker");
        assert_eq!(cards(&vitals, None), []);
    }

    #[test]
    fn a_split_model_s_first_file_names_all_of_its_parts() {
        let names = |first: &str| -> Vec<String> {
            parts_of(Path::new(first)).iter().map(|part| part.display().to_string()).collect()
        };
        assert_eq!(
            names("/m/big-00001-of-00003.gguf"),
            ["/m/big-00001-of-00003.gguf", "/m/big-00002-of-00003.gguf", "/m/big-00003-of-00003.gguf"]
        );
        for whole in
            ["/m/x.gguf", "/m/x-00002-of-00003.gguf", "/m/x-00001-of-99999.gguf", "/m/x-00001-of-3.gguf"]
        {
            assert_eq!(names(whole), [whole]);
        }
    }

    #[test]
    fn a_configured_split_model_is_counted_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let whole = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/models/tiny-trained-1.4M-q8_0.gguf");
        let first = folder.path().join("x-00001-of-00002.gguf");
        std::fs::copy(whole, &first).expect("a copy");
        assert!(joined(&parts_of(&first)).is_none(), "a part is missing");
        std::fs::copy(whole, folder.path().join("x-00002-of-00002.gguf")).expect("a copy");
        let one = std::fs::metadata(whole).expect("a model").len();
        assert_eq!(size_of(&parts_of(&first)), Bytes(2 * one));
    }
}
