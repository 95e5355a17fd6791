//! The words of scenarios.
//!
//! ```text
//! use FILE                                   the lines of FILE.list, silently
//! machine NAME ram SIZE [used SIZE] [card NAME SIZE] [unified SIZE] [disk SIZE]
//! model NAME ARCHITECTURE file SIZE [experts SIZE] [KEY NUMBER]...     keys: layers, width, heads, kv, head, window, ...
//! disk MACHINE MODEL...                      its files are there
//! speed MACHINE MODEL TOKENS [PROMPT]        measured there, tokens each second
//! mode NAME models M,M [context N] [least N] [slots N] [copies N] [cache T,T] [tpot S] [ttft S] [weight W]
//!           [pinned|warm|on-demand] [machines A,B] [labels L,L]
//! forget modes | mode NAME
//! limit MACHINE [ram SIZE] [vram SIZE] [battery hold|allow|leave] [quiet HH:MM-HH:MM] [label L] [hottest C]
//! drain|cordon|resume MACHINE                lost|back MACHINE       hot|cool MACHINE
//! game MACHINE SIZE                          another program has that much of the card; 0GiB = none
//! battery MACHINE PERCENT | mains MACHINE    at HH:MM
//! pin|unpin MODEL MACHINE
//! plan                                       what is planned now     follow       and done
//! ```

use super::models::Numbers;
use super::page;
use super::stage::{Box, Stage, digest};
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::machine::Power;
use mesh_core::memory::CacheType;
use mesh_core::placement::KnownModel;
use mesh_core::strategy::{BatteryPolicy, MachineLimits, Pin, QuietHours, Residency, Wish};
use mesh_core::units::{Bytes, Celsius};
use std::sync::Arc;

type Answer = Result<String, String>;

/// The words of a line without its comment.
pub(super) fn split(line: &str) -> Vec<&str> {
    line.split('#').next().unwrap_or_default().split_whitespace().collect()
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| format!("`{text}`: {error}"))
}

fn bytes(text: &str) -> Result<u64, String> {
    // Files are told in GB as their pages do, memory in GiB as machines do.
    if let Some(number) = text.strip_suffix("GB") {
        return Ok((parsed::<f64>(number)? * 1e9) as u64);
    }
    Ok(parsed::<Bytes>(text)?.0)
}

fn tokens(text: &str) -> Result<u32, String> {
    match text.strip_suffix('K') {
        Some(number) => Ok(parsed::<u32>(number)? * 1024),
        None => parsed(text),
    }
}

/// `22:00` as minutes.
fn minute(text: &str) -> Result<u16, String> {
    let (hours, minutes) = text.split_once(':').ok_or(format!("`{text}` is no time"))?;
    Ok(parsed::<u16>(hours)? * 60 + parsed::<u16>(minutes)?)
}

struct Words<'a> {
    rest: std::slice::Iter<'a, &'a str>,
}

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.rest.next().copied().ok_or(format!("{what} is missing"))
    }

    fn maybe(&mut self) -> Option<&'a str> {
        self.rest.next().copied()
    }
}

/// Does one line, and says what it answers.
pub(super) fn perform(line: &[&str], stage: &mut Stage) -> Answer {
    let mut words = Words { rest: line.iter() };
    let verb = words.next("a word")?;
    match verb {
        "use" => {
            let path = super::folder().join(format!("{}.list", words.next("a file")?));
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            for line in text.lines().map(split).filter(|line| !line.is_empty()) {
                perform(&line, stage)?;
            }
        }
        "machine" => machine(&mut words, stage)?,
        "model" => model(&mut words, stage)?,
        "disk" => {
            let id: MachineId = parsed(words.next("a machine")?)?;
            while let Some(name) = words.maybe() {
                let name: ModelId = parsed(name)?;
                find(stage, &id)?.on_disk.insert(name);
            }
        }
        "speed" => {
            let id: MachineId = parsed(words.next("a machine")?)?;
            let name: ModelId = parsed(words.next("a model")?)?;
            let decode: f64 = parsed(words.next("tokens each second")?)?;
            let prefill = words.maybe().map(parsed::<f64>).transpose()?;
            find(stage, &id)?.speeds.insert(name, (prefill, decode));
        }
        "mode" => mode(&mut words, stage)?,
        "forget" => {
            let name = match words.next("modes or mode")? {
                "modes" => None,
                _ => Some(words.next("a mode")?.to_owned()),
            };
            stage.wishes.modes.retain(|wish| name.as_ref().is_some_and(|name| wish.mode.as_str() != name));
        }
        "limit" => limit(&mut words, stage)?,
        "drain" | "cordon" | "resume" => {
            let id: MachineId = parsed(words.next("a machine")?)?;
            let limits = limits(stage, &id);
            limits.drained = verb == "drain";
            limits.cordoned = verb == "cordon";
        }
        "lost" | "back" => on(&mut words, stage, |one| one.lost = verb == "lost")?,
        "hot" | "cool" => on(&mut words, stage, |one| one.hot = verb == "hot")?,
        "game" => {
            let id: MachineId = parsed(words.next("a machine")?)?;
            let size = bytes(words.next("a size")?)?;
            find(stage, &id)?.card_others = size;
        }
        "battery" => {
            let id: MachineId = parsed(words.next("a machine")?)?;
            let percent = parsed(words.next("a percentage")?.trim_end_matches('%'))?;
            find(stage, &id)?.power = Some(Power::Battery(Some(percent)));
        }
        "mains" => on(&mut words, stage, |one| one.power = None)?,
        "at" => stage.minute_of_day = minute(words.next("a time")?)?,
        "pin" | "unpin" => {
            let model: ModelId = parsed(words.next("a model")?)?;
            let pin = Pin { model, machine: parsed(words.next("a machine")?)? };
            if verb == "pin" {
                stage.wishes.pins.insert(pin)
            } else {
                stage.wishes.pins.remove(&pin)
            };
        }
        "plan" => return Ok(page::plan(stage.plan())),
        "follow" => stage.follow()?,
        other => return Err(format!("there is no word `{other}`")),
    }
    Ok(String::new())
}

fn find<'a>(stage: &'a mut Stage, id: &MachineId) -> Result<&'a mut Box, String> {
    stage.boxes.get_mut(id).ok_or(format!("there is no machine `{id}`"))
}

fn on(words: &mut Words<'_>, stage: &mut Stage, change: impl FnOnce(&mut Box)) -> Result<(), String> {
    let id: MachineId = parsed(words.next("a machine")?)?;
    change(find(stage, &id)?);
    Ok(())
}

fn limits<'a>(stage: &'a mut Stage, id: &MachineId) -> &'a mut MachineLimits {
    stage.wishes.machines.entry(id.clone()).or_default()
}

fn machine(words: &mut Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id: MachineId = parsed(words.next("a name")?)?;
    let mut one = Box { disk: 1 << 40, ..Box::default() };
    while let Some(word) = words.maybe() {
        match word {
            "ram" => one.ram = bytes(words.next("a size")?)?,
            "used" => one.ram_others = bytes(words.next("a size")?)?,
            "disk" => one.disk = bytes(words.next("a size")?)?,
            "card" => {
                let name = words.next("a card's name")?.replace('_', " ");
                one.card = Some((name, bytes(words.next("a size")?)?));
            }
            "unified" => {
                one.card = Some(("Radeon 8060S".into(), bytes(words.next("a size")?)?));
                one.unified = true;
            }
            other => return Err(format!("`{other}` is nothing of a machine")),
        }
    }
    stage.boxes.insert(id, one);
    Ok(())
}

fn model(words: &mut Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let name: ModelId = parsed(words.next("a name")?)?;
    let architecture = words.next("an architecture")?.to_owned();
    let mut numbers = Numbers { architecture, vocabulary: 128_000, ..Numbers::default() };
    while let Some(word) = words.maybe() {
        let value = words.next(word)?;
        let key = match word {
            "file" => {
                numbers.file = bytes(value)?;
                continue;
            }
            "experts" => {
                numbers.experts = bytes(value)?;
                continue;
            }
            "vocabulary" => {
                numbers.vocabulary = parsed(value)?;
                continue;
            }
            "layers" => "block_count",
            "width" => "embedding_length",
            "heads" => "attention.head_count",
            "kv" => "attention.head_count_kv",
            "window" => "attention.sliding_window",
            "trained" => "context_length",
            "ff" => "feed_forward_length",
            "head" => {
                numbers.keys.insert("attention.key_length".into(), parsed(value)?);
                "attention.value_length"
            }
            "head_k" => "attention.key_length",
            "head_v" => "attention.value_length",
            "mla" => {
                numbers.keys.insert("attention.key_length_mla".into(), parsed(value)?);
                "attention.value_length_mla"
            }
            other => return Err(format!("`{other}` is nothing of a model")),
        };
        numbers.keys.insert(key.into(), u64::from(tokens(value)?));
    }
    let digest = Some(digest(&name));
    let shape = Arc::new(numbers.shape()?);
    stage.catalogue.insert(name, KnownModel { digest, ..KnownModel::of_shape(shape, numbers.size()) });
    Ok(())
}

fn mode(words: &mut Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let name: ModeName = parsed(words.next("a name")?)?;
    let mut wish = Wish::new(name, Vec::new());
    let seconds = |text: &str| parsed::<f64>(text.trim_end_matches('s'));
    while let Some(word) = words.maybe() {
        if let Some(residency) = Residency::from_word(word) {
            wish.residency = residency;
            continue;
        }
        let value = words.next(word)?;
        match word {
            "models" => wish.models = value.split(',').map(parsed).collect::<Result<_, _>>()?,
            "machines" => wish.machines = value.split(',').map(parsed).collect::<Result<_, _>>()?,
            "labels" => wish.labels = value.split(',').map(str::to_owned).collect(),
            "context" => {
                wish.context = tokens(value)?;
                wish.least_context = wish.least_context.min(wish.context);
            }
            "least" => wish.least_context = tokens(value)?,
            "slots" => wish.slots = parsed(value)?,
            "copies" => wish.copies = parsed(value)?,
            "weight" => wish.weight = parsed(value)?,
            "tpot" => wish.target.tpot_s = Some(seconds(value)?),
            "ttft" => wish.target.ttft_s = Some(seconds(value)?),
            "cache" => {
                let kinds = value
                    .split(',')
                    .map(|word| CacheType::from_word(word).ok_or(format!("no type `{word}`")));
                wish.cache_types = kinds.collect::<Result<_, _>>()?;
            }
            other => return Err(format!("`{other}` is nothing of a mode")),
        }
    }
    stage.wishes.modes.retain(|other| other.mode != wish.mode);
    stage.wishes.modes.push(wish);
    Ok(())
}

fn limit(words: &mut Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id: MachineId = parsed(words.next("a machine")?)?;
    while let Some(word) = words.maybe() {
        let value = words.next(word)?;
        let limits = limits(stage, &id);
        match word {
            "ram" => limits.reserve_ram = Bytes(bytes(value)?),
            "vram" => limits.reserve_vram = Bytes(bytes(value)?),
            "battery" => {
                limits.on_battery = BatteryPolicy::from_word(value).ok_or(format!("no policy `{value}`"))?
            }
            "quiet" => {
                let (from, until) = value.split_once('-').ok_or(format!("`{value}` is no span"))?;
                limits.quiet.push(QuietHours { from: minute(from)?, until: minute(until)? });
            }
            "label" => {
                limits.labels.insert(value.to_owned());
            }
            "hottest" => limits.max_temperature = Some(Celsius(parsed(value)?)),
            other => return Err(format!("`{other}` is no limit")),
        }
    }
    Ok(())
}
