//! What llama.cpp's log says of the memory it takes while it loads a model: the only exact figures there are.
//!
//! ```text
//! load_tensors:        CUDA0 model buffer size =  4685.30 MiB
//! load_tensors: offloaded 33/33 layers to GPU
//! llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB
//! llama_memory_recurrent: CUDA0 RS buffer size = 75.38 MiB
//! sched_reserve:       CUDA0 compute buffer size =   258.50 MiB
//! llama_context:         CPU  output buffer size =     0.49 MiB
//! ```
//! A line may have time and level in front. Nothing here is about a request: buffers are made before the first.
//! A file's own words (its name, its template) are printed too, so only lines of exactly this form count.

use serde::{Deserialize, Serialize};

/// The most buffers that are kept: devices times kinds, with room.
const BUFFER_LIMIT: usize = 64;
/// The longest device name: `CUDA_Host`, `Vulkan0`.
const DEVICE_LIMIT: usize = 32;

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferKind {
    /// Weights.
    Model,
    /// Keys and values.
    Kv,
    /// State of recurrent layers.
    Recurrent,
    /// Scratch of the computation.
    Compute,
    /// Logits and embeddings.
    Output,
}

/// One buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Where: `CUDA0`, `CPU`, `CPU_Mapped`, `CUDA_Host`.
    pub device: String,
    /// What for.
    pub kind: BufferKind,
    /// How much. The log has two decimals of a MiB, so this is exact to 5.3 KB.
    pub bytes: u64,
}

impl Buffer {
    /// Whether it is in RAM. Buffers of a `_Host` kind are RAM that a device can reach.
    #[must_use]
    pub fn is_on_host(&self) -> bool {
        self.device.starts_with("CPU") || self.device.ends_with("_Host") || self.device == "BLAS"
    }
}

/// What an engine said while it loaded its model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reported {
    /// All buffers, those of one device and kind together.
    pub buffers: Vec<Buffer>,
    /// Layers on devices, of all.
    pub offloaded: Option<(u32, u32)>,
    /// Its version, where it tells: `b11549`.
    pub version: Option<String>,
    /// It said that memory ran out.
    pub out_of_memory: bool,
}

impl Reported {
    /// Takes in one line of the log; others than those above change nothing.
    pub fn hear(&mut self, line: &str) {
        if let Some((layers, all)) = offloaded(line) {
            self.offloaded = Some((layers, all));
        } else if let Some(buffer) = buffer(line) {
            let (is_room, same) = (self.buffers.len() < BUFFER_LIMIT, |known: &&mut Buffer| {
                known.device == buffer.device && known.kind == buffer.kind
            });
            match self.buffers.iter_mut().find(same) {
                // A sliding window and the full cache are two buffers of one kind.
                Some(known) if buffer.kind != BufferKind::Compute => {
                    known.bytes = known.bytes.saturating_add(buffer.bytes);
                }
                // The graph is reserved more than once; the last one stays.
                Some(known) => known.bytes = buffer.bytes,
                None if is_room => self.buffers.push(buffer),
                None => {}
            }
        } else if tells_of_no_memory(line) {
            self.out_of_memory = true;
        }
    }

    /// Bytes of `kind`, on devices or in RAM.
    #[must_use]
    pub fn bytes(&self, kind: BufferKind, on_host: bool) -> u64 {
        let of = self.buffers.iter().filter(|buffer| buffer.kind == kind && buffer.is_on_host() == on_host);
        of.fold(0, |sum, buffer| sum.saturating_add(buffer.bytes))
    }
}

/// A line without the time and level that llama.cpp puts in front: `0.00.512.001 I text`. The level is 0 where
/// there is none.
fn text_of(line: &str) -> (char, &str) {
    let line = line.trim();
    let stamped = line.split_once(' ').and_then(|(stamp, rest)| {
        let is_stamp = stamp.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let (level, text) = rest.split_at_checked(1)?;
        (is_stamp && text.starts_with(' ')).then(|| (level.chars().next().unwrap_or('0'), text.trim_start()))
    });
    stamped.unwrap_or(('0', line))
}

/// Whether a line says that memory ran out, in the words of the backends. What is said at the level of news is
/// none, whatever it quotes.
#[must_use]
pub fn tells_of_no_memory(line: &str) -> bool {
    if matches!(text_of(line).0, 'I' | 'D') {
        return false;
    }
    const WORDS: [&str; 9] = [
        "out of memory",
        "cudaMalloc failed",
        "hipMalloc failed",
        "ErrorOutOfDeviceMemory",
        "ErrorOutOfHostMemory",
        "failed to allocate buffer",
        "failed to allocate compute buffers",
        "unable to allocate",
        "std::bad_alloc",
    ];
    WORDS.iter().any(|words| line.contains(words))
}

/// `DEVICE KIND buffer size = NUMBER MiB`
fn buffer(line: &str) -> Option<Buffer> {
    let (before, after) = text_of(line).1.split_once("buffer size =")?;
    let mut words = before.split_whitespace();
    let (speaker, device, kind) = (words.next()?, words.next()?, words.next()?);
    let is_function = |word: &str| word.ends_with(':') && !word.contains('=');
    if words.next().is_some() || !is_function(speaker) || device.len() > DEVICE_LIMIT || device.ends_with(':')
    {
        return None;
    }
    let kind = match kind {
        "model" => BufferKind::Model,
        "KV" => BufferKind::Kv,
        "RS" => BufferKind::Recurrent,
        "compute" => BufferKind::Compute,
        "output" => BufferKind::Output,
        _ => return None,
    };
    let (number, unit) = after.trim().split_once(' ')?;
    let number: f64 = number.parse().ok().filter(|number| (0.0..1e9).contains(number))?;
    unit.starts_with("MiB").then(|| Buffer {
        device: device.to_owned(),
        kind,
        bytes: (number * 1_048_576.0).round() as u64,
    })
}

/// `offloaded 33/33 layers`
fn offloaded(line: &str) -> Option<(u32, u32)> {
    let (speaker, after) = text_of(line).1.split_once(" offloaded ")?;
    if !speaker.ends_with(':') || speaker.contains(' ') {
        return None;
    }
    let (numbers, rest) = after.split_once(' ')?;
    let (layers, all) = numbers.split_once('/')?;
    rest.starts_with("layers").then_some(())?;
    Some((layers.parse().ok()?, all.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(lines: &str) -> Reported {
        let mut reported = Reported::default();
        lines.lines().for_each(|line| reported.hear(line));
        reported
    }

    #[test]
    fn buffers_are_summed_by_device_and_kind() {
        // As llama.cpp prints them for a model with sliding windows on one NVIDIA card.
        let reported = heard(
            "0.00.512.001 I load_tensors: offloading 24 repeating layers to GPU\n\
             0.00.512.002 I load_tensors: offloaded 25/25 layers to GPU\n\
             0.00.512.003 I load_tensors:   CPU_Mapped model buffer size =   586.82 MiB\n\
             0.00.512.004 I load_tensors:        CUDA0 model buffer size = 10949.38 MiB\n\
             0.00.513.001 I llama_context:  CUDA_Host  output buffer size =     0.77 MiB\n\
             0.00.513.002 I llama_kv_cache:      CUDA0 KV buffer size =   768.00 MiB\n\
             0.00.513.003 I llama_kv_cache:      CUDA0 KV buffer size =    18.00 MiB\n\
             0.00.513.004 I sched_reserve:      CUDA0 compute buffer size =   300.00 MiB\n\
             0.00.513.005 I sched_reserve:      CUDA0 compute buffer size =   398.38 MiB\n\
             0.00.513.006 I sched_reserve:  CUDA_Host compute buffer size =    69.65 MiB\n",
        );
        assert_eq!(reported.offloaded, Some((25, 25)));
        assert_eq!(reported.bytes(BufferKind::Kv, false), 786 << 20);
        assert_eq!(
            reported.bytes(BufferKind::Compute, false),
            417_731_707,
            "the last of the reserved graphs"
        );
        assert_eq!(reported.bytes(BufferKind::Compute, true), 73_033_318);
        assert_eq!(reported.bytes(BufferKind::Model, true), 615_325_368);
        assert_eq!(reported.bytes(BufferKind::Recurrent, false), 0);
        assert!(!reported.out_of_memory);
    }

    #[test]
    fn the_real_engine_s_words_are_understood() {
        // Captured from llama.cpp b11549, with file names shortened; the whole load of a tiny model.
        let reported = heard(include_str!("../../tests/captures/llama-server-load-log.txt"));
        let buffers: Vec<_> = reported.buffers.iter().map(|b| (b.device.as_str(), b.kind, b.bytes)).collect();
        assert_eq!(
            buffers,
            [
                ("CPU_Mapped", BufferKind::Model, 1_468_006),
                ("CPU", BufferKind::Output, 10_486),
                ("CPU", BufferKind::Kv, 786_432),
                ("CPU", BufferKind::Compute, 5_651_825),
            ]
        );
        assert_eq!((reported.offloaded, reported.out_of_memory), (None, false));
        assert!(reported.buffers.iter().all(Buffer::is_on_host));
    }

    #[test]
    fn what_a_file_says_of_itself_is_not_taken_for_the_engine_s_words() {
        for line in [
            "0.00.012.869 I print_info: general.name = load_tensors: CUDA0 model buffer size = 9000.00 MiB",
            "0.00.008.583 I llama_model_loader: - kv   1: general.name str = x: CUDA0 KV buffer size = 1.00 MiB",
            "0.00.012.869 I print_info: general.name          = cudaMalloc failed: out of memory",
            "0.00.012.869 I print_info: general.name = load_tensors: offloaded 99/99 layers to GPU",
        ] {
            assert_eq!(heard(line), Reported::default(), "{line}");
        }
    }

    #[test]
    fn running_out_of_memory_is_heard_in_every_backend_s_words() {
        for line in [
            "E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: cudaMalloc failed: out of memory",
            "E ggml_vulkan: Device memory allocation of size 9 failed: ErrorOutOfDeviceMemory",
            "E graph_reserve: failed to allocate compute buffers",
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "0.00.100.002 E llama_model_load: error loading model: unable to allocate CUDA0 buffer",
        ] {
            assert!(heard(line).out_of_memory, "{line}");
        }
        assert!(!heard("I llama_context: n_ctx = 4096").out_of_memory);
    }

    #[test]
    fn lines_that_only_look_alike_change_nothing() {
        for line in [
            "buffer size = 5 MiB",
            "model buffer size = 5 MiB",
            "x: CPU model buffer size = five MiB",
            "x: CPU model buffer size = -5 MiB",
            "x: CPU model buffer size = 1e300 MiB",
            "x: CPU model buffer size = 5 KiB",
            "offloaded many/33 layers",
            "offloaded 1/2 sheep",
        ] {
            assert_eq!(heard(line), Reported::default(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_survived_and_what_is_kept_is_bounded(lines in prop::collection::vec(".{0,80}|[a-z]{1,9} (model|KV) buffer size = [0-9]{1,30} MiB", 0..200)) {
            let reported = heard(&lines.join("\n"));
            prop_assert!(reported.buffers.len() <= BUFFER_LIMIT);
        }
    }
}
