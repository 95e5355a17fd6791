//! Main memory of machines that the test writes.

use super::memory;
use mesh_core::machine::{Capacity, HostMemory, Reading, Swap};
use mesh_core::units::Bytes;
use std::path::Path;
use tempfile::TempDir;

const GIB: u64 = 1 << 30;

/// A machine with 64 GiB, 16 of them available.
fn machine() -> TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    let (total, available, swap) = (64 * GIB / 1024, 16 * GIB / 1024, 8 * GIB / 1024);
    let text = format!(
        "MemTotal:       {total} kB\nMemFree: 1 kB\nMemAvailable:   {available} kB\nSwapCached: 0 kB\n\
         SwapTotal: {swap} kB\nSwapFree: {} kB\n",
        swap - 1024
    );
    write(root.path(), "proc/meminfo", &text);
    root
}

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().expect("below the root")).expect("created");
    std::fs::write(path, text).expect("written");
}

fn read(root: &TempDir) -> (Reading<Capacity>, HostMemory) {
    memory(root.path())
}

fn gib(total: u64, available: u64) -> Reading<Capacity> {
    Reading::Known(Capacity { total: Bytes(total * GIB), available: Bytes(available * GIB) })
}

fn reason<T: std::fmt::Debug>(reading: Reading<T>) -> String {
    match reading {
        Reading::Unknown(reason) => reason,
        Reading::Known(value) => panic!("{value:?} is known"),
    }
}

fn arcstats(root: &TempDir, size: u64, floor: u64, evictable: [u64; 4]) {
    let [a, b, c, d] = evictable.map(|gib| gib * GIB);
    let text = format!(
        "13 1 0x01 147 39984 5000 9000\nname                            type data\n\
         hits 4 1\nc_min                           4    {}\nsize                            4    {}\n\
         mru_size 4 1\nmru_evictable_data 4 {a}\nmru_evictable_metadata 4 {b}\n\
         mfu_evictable_data 4 {c}\nmfu_evictable_metadata 4 {d}\nl2_size 4 0\n",
        floor * GIB,
        size * GIB
    );
    write(root.path(), "proc/spl/kstat/zfs/arcstats", &text);
}

#[test]
fn a_plain_machine_has_what_the_kernel_says() {
    let (ram, figures) = read(&machine());
    assert_eq!(ram, gib(64, 16));
    assert_eq!(figures.mem_available, Reading::Known(Bytes(16 * GIB)));
    assert!(reason(figures.zfs_evictable).starts_with("no ZFS"));
    assert!(reason(figures.cgroup_available).contains("proc/self/cgroup"));
    assert_eq!(figures.swap, Reading::Known(Swap { total: Bytes(8 * GIB), used: Bytes(1 << 20) }));
    assert!(reason(figures.pressure).contains("psi=1"));
}

#[test]
fn the_zfs_cache_is_available_as_far_as_nobody_holds_it() {
    let root = machine();
    arcstats(&root, 30, 2, [10, 1, 8, 1]);
    let (ram, figures) = read(&root);
    assert_eq!(figures.zfs_evictable, Reading::Known(Bytes(20 * GIB)));
    assert_eq!(ram, gib(64, 36));
    // … and never so far that the cache would shrink below its floor.
    arcstats(&root, 30, 25, [10, 1, 8, 1]);
    assert_eq!(read(&root).0, gib(64, 21));
    arcstats(&root, 3, 4, [1, 0, 1, 0]);
    assert_eq!(read(&root).0, gib(64, 16));
}

#[test]
fn a_cache_that_contradicts_itself_or_the_machine_is_unknown_and_adds_nothing() {
    let root = machine();
    for (size, evictable, part) in [
        (10, [10, 1, 0, 0], "11 GiB can go of 10 GiB"),
        (60, [50, 0, 0, 0], "of another machine?"),
        (60, [u64::MAX / GIB; 4], "can go of"),
    ] {
        arcstats(&root, size, 1, evictable);
        let (ram, figures) = read(&root);
        assert_eq!(ram, gib(64, 16));
        let reason = reason(figures.zfs_evictable);
        assert!(reason.contains(part), "{reason}");
    }
    write(root.path(), "proc/spl/kstat/zfs/arcstats", "name type data\nsize 4 lots\n");
    assert!(reason(read(&root).1.zfs_evictable).contains("size is `lots`"));
    write(root.path(), "proc/spl/kstat/zfs/arcstats", "");
    assert!(reason(read(&root).1.zfs_evictable).contains("has no size"));
}

#[test]
fn a_container_does_not_take_its_hosts_zfs_cache() {
    let root = machine();
    arcstats(&root, 30, 2, [10, 1, 8, 1]);
    write(root.path(), "proc/self/mounts", "lxcfs /proc/meminfo fuse.lxcfs rw 0 0\n");
    let (ram, figures) = read(&root);
    assert!(reason(figures.zfs_evictable).contains("lxcfs"));
    assert_eq!(ram, gib(64, 16));
}

/// Writes a version 2 group: limit, use and cache in GiB.
fn group(root: &TempDir, path: &str, limit: &str, used: u64, cache: u64) {
    let folder = Path::new("sys/fs/cgroup").join(path);
    let file = |name: &str| folder.join(name).display().to_string();
    write(root.path(), &file("memory.max"), limit);
    write(root.path(), &file("memory.current"), &(used * GIB).to_string());
    let stat = format!("anon 1\ninactive_file_x 1\ninactive_file {}\n", cache * GIB);
    write(root.path(), &file("memory.stat"), &stat);
}

#[test]
fn the_tightest_group_on_the_way_up_bounds_both_what_there_is_and_what_is_left() {
    let root = machine();
    write(root.path(), "proc/self/cgroup", "0::/machine.slice/box.scope/agent.service\n");
    group(&root, "machine.slice/box.scope/agent.service", "max\n", 1, 0);
    assert!(reason(read(&root).1.cgroup_available).contains("has no memory limit"));
    let limit = (24 * GIB).to_string();
    group(&root, "machine.slice/box.scope", &limit, 20, 8);
    let (ram, figures) = read(&root);
    assert_eq!(figures.cgroup_available, Reading::Known(Bytes(12 * GIB)));
    assert_eq!(ram, gib(24, 12));
    // A wider group with less left: the limit of the one, what is left of the other.
    group(&root, "machine.slice", &(40 * GIB).to_string(), 35, 0);
    assert_eq!(read(&root).0, gib(24, 5));
    // More used than allowed happens for a moment.
    group(&root, "machine.slice", &(30 * GIB).to_string(), 35, 0);
    assert_eq!(read(&root).0, gib(24, 0));
    // A limit above all memory is none.
    group(&root, "machine.slice", &(64 * GIB).to_string(), 60, 0);
    assert_eq!(read(&root).0, gib(24, 12));
}

#[test]
fn the_machines_own_figure_wins_where_it_is_smaller() {
    let root = machine();
    write(root.path(), "proc/self/cgroup", "0::/\n");
    group(&root, "", &(48 * GIB).to_string(), 1, 0);
    let (ram, figures) = read(&root);
    assert_eq!(figures.cgroup_available, Reading::Known(Bytes(47 * GIB)));
    assert_eq!(ram, gib(48, 16));
}

#[test]
fn a_limit_whose_use_is_unclear_leaves_the_memory_unknown() {
    let root = machine();
    write(root.path(), "proc/self/cgroup", "0::/a\n");
    group(&root, "a", &(24 * GIB).to_string(), 2, 3);
    let (ram, figures) = read(&root);
    assert!(reason(ram).contains("3 GiB of cache in 2 GiB used"));
    assert!(reason(figures.cgroup_available).contains("of cache"));
    assert_eq!(figures.mem_available, Reading::Known(Bytes(16 * GIB)));
    group(&root, "a", "lots", 2, 0);
    assert!(reason(read(&root).0).contains("`lots` is no limit"));
}

#[test]
fn version_1_groups_are_read_and_their_largest_number_is_no_limit() {
    let root = machine();
    write(root.path(), "proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n");
    // Docker shows its container's group as the mount itself; the host's path does not exist.
    let folder = "sys/fs/cgroup/memory";
    write(root.path(), &format!("{folder}/memory.limit_in_bytes"), "9223372036854771712\n");
    assert!(reason(read(&root).1.cgroup_available).contains("/docker/abc has no memory limit"));
    write(root.path(), &format!("{folder}/memory.limit_in_bytes"), &(20 * GIB).to_string());
    write(root.path(), &format!("{folder}/memory.usage_in_bytes"), &(15 * GIB).to_string());
    let stat = format!("inactive_file 0\ntotal_inactive_file {}\n", 4 * GIB);
    write(root.path(), &format!("{folder}/memory.stat"), &stat);
    assert_eq!(read(&root).0, gib(20, 9));
}

#[test]
fn a_path_out_of_the_namespace_or_without_end_is_not_followed() {
    let root = machine();
    group(&root, "x", &GIB.to_string(), 0, 0);
    for path in ["/../x", "", "/../../..", &"/d".repeat(4000)] {
        write(root.path(), "proc/self/cgroup", &format!("0::{path}\n"));
        assert_eq!(read(&root).0, gib(64, 16), "{path}");
    }
    write(root.path(), "proc/self/cgroup", "nonsense\n");
    assert!(reason(read(&root).1.cgroup_available).contains("names no memory cgroup"));
}

#[test]
fn figures_that_contradict_each_other_are_unknown() {
    let root = machine();
    write(
        root.path(),
        "proc/meminfo",
        "MemTotal: 10 kB\nMemAvailable: 11 kB\nSwapTotal: 1 kB\nSwapFree: 2 kB\n",
    );
    let (ram, figures) = read(&root);
    assert!(reason(ram).contains("available of"));
    assert!(reason(figures.mem_available).contains("available of"));
    assert!(reason(figures.swap).contains("swap is free"));
    write(root.path(), "proc/meminfo", "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n");
    let (ram, figures) = read(&root);
    assert!(reason(ram).contains("MemTotal is"));
    assert!(reason(figures.swap).contains("has no SwapTotal"));
}

#[test]
fn pressure_is_the_share_of_some_in_ten_seconds() {
    let root = machine();
    write(
        root.path(),
        "proc/pressure/memory",
        "some avg10=1.35 avg60=9.99 total=1\nfull avg10=7.00 total=1\n",
    );
    assert_eq!(read(&root).1.pressure, Reading::Known(1.35));
    for text in ["some avg10=zero", "some avg10=101", "full avg10=1.0", "", "some avg10=NaN"] {
        write(root.path(), "proc/pressure/memory", text);
        assert!(reason(read(&root).1.pressure).contains("no avg10"), "{text}");
    }
}
