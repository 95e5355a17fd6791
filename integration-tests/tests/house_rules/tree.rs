//! The tree as the house rules see it: text files, manifests, the lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use toml_edit::{DocumentMut, Item, TableLike};

/// One text file of the tree; `path` is relative to the root, with `/`.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The tree without what git ignores.
pub(crate) struct House {
    pub(crate) files: Vec<File>,
}

impl House {
    /// Every file of the repository that is text.
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
        let mut house = Self { files: Vec::new() };
        house.walk(root, root);
        house.files.sort_by(|a, b| a.path.cmp(&b.path));
        house
    }

    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
        Self { files: files.iter().map(file).collect() }
    }

    fn walk(&mut self, root: &Path, folder: &Path) {
        const IGNORED: [&str; 6] =
            ["target", ".git", ".venv", "node_modules", "__pycache__", ".pytest_cache"];
        for entry in std::fs::read_dir(folder).expect("the tree is readable") {
            let entry = entry.expect("the tree is readable");
            let name = entry.file_name().to_string_lossy().into_owned();
            if IGNORED.contains(&name.as_str()) || name.ends_with(".snap.new") {
                continue;
            }
            if entry.file_type().expect("the tree is readable").is_dir() {
                self.walk(root, &entry.path());
            } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
                let path =
                    entry.path().strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                self.files.push(File { path, text });
            }
        }
    }

    pub(crate) fn text(&self, path: &str) -> &str {
        self.files.iter().find(|file| file.path == path).map_or("", |file| &file.text)
    }

    /// Rust files that people write: generated code lies in folders called `gen`.
    pub(crate) fn written(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs") && !file.path.contains("/gen/"))
    }

    /// The manifests of the crates, by the crate's name.
    pub(crate) fn manifests(&self) -> BTreeMap<String, DocumentMut> {
        let manifests = self.files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
        let parsed = manifests.map(|file| file.text.parse::<DocumentMut>().expect("cargo reads it too"));
        parsed.map(|toml| (toml["package"]["name"].as_str().unwrap_or_default().to_owned(), toml)).collect()
    }
}

/// The names in a manifest's tables called `kinds`, those of `[target.…]` included.
pub(crate) fn dependencies(manifest: &DocumentMut, kinds: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut take = |table: &dyn TableLike| {
        for dependencies in kinds.iter().filter_map(|kind| table.get(kind)?.as_table_like()) {
            names.extend(dependencies.iter().map(|(name, _)| name.to_owned()));
        }
    };
    take(manifest.as_table());
    if let Some(targets) = manifest.get("target").and_then(Item::as_table_like) {
        targets.iter().filter_map(|(_, target)| target.as_table_like()).for_each(take);
    }
    names
}

pub(crate) const EVERY_KIND: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Every package below `start` in Cargo.lock, itself and its test dependencies included.
pub(crate) fn locked_below(house: &House, start: &str) -> BTreeSet<String> {
    let lock: DocumentMut = house.text("Cargo.lock").parse().expect("cargo reads it too");
    let mut below: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock["package"].as_array_of_tables().into_iter().flatten() {
        let listed = package.get("dependencies").and_then(Item::as_array).into_iter().flatten();
        let names = listed.filter_map(|line| Some(line.as_str()?.split(' ').next()?.to_owned()));
        below.entry(package["name"].as_str().unwrap_or_default().into()).or_default().extend(names);
    }
    let (mut seen, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
    while let Some(name) = open.pop() {
        open.extend(below.get(&name).into_iter().flatten().cloned());
        if !seen.insert(name) {
            open.retain(|next| !seen.contains(next));
        }
    }
    seen
}
