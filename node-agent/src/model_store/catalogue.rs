//! What lies in the model folder: files, and the models that they make up.

use super::folder::{Folder, Found, Identity};
use super::header;
use super::naming::{self, Part};
use mesh_core::gguf::{self, Header};
use mesh_core::id::ModelId;
use mesh_core::machine::{Digest, StoredModel};
use mesh_core::units::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// More models than this are not reported: a report is one message.
const MODELS: usize = 1024;

/// One file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct File {
    /// Where.
    pub found: Found,
    /// What its header says, or why it is broken.
    pub header: Result<Arc<Header>, String>,
    /// Of its content; `None` until it was computed.
    pub digest: Option<Digest>,
}

/// One model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    /// The names of its files, in order; one unless it is split.
    pub files: Vec<ModelId>,
    /// Of the whole.
    pub header: Result<Arc<Header>, String>,
    /// Of the one file; a split model has none.
    pub digest: Option<Digest>,
    /// Bytes of all files.
    pub size: u64,
    /// The name of the file that gives it eyes or ears.
    pub projector: Option<ModelId>,
}

/// All of the folder at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Catalogue {
    /// By the name that each would have as a model of its own.
    pub files: BTreeMap<ModelId, File>,
    /// Those that can be asked for.
    pub models: BTreeMap<ModelId, Model>,
    /// What was passed over, and why.
    pub passed_over: Vec<String>,
}

impl Catalogue {
    /// Looks at the folder. Headers of files that have not changed since `previous` are not read again.
    pub(super) fn scan(
        folder: &Folder,
        previous: &Self,
        digest_of: &dyn Fn(&Path, &Identity) -> Option<Digest>,
    ) -> io::Result<Self> {
        let (found, passed_over) = folder.walk()?;
        let mut catalogue = Self { passed_over, ..Self::default() };
        for found in found {
            let Some(name) = naming::model_of(&found.listed) else {
                let why = "its name is no model's name: letters, digits and - _ . @ + ( ) , are";
                catalogue.passed_over.push(format!("{}: {why}", found.listed.display()));
                continue;
            };
            // `a%3Ab.gguf` and `a:b.gguf`: the one that we would have written wins.
            let ours = naming::file_of(&name).is_ok_and(|file| file == found.listed);
            if !ours && catalogue.files.contains_key(&name) {
                continue;
            }
            let known = previous.files.get(&name).filter(|file| file.found == found);
            let header = match known {
                Some(file) => file.header.clone(),
                None => read(folder, &found),
            };
            let digest = digest_of(&found.real, &found.identity);
            catalogue.files.insert(name, File { found, header, digest });
        }
        catalogue.join();
        Ok(catalogue)
    }

    /// Makes models of the files.
    fn join(&mut self) {
        let mut split: BTreeMap<ModelId, Vec<(Part, ModelId)>> = BTreeMap::new();
        let mut projectors = Vec::new();
        for (name, file) in &self.files {
            if file.header.as_ref().is_ok_and(|header| header::is_projector(header)) {
                projectors.push(name.clone());
            } else if let Some(part) = part(name, file) {
                split.entry(part.whole.clone()).or_default().push((part, name.clone()));
            } else {
                let model = Model {
                    files: vec![name.clone()],
                    header: file.header.clone(),
                    digest: file.digest.clone(),
                    size: file.found.identity.size,
                    projector: None,
                };
                self.models.insert(name.clone(), model);
            }
        }
        for (whole, parts) in split {
            // A file of just that name was there first.
            if !self.models.contains_key(&whole) {
                let model = self.joined(parts);
                self.models.insert(whole, model);
            }
        }
        let names: Vec<ModelId> = self.models.keys().cloned().collect();
        for name in names {
            let projector = projector_of(&name, &projectors);
            if let Some(model) = self.models.get_mut(&name) {
                model.projector = projector;
            }
        }
    }

    fn joined(&self, mut parts: Vec<(Part, ModelId)>) -> Model {
        parts.sort_by_key(|(part, _)| part.number);
        let count = parts.first().map_or(0, |(part, _)| part.count);
        let files: Vec<ModelId> = parts.iter().map(|(_, name)| name.clone()).collect();
        let size =
            files.iter().filter_map(|name| self.files.get(name)).map(|file| file.found.identity.size).sum();
        let complete = parts.len() == count as usize && parts.iter().all(|(part, _)| part.count == count);
        let header = if complete {
            self.joined_header(&files)
        } else {
            let missing: Vec<String> = (1..=count)
                .filter(|number| !parts.iter().any(|(part, _)| part.number == *number))
                .take(8)
                .map(|number| number.to_string())
                .collect();
            Err(match missing.is_empty() {
                true => "its parts do not belong together".into(),
                false => format!("of its {count} parts these are missing: {}", missing.join(", ")),
            })
        };
        Model { files, header, digest: None, size, projector: None }
    }

    fn joined_header(&self, files: &[ModelId]) -> Result<Arc<Header>, String> {
        let mut headers = Vec::new();
        for name in files {
            let Some(file) = self.files.get(name) else { return Err(format!("its part {name} is missing")) };
            let header = file.header.as_ref().map_err(|why| format!("its part {name}: {why}"))?;
            headers.push(Header::clone(header));
        }
        gguf::join(headers).map(Arc::new).map_err(|error| error.to_string())
    }

    /// What is reported.
    pub(super) fn reported(&self) -> Vec<StoredModel> {
        let projector = |model: &Model| {
            self.files.get(model.projector.as_ref()?).map(|file| Bytes(file.found.identity.size))
        };
        let models = self.models.iter().take(MODELS);
        models
            .map(|(name, model)| StoredModel { projector: projector(model), ..model.reported(name) })
            .collect()
    }

    /// A file with this digest.
    pub(super) fn by_digest(&self, digest: &Digest) -> Option<&File> {
        self.files.values().find(|file| file.digest.as_ref() == Some(digest))
    }

    /// Where the files of a model lie, relative to the folder.
    pub(super) fn listed(&self, model: &Model) -> Vec<PathBuf> {
        let files = model.files.iter().filter_map(|name| self.files.get(name));
        files.map(|file| file.found.listed.clone()).collect()
    }
}

impl Model {
    fn reported(&self, name: &ModelId) -> StoredModel {
        let header = self.header.as_ref().ok();
        StoredModel {
            model: name.clone(),
            digest: self.digest.clone(),
            size: Bytes(self.size),
            architecture: header.and_then(|header| header.architecture()).map(str::to_owned),
            quantisation: header.and_then(|header| header::quantisation(header)),
            parameters: header.map(|header| header.parameters()),
            active_parameters: header.and_then(|header| header.active_parameters()),
            trained_context: header
                .and_then(|header| header.arch_number("context_length"))
                .and_then(|tokens| u32::try_from(tokens).ok()),
            projector: None,
            broken: self.header.as_ref().err().cloned(),
            served_as: None,
        }
    }
}

fn read(folder: &Folder, found: &Found) -> Result<Arc<Header>, String> {
    let file = folder.open(&found.real).map_err(|error| format!("opening it: {error}"))?;
    header::whole(&file, found.identity.size).map(Arc::new).map_err(|error| error.to_string())
}

/// A file is a part when its name says so, and its header does not say otherwise.
fn part(name: &ModelId, file: &File) -> Option<Part> {
    let part = naming::part_of(name)?;
    let split = file.header.as_ref().ok().map(|header| header.split());
    // A broken part is still one: the whole must not be loaded without it.
    (split.is_none_or(|split| split.is_some_and(|split| split.count > 1))).then_some(part)
}

/// The projector in the model's own folder that is named after the model, else the only one in a folder below
/// the store: hubs keep one model's files in one folder.
fn projector_of(model: &ModelId, projectors: &[ModelId]) -> Option<ModelId> {
    let folder = |name: &ModelId| name.as_str().rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let near: Vec<&ModelId> = projectors.iter().filter(|one| folder(one) == folder(model)).collect();
    let named = near.iter().find(|one| naming::family(one) == naming::family(model));
    let only = near.first().filter(|_| near.len() == 1 && folder(model).is_some());
    // A name of nothing but quantisation, as in `mmproj-f16`, is of no family.
    let only = only.filter(|one| named.is_some() || naming::family(one).is_empty());
    named.or(only).map(|one| (*one).clone())
}
