//! Models of the scenarios: headers with the numbers of real ones, without their tensors' bytes.

use mesh_core::gguf::{Header, TensorInfo, TensorType, Value};
use mesh_core::memory::Shape;
use mesh_core::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The numbers of a model.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    pub(super) architecture: String,
    pub(super) keys: BTreeMap<String, u64>,
    pub(super) file: u64,
    /// Bytes of all experts, of the file's.
    pub(super) experts: u64,
    pub(super) vocabulary: u64,
}

impl Numbers {
    /// The shape of a file with these numbers: its bytes spread evenly over the layers, with embeddings and output of
    /// 4.5 bits for each weight, as in Q4_K_M.
    pub(super) fn shape(&self) -> Result<Shape, String> {
        let architecture = self.architecture.clone();
        let mut metadata =
            BTreeMap::from([("general.architecture".to_owned(), Value::Text(architecture.clone()))]);
        for (key, value) in &self.keys {
            metadata.insert(format!("{architecture}.{key}"), Value::Unsigned(*value));
        }
        metadata.insert(format!("{architecture}.vocab_size"), Value::Unsigned(self.vocabulary));
        let layers = self.keys.get("block_count").copied().unwrap_or(0).max(1);
        let width = self.keys.get("embedding_length").copied().unwrap_or(0);
        let words = self.vocabulary * width * 9 / 16;
        let rest =
            self.file.checked_sub(2 * words + self.experts).ok_or("the file is smaller than its parts")?;
        let tensor = |name: String, bytes: u64| TensorInfo {
            name,
            dims: vec![bytes],
            kind: TensorType(24),
            offset: 0,
            bytes,
        };
        let mut tensors =
            vec![tensor("token_embd.weight".into(), words), tensor("output.weight".into(), words)];
        for layer in 0..layers {
            tensors.push(tensor(format!("blk.{layer}.attn_q.weight"), rest / layers));
            if self.experts > 0 {
                tensors.push(tensor(format!("blk.{layer}.ffn_up_exps.weight"), self.experts / layers));
            }
        }
        let header = Header {
            version: 3,
            metadata,
            tensors,
            alignment: 32,
            data_offset: 0,
            unknown_types: BTreeSet::new(),
            sizes_complete: true,
        };
        Shape::from_header(&header).map_err(|error| error.to_string())
    }

    pub(super) fn size(&self) -> Bytes {
        Bytes(self.file)
    }
}
