//! Files that the configuration has engines for, and under which names: the store lists them by the names of the files.

use crate::engine::EngineConfig;
use crate::model_store::StoreHandle;
use mesh_core::id::ModelId;
use mesh_core::machine::StoredModel;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files and the models that they are. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConfiguredFiles(Arc<[(PathBuf, ModelId)]>);

impl ConfiguredFiles {
    /// Those of `engines`.
    pub(crate) fn of(engines: &[EngineConfig]) -> Self {
        let files = engines.iter().filter_map(|engine| match engine {
            EngineConfig::Child { model, alias, .. } => Some((model.clone(), alias.clone())),
            EngineConfig::Endpoint { .. } => None,
        });
        Self(files.collect())
    }

    /// Tells of each of the `models` of `store` its other name.
    pub(crate) fn told(&self, models: &mut [StoredModel], store: &StoreHandle) {
        for stored in models {
            let file = store.file(&stored.model);
            let other = file.and_then(|file| self.name_of(&file.path).cloned());
            stored.served_as = other.filter(|other| *other != stored.model);
        }
    }

    /// The model under which the configuration names `file`, whichever way it is written.
    pub(crate) fn name_of(&self, file: &Path) -> Option<&ModelId> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.0.is_empty() {
            return None;
        }
        let file = real(file);
        self.0.iter().find(|(path, _)| real(path) == file).map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_each_way_to_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (file, link) = (folder.path().join("a.gguf"), folder.path().join("link.gguf"));
        std::fs::write(&file, "x").expect("it can be written");
        std::os::unix::fs::symlink(&file, &link).expect("it can be linked");
        let name = ModelId::new("tiny").expect("valid");
        let configured = ConfiguredFiles([(link, name.clone())].into());
        assert_eq!(configured.name_of(&file), Some(&name));
        assert_eq!(configured.name_of(&folder.path().join("./a.gguf")), Some(&name));
        assert_eq!(configured.name_of(&folder.path().join("b.gguf")), None);
    }
}
