//! Which machines can hold a model, one row each, and what stands in the way below.

use super::paint::{Look, Paint};
use super::quantity::{UNKNOWN, bytes, context, known};
use super::table::{Cell, Rank, Table};
use mesh_core::fit::{Choice, Need, Offload};
use mesh_core::memory::{CacheType, CpuMoe, Footprint, GpuLayers, Options, Shape, footprint};
use serde::Serialize;

/// Whether a machine can hold it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// It can.
    Yes,
    /// It cannot.
    No,
    /// The machine is away, or has not told its memory.
    Unknown,
}

/// What was found of one machine.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// Its name.
    pub(crate) node: String,
    /// Whether it can.
    pub(crate) answer: Answer,
    /// The graphics processor, for people.
    pub(crate) device: Option<String>,
    /// Requests at once.
    pub(crate) slots: u32,
    /// The best way to load it there.
    pub(crate) choice: Option<Choice>,
    /// What that takes, part by part.
    pub(crate) footprint: Option<Footprint>,
    /// What else to know.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    /// Nothing can be said of `node`.
    pub(crate) fn unknown(node: &str, why: &str) -> Self {
        Self {
            node: node.to_owned(),
            answer: Answer::Unknown,
            device: None,
            slots: 0,
            choice: None,
            footprint: None,
            notes: vec![why.to_owned()],
        }
    }

    /// How it would be loaded: `whole on RTX 4070`.
    fn place(&self, layers: usize) -> String {
        let Some(choice) = &self.choice else { return UNKNOWN.to_owned() };
        let device = self.device.as_deref().unwrap_or("the graphics processor");
        match choice.trial.offload {
            Offload::Full => format!("whole on {device}"),
            Offload::ExpertsOfFirst(count) => format!("{device}, experts of {count} layers in RAM"),
            Offload::Layers(count) => {
                format!("{count} of {} layers on {device}, the rest in RAM", layers + 1)
            }
            Offload::None => "RAM".to_owned(),
        }
    }
}

/// All of it.
pub(crate) struct Page<'a> {
    /// The model's name, or that of its file.
    pub(crate) model: String,
    /// What decides its memory.
    pub(crate) shape: &'a Shape,
    /// Type of keys and values.
    pub(crate) cache: CacheType,
    /// One for each machine.
    pub(crate) machines: Vec<Verdict>,
}

/// What `model fit --json` prints.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    model: &'a str,
    architecture: &'a str,
    weights_bytes: u64,
    trained_context: Option<u64>,
    cache_type: &'static str,
    cache_bytes_for_a_token: u64,
    machines: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    node: &'a str,
    fits: Answer,
    /// Whether it could once everything else is gone from there.
    ever: Option<bool>,
    offload: Option<Offload>,
    device: Option<&'a str>,
    context: Option<u32>,
    slots: Option<u32>,
    on_device: Option<Pool>,
    in_ram: Option<Pool>,
    parts: Option<&'a Footprint>,
    why: Option<&'a str>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Pool {
    needs: u64,
    free: Option<u64>,
    margin: u64,
    missing: u64,
}

impl From<&Need> for Pool {
    fn from(need: &Need) -> Self {
        Self {
            needs: need.needs.0,
            free: need.free.map(|free| free.0),
            margin: need.margin.0,
            missing: need.missing().0,
        }
    }
}

impl Page<'_> {
    /// For programs.
    pub(crate) fn document(&self) -> Document<'_> {
        Document {
            model: &self.model,
            architecture: &self.shape.architecture,
            weights_bytes: self.shape.weights().0,
            trained_context: self.shape.trained_context,
            cache_type: self.cache.word(),
            cache_bytes_for_a_token: self.token_bytes(),
            machines: self.machines.iter().map(row).collect(),
        }
    }

    /// For people.
    pub(crate) fn text(&self, look: Look) -> String {
        let mut lines = vec![self.head(look), String::new()];
        let mut table = Table::default()
            .left("NODE", Rank::Essential)
            .left("FITS", Rank::Essential)
            .left("WHERE", Rank::Important)
            .right("CONTEXT", Rank::Useful)
            .right("SLOTS", Rank::Extra)
            .right("GPU NEEDS", Rank::Useful)
            .right("FREE", Rank::Useful)
            .right("RAM NEEDS", Rank::Useful)
            .right("FREE", Rank::Useful);
        for verdict in &self.machines {
            let choice = verdict.choice.as_ref();
            let of = |need: fn(&Choice) -> &Need| {
                let need = choice.map(need).filter(|need| need.needs.0 > 0);
                let free = need.and_then(|need| need.free).map(|free| free.0);
                (known(need, |need| bytes(need.needs.0)), known(free, bytes))
            };
            let (gpu, gpu_free) = of(|choice| &choice.fit.device);
            let (ram, ram_free) = of(|choice| &choice.fit.host);
            let (word, paint) = match verdict.answer {
                Answer::Yes => ("yes", Paint::Green),
                Answer::No => ("no", Paint::Red),
                Answer::Unknown => ("?", Paint::Dim),
            };
            table.row([
                Cell::text(look.text(&verdict.node)),
                Cell::Text(word.to_owned(), paint),
                Cell::text(look.text(&verdict.place(self.shape.layers.len()))),
                Cell::text(known(choice, |choice| context(choice.trial.context))),
                Cell::text(known(choice, |_| verdict.slots.to_string())),
                Cell::text(gpu),
                Cell::text(gpu_free),
                Cell::text(ram),
                Cell::text(ram_free),
            ]);
        }
        lines.extend(table.lines(look));
        let mut remarks = Vec::new();
        for verdict in &self.machines {
            let why = verdict.choice.as_ref().filter(|choice| !choice.fit.fits);
            let words = why.map(|choice| choice.fit.why.clone()).into_iter().chain(verdict.notes.clone());
            remarks
                .extend(words.map(|words| format!("# {}: {}", look.text(&verdict.node), look.text(&words))));
        }
        remarks.extend(self.shape.notes.iter().map(|note| format!("# {}", look.text(note))));
        if !remarks.is_empty() {
            lines.push(String::new());
            lines.extend(remarks);
        }
        lines.join("\n") + "\n"
    }

    /// `qwen3:8b   qwen3, weights 4.7 GiB, 147456 bytes of f16 cache for each token, trained for 40k tokens`
    fn head(&self, look: Look) -> String {
        let mut head = format!(
            "{}   {}, weights {}",
            look.text(&self.model),
            look.text(&self.shape.architecture),
            bytes(self.shape.weights().0)
        );
        match self.token_bytes() {
            0 => {}
            count => head.push_str(&format!(", {count} bytes of {} cache for each token", self.cache.word())),
        }
        if let Some(tokens) = self.shape.trained_context.and_then(|tokens| u32::try_from(tokens).ok()) {
            head.push_str(&format!(", trained for {} tokens", context(tokens)));
        }
        head
    }

    /// What one more token takes in layers that look back without a limit: of a long context, one step of cells.
    fn token_bytes(&self) -> u64 {
        const LONG: u64 = 1 << 20;
        const STEP: u64 = 1 << 10;
        let cache = |tokens| {
            let options = Options {
                cache_k: self.cache,
                cache_v: self.cache,
                gpu_layers: GpuLayers::None,
                cpu_moe: CpuMoe::None,
                ..Options::new(tokens, 1)
            };
            footprint(self.shape, &options).host.kv.0
        };
        cache(LONG + STEP).saturating_sub(cache(LONG)) / STEP
    }
}

fn row(verdict: &Verdict) -> Row<'_> {
    let choice = verdict.choice.as_ref();
    Row {
        node: &verdict.node,
        fits: verdict.answer,
        ever: choice.map(|choice| choice.fit.ever),
        offload: choice.map(|choice| choice.trial.offload),
        device: verdict.device.as_deref(),
        context: choice.map(|choice| choice.trial.context),
        slots: choice.map(|_| verdict.slots),
        on_device: choice.map(|choice| (&choice.fit.device).into()),
        in_ram: choice.map(|choice| (&choice.fit.host).into()),
        parts: verdict.footprint.as_ref(),
        why: choice.map(|choice| choice.fit.why.as_str()),
        notes: &verdict.notes,
    }
}
