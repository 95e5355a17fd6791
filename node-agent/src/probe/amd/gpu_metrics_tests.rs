//! Tables built field by field after the kernel's structs, and whatever bytes come.

use super::*;
use proptest::prelude::*;

/// A C struct: fields aligned to their size, the whole to its largest field; then the header is set.
#[derive(Default)]
struct Built {
    bytes: Vec<u8>,
    align: usize,
}

impl Built {
    fn new() -> Self {
        Self { bytes: vec![0; 4], align: 2 }
    }

    fn field(mut self, size: usize, value: u64, count: usize) -> Self {
        self.align = self.align.max(size);
        self.bytes.resize(self.bytes.len().next_multiple_of(size), 0);
        for _ in 0..count {
            self.bytes.extend(&value.to_le_bytes()[..size]);
        }
        self
    }

    fn u16(self, value: u64) -> Self {
        self.field(2, value, 1)
    }

    fn absent(self, count: usize) -> Self {
        self.field(2, u64::MAX, count)
    }

    fn done(mut self, format: u8, content: u8) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(self.align), 0);
        let size = u16::try_from(self.bytes.len()).expect("tables are short");
        self.bytes[..2].copy_from_slice(&size.to_le_bytes());
        self.bytes[2..4].copy_from_slice(&[format, content]);
        self.bytes
    }
}

/// 1.0: the clock first.
fn v1_0(throttle: u64) -> Vec<u8> {
    let table = Built::new().field(8, 1, 1).u16(48).u16(55).u16(62).absent(3).u16(97).u16(41).u16(0).u16(210);
    let table = table.field(4, 7, 1).absent(7).u16(2300).u16(1200).u16(1000).absent(4);
    table.field(4, throttle, 1).u16(1500).field(1, 16, 2).done(1, 0)
}

/// 1.1 to 1.3: each content appends to the one before.
fn v1(content: u8, throttle: u64, causes: u64) -> Vec<u8> {
    let table = Built::new().u16(48).u16(55).u16(62).absent(3).u16(97).u16(41).u16(0).u16(210);
    let table = table.field(8, 9, 1).field(8, 1, 1).absent(7).u16(2300).u16(1200).u16(1000).absent(4);
    let mut table = table.field(4, throttle, 1).u16(1500).field(2, 16, 2).u16(0).field(4, 5, 2).absent(4);
    if content >= 2 {
        table = table.field(8, 3, 1);
    }
    if content >= 3 {
        table = table.u16(800).u16(750).absent(1).u16(0).field(8, causes, 1);
    }
    table.done(1, content)
}

/// 2.0: the clock first.
fn v2_0(throttle: u64) -> Vec<u8> {
    let table = Built::new().field(8, 1, 1).u16(6512).u16(5800).field(2, 6000, 8).absent(2).u16(5300).u16(0);
    let table = table.u16(14800).u16(9000).u16(2000).u16(3000).field(2, 900, 8).absent(6);
    let table = table.u16(1400).u16(1200).u16(2400).field(2, 1, 3).field(2, 3000, 8).absent(2);
    table.field(4, throttle, 1).u16(100).u16(0).done(2, 0)
}

/// 2.1 to 2.4.
fn v2(content: u8, throttle: u64, causes: u64) -> Vec<u8> {
    let table = Built::new().u16(6512).u16(5800).field(2, 6000, 8).absent(2).u16(5300).u16(0).field(8, 1, 1);
    let table = table.u16(14800).u16(9000).u16(2000).u16(3000).field(2, 900, 8).absent(6);
    let table = table.u16(1400).u16(1200).u16(2400).field(2, 1, 3).field(2, 3000, 8).absent(2);
    let mut table = table.field(4, throttle, 1).u16(100).field(2, 0, 3);
    if content >= 2 {
        table = table.field(8, causes, 1);
    }
    if content >= 3 {
        table = table.u16(6400).u16(5700).field(2, 5900, 8).absent(2);
    }
    if content >= 4 {
        table = table.field(2, 900, 3).field(2, 4000, 3);
    }
    table.done(2, content)
}

/// 3.0: Strix Point, Strix Halo.
fn v3_0(residency: [u64; 7]) -> Vec<u8> {
    let table = Built::new().u16(6120).u16(5830).field(2, 6210, 16).absent(1).u16(97).u16(0).field(2, 0, 8);
    let table = table.field(2, 3, 16).field(2, 900, 4).field(8, 1, 1).field(4, 119_800, 1).u16(0);
    let table = table.field(4, 117_000, 1).field(4, 81_000, 1).field(4, 0, 1).field(4, 12_000, 1);
    let table = table.field(2, 700, 16).absent(1).u16(55_000).u16(55_000).u16(2874).u16(800).absent(1).u16(0);
    let mut table = table.u16(2000).u16(0).u16(1000).u16(0).field(2, 4500, 16).u16(5100).u16(2900);
    for counter in residency {
        table = table.field(4, counter, 1);
    }
    table.field(4, 1000, 1).done(3, 0)
}

#[test]
fn the_tables_are_as_long_as_the_kernels() {
    let sizes: Vec<usize> = LAYOUTS.iter().map(|layout| layout.size).collect();
    let built = [
        v1_0(0),
        v1(1, 0, 0),
        v1(2, 0, 0),
        v1(3, 0, 0),
        v2_0(0),
        v2(1, 0, 0),
        v2(2, 0, 0),
        v2(3, 0, 0),
        v2(4, 0, 0),
        v3_0([0; 7]),
    ];
    assert_eq!(built.map(|table| table.len()).to_vec(), sizes);
}

#[test]
fn every_version_of_a_cards_table_says_the_same() {
    for (content, bytes) in [(0, v1_0(0)), (1, v1(1, 0, 0)), (2, v1(2, 0, 0)), (3, v1(3, 0, 0))] {
        let table = parse(&bytes).expect("a known version");
        let expected = Table {
            integrated: false,
            temperatures: vec![("edge", 48.0), ("junction", 55.0), ("mem", 62.0)],
            socket_power: Some(210.0),
            busy: Some(97),
            memory_busy: Some(41),
            clock: Some(2300),
            memory_clock: Some(1000),
            throttle: if content == 3 { Throttle::Causes(0) } else { Throttle::ByChip(0) },
        };
        assert_eq!(table, expected, "1.{content}");
    }
}

#[test]
fn every_version_of_an_integrated_processors_table_says_the_same() {
    for (content, bytes) in
        [(0, v2_0(0)), (1, v2(1, 0, 0)), (2, v2(2, 0, 0)), (3, v2(3, 0, 0)), (4, v2(4, 0, 0))]
    {
        let table = parse(&bytes).expect("a known version");
        let expected = Table {
            integrated: true,
            temperatures: vec![("edge", 65.12), ("soc", 58.0)],
            socket_power: Some(14.8),
            busy: Some(53),
            memory_busy: None,
            clock: Some(1400),
            memory_clock: Some(2400),
            throttle: if content >= 2 { Throttle::Causes(0) } else { Throttle::ByChip(0) },
        };
        assert_eq!(table, expected, "2.{content}");
    }
}

#[test]
fn strix_halos_table_has_more_watts_than_sixteen_bits_hold() {
    let table = parse(&v3_0([0, 1, 2, 3, 4, 5, 6])).expect("a known version");
    let expected = Table {
        integrated: true,
        temperatures: vec![("edge", 61.2), ("soc", 58.3)],
        socket_power: Some(119.8),
        busy: Some(97),
        memory_busy: None,
        clock: Some(2874),
        memory_clock: Some(1000),
        throttle: Throttle::Residency([0, 1, 2, 3, 4, 5, 6]),
    };
    assert_eq!(table, expected);
}

#[test]
fn all_bits_set_is_absent_and_not_65535() {
    let mut bytes = v1(3, 0, 0);
    bytes[4..].fill(0xff);
    let table = parse(&bytes).expect("a known version");
    assert_eq!(table.temperatures, []);
    assert_eq!((table.socket_power, table.busy, table.clock), (None, None, None));
    assert_eq!(table.throttle, Throttle::Absent);
}

#[test]
fn throttle_bits_have_causes() {
    use ThrottleCause::{HardwareSlowdown, HardwareThermal, PowerCap};
    assert_eq!(causes(0), []);
    assert_eq!(causes(1 << 5), [PowerCap]);
    assert_eq!(causes(1 << 17), [PowerCap]);
    assert_eq!(causes(1 << 36), [HardwareThermal]);
    assert_eq!(causes(1 << 44), [HardwareThermal]);
    assert_eq!(causes(1 << 47), [HardwareSlowdown]);
    assert_eq!(causes(1 << 33 | 1 << 46 | 1), [HardwareThermal, HardwareSlowdown, PowerCap]);
    assert_eq!(moved(&[5; 7], &[5; 7]), []);
    assert_eq!(moved(&[0; 7], &[0, 9, 9, 0, 0, 1, 0]), [HardwareThermal, PowerCap]);
}

#[test]
fn a_version_or_size_that_is_not_known_is_refused_with_its_numbers() {
    let mut newer = v3_0([0; 7]);
    newer[3] = 1;
    assert_eq!(parse(&newer), Err(TableError::Unknown { format: 3, content: 1, size: 264 }));
    let mut longer = v1(3, 0, 0);
    longer[0] = 128;
    assert_eq!(parse(&longer), Err(TableError::Unknown { format: 1, content: 3, size: 128 }));
    assert_eq!(parse(&v1(3, 0, 0)[..119]), Err(TableError::Cut(119, 120)));
    assert_eq!(parse(&[]), Err(TableError::Cut(0, 4)));
    assert_eq!(
        parse(&newer).expect_err("unknown").to_string(),
        "gpu_metrics version 3.1 with 264 bytes is not known to this agent"
    );
}

proptest! {
    /// Whatever bytes come: no panic, and what is read is plausible.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(&bytes));
    }

    /// A known header before any bytes, cut anywhere.
    #[test]
    fn a_known_header_with_any_body_is_read_or_refused(
        layout in 0..LAYOUTS.len(),
        body in prop::collection::vec(any::<u8>(), 300),
        cut in 0_usize..300,
    ) {
        let Layout { version: (format, content), size, .. } = LAYOUTS[layout];
        let mut bytes = body;
        bytes[..2].copy_from_slice(&u16::try_from(size).expect("tables are short").to_le_bytes());
        bytes[2..4].copy_from_slice(&[format, content]);
        let table = parse(&bytes).expect("a known version, long enough");
        prop_assert!(table.busy.is_none_or(|busy| busy <= 100));
        prop_assert!(table.socket_power.is_none_or(|watts| watts.is_finite() && watts >= 0.0));
        let short = parse(&bytes[..cut.min(size - 1)]);
        prop_assert!(short.is_err());
    }
}
