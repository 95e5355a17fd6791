//! How much RAM a process holds.

use mesh_core::units::Bytes;
use std::path::Path;

/// The resident bytes of `pid`: from `smaps_rollup`, which counts exactly, else from `status`. `None` = it is gone or
/// may not be read.
pub(super) fn resident(proc: &Path, pid: u32) -> Option<Bytes> {
    let folder = proc.join(pid.to_string());
    let rollup = std::fs::read_to_string(folder.join("smaps_rollup")).ok();
    let exact = rollup.as_deref().and_then(|text| kibibytes(text, "Rss:"));
    exact.or_else(|| kibibytes(&std::fs::read_to_string(folder.join("status")).ok()?, "VmRSS:"))
}

fn kibibytes(text: &str, key: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(number.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_holds_something_and_a_gone_one_is_unknown() {
        let own = resident(Path::new("/proc"), std::process::id()).expect("it lives");
        assert!((1 << 20..1 << 40).contains(&own.0), "{own}");
        assert_eq!(resident(Path::new("/proc"), u32::MAX), None);
    }

    #[test]
    fn status_is_read_where_there_is_no_rollup_and_rubbish_is_unknown() {
        let proc = tempfile::tempdir().expect("a folder");
        let folder = proc.path().join("7");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("smaps_rollup"), "Rss: lots\n").expect("a file");
        std::fs::write(folder.join("status"), "Name:\tx\nVmRSS:\t    2048 kB\n").expect("a file");
        assert_eq!(resident(proc.path(), 7), Some(Bytes(2 << 20)));
        std::fs::write(folder.join("status"), "VmRSS:\t99999999999999999999 kB\n").expect("a file");
        assert_eq!(resident(proc.path(), 7), None);
    }
}
