//! Where a mesh keeps its state on this machine.

use crate::complaint::Complaint;
use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The variable that names the data folder.
pub const VARIABLE: &str = "MODEMESH_DATA";

/// `$MODEMESH_DATA`, else `$XDG_DATA_HOME/modemesh`, else `~/.local/share/modemesh`.
#[must_use]
pub fn default() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(VARIABLE)
        .or_else(|| set("XDG_DATA_HOME").map(|base| base.join("modemesh")))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/modemesh")))
        .unwrap_or_else(|| PathBuf::from("modemesh-data"))
}

/// Makes the folder (0700) unless it is there, and checks that files can be written in it.
///
/// # Errors
/// A complaint that names the folder, the reason and `--data`.
pub fn create_private(folder: &Path) -> Result<(), Complaint> {
    let failed = |action: &str, error: std::io::Error| {
        Complaint::new(format!("cannot {action} the data folder {}", folder.display()))
            .cause(error)
            .hint("choose a folder you can write to with --data DIR")
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| failed("create", e))?;
    let mode = std::fs::metadata(folder).map_err(|e| failed("read", e))?.permissions().mode();
    if mode & 0o077 != 0 {
        // It will hold private keys.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
            .map_err(|e| failed("protect", e))?;
    }
    let probe = folder.join(format!(".write-check-{}", std::process::id()));
    std::fs::write(&probe, b"").map_err(|e| failed("write to", e))?;
    std::fs::remove_file(&probe).map_err(|e| failed("write to", e))
}

/// Writes `bytes` (0600) under a temporary name and renames, so that a power cut leaves the old file or the new
/// one and nobody else ever reads it.
///
/// # Errors
/// What the system says.
pub fn write_private(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = file.with_extension(format!("part{}", std::process::id()));
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&part, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_a_file_is_refused_with_its_name() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let file = parent.path().join("data");
        std::fs::write(&file, b"").expect("writing");
        let complaint = create_private(&file.join("below")).expect_err("a file cannot hold a folder");
        assert!(complaint.what.contains("data/below"), "{complaint}");
        assert!(complaint.hint.is_some_and(|hint| hint.contains("--data")));
    }

    #[test]
    fn a_new_folder_is_private_and_an_open_one_is_closed() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("mesh");
        std::fs::create_dir(&folder).expect("creating");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        create_private(&folder).expect("it can be written");
        assert_eq!(std::fs::metadata(&folder).expect("it is there").permissions().mode() & 0o777, 0o700);
        assert_eq!(
            std::fs::read_dir(&folder).expect("readable").count(),
            0,
            "the check leaves nothing behind"
        );
    }
}
