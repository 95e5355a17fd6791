//! One machine with everything that it says of itself.

use super::paint::{self, Look};
use super::quantity::{UNKNOWN, bytes, celsius, context, known, milliseconds, named, parameters};
use super::table::{Cell, Rank, Table};
use mesh_core::machine::{
    Capacity, Engine, EngineState, Gpu, GpuState, Hardware, Pool, Power, Reading, Replica, ReplicaState,
    Report, Store, Temperature, Vitals,
};
use mesh_core::units::human_duration;
use mesh_proto::v1::MachineReport;
use std::time::Duration;

/// The whole page. `report` is the machine's report in the core's words.
pub(crate) fn page(machine: &MachineReport, report: &Report, look: Look) -> String {
    let mut lines = vec![head(machine, look), String::new()];
    if let Some(hardware) = &report.hardware {
        lines.extend(hardware_lines(hardware, report.vitals.as_ref(), look));
    }
    if let Some(vitals) = &report.vitals {
        lines.extend(vitals_lines(vitals, look));
    }
    lines.extend(engines(report.engines.as_deref().unwrap_or_default(), look));
    if let Some(store) = &report.store {
        lines.extend(stored(store, look));
        lines.extend(super::models::transfers(store, look));
    }
    lines.join("\n") + "\n"
}

fn head(machine: &MachineReport, look: Look) -> String {
    let (state, paint) = paint::state(&machine.state, look);
    let mut head = format!("{}   {}", look.text(&machine.node), paint.on(&state, look.color));
    if !machine.reason.is_empty() {
        head.push_str(&format!(": {}", look.text(&machine.reason)));
    }
    head.push_str(&format!("   heard {} ago", milliseconds(machine.last_heard_ms)));
    if machine.data_path != "none" {
        head.push_str(&format!("   by {}", named(&machine.data_path)));
    }
    head
}

/// `name        value`, the name left out where it is the one above.
fn line(name: &str, value: &str) -> String {
    format!("{name:<12}{value}").trim_end().to_owned()
}

fn hardware_lines(hardware: &Hardware, vitals: Option<&Vitals>, look: Look) -> Vec<String> {
    let mut host = look.text(&hardware.hostname);
    host.push_str(&format!(", {}", say(&hardware.system, look, |system| look.text(system))));
    host.push_str(&format!(", agent {}", look.text(&hardware.agent_version)));
    let mut cpu = say(&hardware.cpu, look, |cpu| look.text(cpu));
    cpu.push_str(&format!(", {} threads", hardware.cpu_threads));
    if let Some(vitals) = vitals {
        if let Some(seconds) = vitals.uptime_s.known() {
            host.push_str(&format!(", up {}", human_duration(Duration::from_secs(*seconds))));
        }
        if let Some(load) = vitals.load.known() {
            cpu.push_str(&format!(", load {load:.1}"));
        }
        if vitals.cpu_throttled.known() == Some(&true) {
            cpu.push_str(", throttled");
        }
    }
    let mut lines = vec![line("host", &host), line("cpu", &cpu)];
    if let Some(launch) = &hardware.launch {
        let on = if launch.uses_gpu { "" } else { ", on the processor only" };
        let slots = launch.slots;
        let program = look.text(&launch.program);
        let size = context(launch.context);
        lines.push(line("loads with", &format!("{program}{on}, context {size}, {slots} at once")));
    }
    lines
}

fn vitals_lines(vitals: &Vitals, look: Look) -> Vec<String> {
    let power = |power: &Power| match power {
        Power::Mains => "mains".to_owned(),
        Power::Battery(percent) => format!("battery, {}", known(*percent, |percent| format!("{percent} %"))),
    };
    let thermal = &vitals.thermal;
    let why = if thermal.why.is_empty() { String::new() } else { format!(": {}", look.text(&thermal.why)) };
    let mut lines = vec![
        line("power", &say(&vitals.power, look, power)),
        line("thermal", &format!("{}{why}", thermal.state.word())),
        line("ram", &say(&vitals.ram, look, capacity)),
    ];
    let memory = &vitals.memory;
    lines.push(line(
        "",
        &format!("available to the kernel {}", say(&memory.mem_available, look, |b| bytes(b.0))),
    ));
    if let Reading::Known(evictable) = &memory.zfs_evictable {
        lines.push(line("", &format!("ZFS would give back {}", bytes(evictable.0))));
    }
    if let Reading::Known(left) = &memory.cgroup_available {
        lines.push(line("", &format!("the agent's cgroup leaves {}", bytes(left.0))));
    }
    let swap = say(&memory.swap, look, |swap| format!("{} of {}", bytes(swap.used.0), bytes(swap.total.0)));
    let pressure = say(&memory.pressure, look, |percent| format!("{percent:.0} %"));
    lines.push(line("", &format!("swap used {swap}, waiting for memory {pressure}")));
    lines.push(line("disk", &say(&vitals.disk, look, capacity)));
    match &vitals.gpus {
        Reading::Known(gpus) if gpus.is_empty() => lines.push(line("gpu", "none")),
        Reading::Known(gpus) => lines.extend(gpus.iter().flat_map(|gpu| gpu_lines(gpu, look))),
        Reading::Unknown(why) => lines.push(line("gpu", &unknown(why, look))),
    }
    match &vitals.temperatures {
        Reading::Known(sensors) => {
            lines.extend(sensors.iter().map(|sensor| line("sensor", &temperature(sensor, look))));
        }
        Reading::Unknown(why) => lines.push(line("sensor", &unknown(why, look))),
    }
    lines
}

fn gpu_lines(gpu: &Gpu, look: Look) -> Vec<String> {
    let state = match &gpu.state {
        GpuState::Ready => String::new(),
        GpuState::Asleep => ", asleep".to_owned(),
        GpuState::Broken(fault, why) => format!(", {}: {}", fault.word(), look.text(why)),
    };
    let name = format!("{}{state}", look.text(&gpu.name));
    let driver = say(&gpu.driver, look, |driver| look.text(driver));
    let mut lines =
        vec![line("gpu", &name), line("  at", &format!("{}, driver {driver}", look.text(&gpu.id)))];
    lines.push(line("  memory", &format!("{}{}", say(&gpu.memory, look, capacity), pool(&gpu.pool, look))));
    let sensors = &gpu.sensors;
    let percent = |value: &u32| format!("{value} %");
    let mut work = vec![format!("busy {}", say(&sensors.busy, look, percent))];
    let watts = |reading: &Reading<f32>| reading.known().map(|watts| format!("{watts:.0} W"));
    match (watts(&sensors.power), watts(&sensors.power_cap)) {
        (Some(power), Some(cap)) => work.push(format!("{power} of {cap}")),
        (Some(power), None) => work.push(power),
        (None, _) => {}
    }
    if let Some(clock) = sensors.clock.known() {
        work.push(format!("{clock} MHz"));
    }
    if let Some(fan) = sensors.fan.known() {
        work.push(format!("fan {fan} %"));
    }
    lines.push(line("  work", &work.join(", ")));
    if let Some(causes) = sensors.throttle.known().filter(|causes| !causes.is_empty()) {
        let words: Vec<&str> = causes.iter().map(|cause| cause.word()).collect();
        lines.push(line("  slowed by", &words.join(", ")));
    }
    match &sensors.temperatures {
        Reading::Known(sensors) => {
            lines.extend(sensors.iter().map(|sensor| line("  sensor", &temperature(sensor, look))));
        }
        Reading::Unknown(why) => lines.push(line("  sensor", &unknown(why, look))),
    }
    for process in gpu.processes.known().into_iter().flatten() {
        let memory = say(&process.memory, look, |held| bytes(held.0));
        let who = format!("{memory} by {} ({})", look.text(&named(&process.name)), process.pid);
        lines.push(line("  held", &who));
    }
    lines
}

fn pool(pool: &Pool, look: Look) -> String {
    match pool {
        Pool::Discrete { reserved: Some(reserved) } if reserved.0 > 0 => {
            format!(", {} more kept by the driver", bytes(reserved.0))
        }
        Pool::Discrete { .. } => String::new(),
        Pool::Unified { carve_out, gtt, limited_by } => format!(
            ", one pool with RAM: {} set aside, {} mappable, limited by {}",
            bytes(carve_out.total.0),
            bytes(gtt.total.0),
            limited_by.word()
        ),
        Pool::Unknown(why) => format!(", pool {}", unknown(why, look)),
    }
}

fn temperature(sensor: &Temperature, look: Look) -> String {
    let limit = sensor.limit.map_or_else(String::new, |limit| format!(" of {}", celsius(limit.0, look)));
    format!("{} {}{limit}", look.text(&sensor.sensor), celsius(sensor.value.0, look))
}

fn capacity(capacity: &Capacity) -> String {
    format!("{} free of {}", bytes(capacity.available.0), bytes(capacity.total.0))
}

fn say<T>(reading: &Reading<T>, look: Look, text: impl FnOnce(&T) -> String) -> String {
    match reading {
        Reading::Known(value) => text(value),
        Reading::Unknown(why) => unknown(why, look),
    }
}

fn unknown(why: &str, look: Look) -> String {
    format!("unknown ({})", look.text(why))
}

fn engines(engines: &[Engine], look: Look) -> Vec<String> {
    let mut lines = Vec::new();
    let mut table = Table::default()
        .left("ENGINE", Rank::Essential)
        .left("STATE", Rank::Essential)
        .left("MODEL", Rank::Essential)
        .left("IS", Rank::Important)
        .right("CONTEXT", Rank::Useful)
        .right("BUSY", Rank::Useful)
        .right("HOLDS", Rank::Useful)
        .left("HEALTH", Rank::Important);
    let (mut rows, mut reasons) = (0, Vec::new());
    // A stored model that rests stands in the store's table.
    for engine in engines.iter().filter(|engine| !engine.rests()) {
        let (state, reason) = match &engine.state {
            EngineState::Up => ("up", None),
            EngineState::Starting => ("starting", None),
            EngineState::Down(why) => ("down", Some(why)),
        };
        let version = engine.version.as_deref().map_or_else(String::new, |version| format!(" {version}"));
        let name = look.text(&format!("{}{version}", engine.name));
        reasons
            .extend(reason.map(|why| format!("# {} is down: {}", look.text(&engine.name), look.text(why))));
        let (state, paint) = paint::state(state, look);
        let held: Vec<&Replica> =
            engine.replicas.iter().filter(|replica| replica.state != ReplicaState::Available).collect();
        if held.is_empty() {
            let on_disk = engine.replicas.len();
            let models = if on_disk == 0 { UNKNOWN.to_owned() } else { format!("{on_disk} on disk") };
            let dash = || Cell::text(UNKNOWN);
            table.row([
                Cell::text(name),
                Cell::Text(state, paint),
                Cell::text(models),
                dash(),
                dash(),
                dash(),
                dash(),
                dash(),
            ]);
            rows += 1;
            continue;
        }
        for replica in held {
            table.row([
                Cell::text(name.clone()),
                Cell::Text(state.clone(), paint),
                Cell::text(look.text(replica.model.as_str())),
                Cell::text(replica.state.word()),
                Cell::text(known(replica.context, context)),
                Cell::text(busy(replica)),
                Cell::text(holds(replica)),
                Cell::text(replica.health.word()),
            ]);
            rows += 1;
            reasons.extend(replica.health.why().map(|why| {
                format!(
                    "# {} is {}: {}",
                    look.text(replica.model.as_str()),
                    replica.health.word(),
                    look.text(why)
                )
            }));
            if let ReplicaState::Failed(why) = &replica.state {
                reasons.push(format!("# {} failed: {}", look.text(replica.model.as_str()), look.text(why)));
            }
        }
    }
    if rows > 0 {
        lines.push(String::new());
        lines.extend(table.lines(look));
    }
    lines.extend(reasons);
    lines
}

fn busy(replica: &Replica) -> String {
    match (replica.busy, replica.slots) {
        (None, None) => UNKNOWN.to_owned(),
        (busy, slots) => format!("{}/{}", known(busy, |n| n.to_string()), known(slots, |n| n.to_string())),
    }
}

/// `17.2 GiB GPU + 1.1 GiB RAM`, with `~` in front of what is only predicted.
fn holds(replica: &Replica) -> String {
    let Some(memory) = replica.memory else { return UNKNOWN.to_owned() };
    let parts = [(memory.device, "GPU"), (memory.host, "RAM")];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(held, _)| held.0 > 0)
        .map(|(held, of)| format!("{} {of}", bytes(held.0)))
        .collect();
    let sign = if memory.measured { "" } else { "~" };
    if parts.is_empty() { UNKNOWN.to_owned() } else { format!("{sign}{}", parts.join(" + ")) }
}

fn stored(store: &Store, look: Look) -> Vec<String> {
    if store.models.is_empty() {
        return Vec::new();
    }
    let mut table = Table::default()
        .left("ON DISK", Rank::Essential)
        .right("SIZE", Rank::Important)
        .left("QUANT", Rank::Useful)
        .right("PARAMS", Rank::Useful)
        .right("CONTEXT", Rank::Useful)
        .left("ARCHITECTURE", Rank::Extra)
        .left("SHA-256", Rank::Extra);
    let mut broken = Vec::new();
    for model in &store.models {
        let word = |text: Option<&String>| look.text(&text.map_or_else(|| UNKNOWN.to_owned(), String::clone));
        table.row([
            Cell::text(look.text(&match &model.served_as {
                Some(name) => format!("{} (as {name})", model.model),
                None => model.model.to_string(),
            })),
            Cell::text(bytes(model.size.0)),
            Cell::text(word(model.quantisation.as_ref())),
            Cell::text(known(model.parameters, parameters)),
            Cell::text(known(model.trained_context, context)),
            Cell::text(word(model.architecture.as_ref())),
            Cell::text(known(model.digest.as_ref(), |digest| digest.as_str()[..12].to_owned())),
        ]);
        broken.extend(
            model
                .broken
                .as_ref()
                .map(|why| format!("# {} is broken: {}", look.text(model.model.as_str()), look.text(why))),
        );
    }
    let mut lines = vec![String::new()];
    lines.extend(table.lines(look));
    lines.extend(broken);
    lines
}
