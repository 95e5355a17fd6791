//! Where the machine's power comes from: `/sys/class/power_supply`.

use super::{read_number, read_text, shortened};
use mesh_core::machine::{Power, Reading};
use std::path::{Path, PathBuf};

/// A machine with more supplies than this is not read to the end. Docks add half a dozen ports.
const SUPPLY_LIMIT: usize = 64;

/// The wall while any adapter is online; else what the batteries say of themselves. A machine without a battery
/// runs on the wall, whatever it does not say.
pub(super) fn power(root: &Path) -> Reading<Power> {
    let class = root.join("sys/class");
    if !class.exists() {
        return Reading::unknown("/sys/class is not visible to the agent");
    }
    let (mut batteries, mut doubts) = (Vec::new(), Vec::new());
    for folder in supplies(&class.join("power_supply")) {
        match supply(&folder) {
            Ok(Supply::Adapter { online: true }) => return Reading::Known(Power::Mains),
            Ok(Supply::Adapter { online: false } | Supply::Other) => {}
            Ok(Supply::Battery(battery)) => batteries.push(battery),
            Err(reason) => doubts.push(reason),
        }
    }
    if batteries.is_empty() {
        return match doubts.into_iter().next() {
            // It may be a battery that says nothing.
            Some(doubt) => Reading::Unknown(doubt),
            None => Reading::Known(Power::Mains),
        };
    }
    if batteries.iter().any(|battery| battery.gives) {
        return Reading::Known(Power::Battery(left(&batteries)));
    }
    if batteries.iter().any(|battery| battery.takes) {
        // Power comes from somewhere, though no adapter says so.
        return Reading::Known(Power::Mains);
    }
    let said = batteries.into_iter().map(|battery| battery.status).next();
    Reading::unknown(format!(
        "no adapter is online, and the battery's status is `{}`",
        shortened(&said.unwrap_or_default())
    ))
}

#[derive(Debug)]
enum Supply {
    Adapter {
        online: bool,
    },
    Battery(Battery),
    /// Not this machine's: the battery of a mouse, a port that gives power away.
    Other,
}

#[derive(Debug)]
struct Battery {
    /// It is being emptied.
    gives: bool,
    /// It is charged or held.
    takes: bool,
    status: String,
    percent: Option<u32>,
}

fn supply(folder: &Path) -> Result<Supply, String> {
    // Drivers of mice, phones and headsets set this; a missing file means the system.
    if read_text(&folder.join("scope")).is_ok_and(|scope| scope == "Device") {
        return Ok(Supply::Other);
    }
    let kind = read_text(&folder.join("type"))?;
    match kind.as_str() {
        "Mains" | "USB" => {
            let online: u32 = read_number(&folder.join("online"))?;
            // 2 = online, programmable voltage.
            Ok(Supply::Adapter { online: online > 0 })
        }
        "Battery" | "UPS" => {
            if read_number(&folder.join("present")) == Ok(0) {
                return Ok(Supply::Other);
            }
            // A battery in ruins is still a battery: what it does not say is open.
            let status = read_text(&folder.join("status")).unwrap_or_default();
            let percent = read_number(&folder.join("capacity")).ok().filter(|percent| *percent <= 100);
            let gives = status == "Discharging";
            let takes = matches!(status.as_str(), "Charging" | "Full" | "Not charging");
            Ok(Supply::Battery(Battery { gives, takes, status, percent }))
        }
        "" => Err(format!("{} is empty", folder.join("type").display())),
        // Wireless chargers and what will come.
        _ => Ok(Supply::Other),
    }
}

/// What the batteries together have left: their mean, for laptops with two have two of about one size.
fn left(batteries: &[Battery]) -> Option<u32> {
    let known: Vec<u32> = batteries.iter().filter_map(|battery| battery.percent).collect();
    let count = u32::try_from(known.len()).ok().filter(|count| *count > 0)?;
    Some(known.iter().sum::<u32>() / count)
}

fn supplies(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().take(SUPPLY_LIMIT).map(|entry| entry.path()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use Power::{Battery, Mains};
    use Reading::Known;

    /// Each supply as (folder, [(file, content)]).
    type Supplies<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)])];

    fn machine(supplies: Supplies) -> Reading<Power> {
        let root = tempfile::tempdir().expect("a temporary folder");
        let class = root.path().join("sys/class");
        std::fs::create_dir_all(class.join("net")).expect("created");
        for (name, files) in supplies {
            let folder = class.join("power_supply").join(name);
            std::fs::create_dir_all(&folder).expect("created");
            for (file, text) in *files {
                std::fs::write(folder.join(file), format!("{text}\n")).expect("written");
            }
        }
        power(root.path())
    }

    const PLUGGED: &[(&str, &str)] = &[("type", "Mains"), ("online", "1")];
    const UNPLUGGED: &[(&str, &str)] = &[("type", "Mains"), ("online", "0")];
    const EMPTYING: &[(&str, &str)] = &[("type", "Battery"), ("status", "Discharging"), ("capacity", "71")];
    const MOUSE: &[(&str, &str)] =
        &[("type", "Battery"), ("scope", "Device"), ("status", "Discharging"), ("capacity", "5")];

    #[test]
    fn a_desktop_runs_on_the_wall_even_with_a_mouse_on_battery() {
        assert_eq!(machine(&[]), Known(Mains));
        assert_eq!(machine(&[("hidpp_battery_0", MOUSE)]), Known(Mains));
        let port: &[(&str, &str)] = &[("type", "USB"), ("online", "0")];
        assert_eq!(machine(&[("ucsi-source-psy-USBC000:001", port)]), Known(Mains));
        assert!(matches!(power(Path::new("/not/there")), Reading::Unknown(_)));
    }

    #[test]
    fn a_laptop_runs_on_its_adapter_while_one_is_online_however_it_is_plugged() {
        assert_eq!(machine(&[("AC", PLUGGED), ("BAT0", EMPTYING)]), Known(Mains));
        let port: &[(&str, &str)] = &[("type", "USB"), ("online", "1")];
        assert_eq!(machine(&[("AC", UNPLUGGED), ("BAT0", EMPTYING), ("usb", port)]), Known(Mains));
        assert_eq!(
            machine(&[("AC", UNPLUGGED), ("BAT0", EMPTYING), ("mouse", MOUSE)]),
            Known(Battery(Some(71)))
        );
    }

    #[test]
    fn two_batteries_are_one_and_an_empty_bay_is_none() {
        let held: &[(&str, &str)] = &[("type", "Battery"), ("status", "Not charging"), ("capacity", "99")];
        let bay: &[(&str, &str)] = &[("type", "Battery"), ("present", "0"), ("capacity", "0")];
        let supplies: Supplies = &[("AC", UNPLUGGED), ("BAT0", EMPTYING), ("BAT1", held), ("BAT2", bay)];
        assert_eq!(machine(supplies), Known(Battery(Some(85))));
    }

    #[test]
    fn what_is_half_missing_is_told_as_far_as_it_goes() {
        let mute: &[(&str, &str)] = &[("type", "Mains"), ("online", "perhaps")];
        let odd: &[(&str, &str)] = &[("type", "Battery"), ("status", "Discharging"), ("capacity", "250")];
        assert_eq!(machine(&[("AC", mute), ("BAT0", odd)]), Known(Battery(None)));
        let charging: &[(&str, &str)] = &[("type", "Battery"), ("status", "Charging")];
        assert_eq!(machine(&[("AC", mute), ("BAT0", charging)]), Known(Mains));
        assert!(matches!(machine(&[("AC", mute)]), Reading::Unknown(reason) if reason.contains("perhaps")));
        let open: &[(&str, &str)] = &[("type", "Battery"), ("status", "Unknown")];
        assert!(
            matches!(machine(&[("BAT0", open)]), Reading::Unknown(reason) if reason.contains("`Unknown`"))
        );
        let empty: &[(&str, &str)] = &[("type", "")];
        assert!(
            matches!(machine(&[("BAT0", empty)]), Reading::Unknown(reason) if reason.contains("is empty"))
        );
    }
}
