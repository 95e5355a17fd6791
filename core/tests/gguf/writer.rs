//! Writes small GGUF files, and wrong ones: the reader's opposite, from the format's specification alone.

/// A metadata value as it is written.
#[derive(Debug, Clone)]
pub(crate) enum Meta {
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Flags(Vec<bool>),
    /// A type's number and whatever bytes follow it.
    Raw(u32, Vec<u8>),
}

/// One entry of the list of tensors.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
}

/// A file in the making. The counts in its head may lie.
#[derive(Debug, Clone)]
pub(crate) struct Gguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) entry_count: Option<u64>,
    pub(crate) entries: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: u64,
    /// Bytes of all tensors' data so far.
    pub(crate) data: u64,
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data: 0,
        }
    }

    pub(crate) fn entry(mut self, key: &str, value: Meta) -> Self {
        self.entries.push((key.to_owned(), value));
        self
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.entry(key, Meta::Text(value.to_owned()))
    }

    pub(crate) fn number(self, key: &str, value: u32) -> Self {
        self.entry(key, Meta::U32(value))
    }

    /// A tensor of `bytes`, after those before it.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], kind: u32, bytes: u64) -> Self {
        let offset = self.data.next_multiple_of(self.alignment);
        self.data = offset + bytes;
        self.tensor_at(name, dims, kind, offset)
    }

    /// A tensor that claims to be at `offset`.
    pub(crate) fn tensor_at(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push(Tensor { name: name.to_owned(), dims: dims.to_vec(), kind, offset });
        self
    }

    /// Everything before the padding and the data.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            string(&mut out, key.as_bytes());
            write(&mut out, value);
        }
        for tensor in &self.tensors {
            string(&mut out, tensor.name.as_bytes());
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out
    }

    /// The whole file; the tensors' data are zeros.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut out = self.header();
        let end = (out.len() as u64).next_multiple_of(self.alignment) + self.data;
        out.resize(usize::try_from(end).expect("a small file"), 0);
        out
    }
}

/// A length and the bytes.
pub(crate) fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn array<T>(out: &mut Vec<u8>, kind: u32, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    out.extend(9_u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| write(out, item));
}

fn write(out: &mut Vec<u8>, value: &Meta) {
    let scalar = |out: &mut Vec<u8>, kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Meta::U32(value) => scalar(out, 4, &value.to_le_bytes()),
        Meta::F32(value) => scalar(out, 6, &value.to_le_bytes()),
        Meta::Bool(value) => scalar(out, 7, &[u8::from(*value)]),
        Meta::U64(value) => scalar(out, 10, &value.to_le_bytes()),
        Meta::Raw(kind, bytes) => scalar(out, *kind, bytes),
        Meta::Text(text) => {
            scalar(out, 8, &[]);
            string(out, text.as_bytes());
        }
        Meta::Texts(texts) => array(out, 8, texts, |out, text| string(out, text.as_bytes())),
        Meta::U32s(values) => array(out, 4, values, |out, value| out.extend(value.to_le_bytes())),
        Meta::I32s(values) => array(out, 5, values, |out, value| out.extend(value.to_le_bytes())),
        Meta::F32s(values) => array(out, 6, values, |out, value| out.extend(value.to_le_bytes())),
        Meta::Flags(values) => array(out, 7, values, |out, value| out.push(u8::from(*value))),
    }
}
