//! What can be typed, and what makes no sense.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::typed(line.split_whitespace().map(OsString::from))
}

#[test]
fn the_tree_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_and_every_flag_is_in_the_manual() {
    fn walk(command: &clap::Command, path: &str, manual: &str) {
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(manual.contains(&format!("--{flag}")), "docs/meshctl.md lacks `--{flag}` of `{path}`");
        }
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            let path = format!("{path} {}", child.get_name());
            assert!(manual.contains(&path), "docs/meshctl.md lacks `{path}`");
            walk(child, &path, manual);
        }
    }
    walk(&Cli::command(), "meshctl", include_str!("../../../docs/meshctl.md"));
}

#[test]
fn watch_takes_its_seconds_only_with_an_equals_sign() {
    let watch = |line| {
        let Command::Status(args) = parse(line).expect("valid").command else { panic!("status was typed") };
        args.watch
    };
    assert_eq!(watch("meshctl status"), None);
    assert_eq!(watch("meshctl status --watch"), Some(2));
    assert_eq!(watch("meshctl status --watch=5"), Some(5));
    assert!(parse("meshctl status --watch=0").is_err());
}

#[test]
fn what_was_kept_is_typed_without_what_makes_a_new_one() {
    // Whether a new one is made, and what else was typed.
    let typed = |line: &str| {
        let command = parse(line).expect(line).command;
        if let Command::Validate(ValidateCommand { args, kept }) = command {
            return (args.is_some(), kept);
        }
        let Command::Stress(StressCommand { args, kept }) = command else { panic!("{line}") };
        (args.is_some(), kept)
    };
    for verb in ["validate", "stress"] {
        assert!(matches!(typed(&format!("meshctl {verb} list")), (false, Some(KeptCommand::List))));
        let of = |line: String| match typed(&line) {
            (false, Some(KeptCommand::Show { id })) => id,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(of(format!("meshctl {verb} show")), None);
        assert_eq!(of(format!("meshctl {verb} show 2026")).as_deref(), Some("2026"));
    }
    for line in ["meshctl validate new:8b --node msi", "meshctl stress --node msi --models list"] {
        assert!(matches!(typed(line), (true, None)), "{line}");
    }
    for more in ["--from 1b", "--to 8b", "--matrix 512:128", "--answer-tokens 600"] {
        parse(&format!("meshctl ladder run --node msi --resume 2026 {more}")).expect_err(more);
    }
    for line in ["validate", "stress", "validate new:8b", "validate list new:8b", "stress --node msi show"] {
        parse(&format!("meshctl {line}")).expect_err(line);
    }
}

#[test]
fn global_flags_stand_before_or_after_the_verb() {
    for line in ["meshctl --json status", "meshctl status -o json", "meshctl status --json"] {
        assert_eq!(parse(line).expect("valid").globals.format(), Format::Json, "{line}");
    }
}

#[test]
fn a_report_is_written_as_it_is_typed_and_other_commands_say_what_they_take() {
    for (line, format) in [
        ("meshctl ladder report", Format::Table),
        ("meshctl ladder report -o md", Format::Md),
        ("meshctl ladder report -o csv 2026", Format::Csv),
        ("meshctl -o html ladder report", Format::Html),
        ("meshctl ladder report --format html", Format::Html),
        ("meshctl ladder report --output json", Format::Json),
        ("meshctl ladder report --json", Format::Json),
    ] {
        assert_eq!(parse(line).expect(line).globals.format(), format, "{line}");
    }
    let refused = parse("meshctl status -o md").expect_err("a status is no report").to_string();
    let said = "error: --output md is not for this command, which takes table or json; md, csv and html are for \
                `meshctl ladder report`";
    assert!(refused.starts_with(said), "{refused}");
    let refused = parse("meshctl ladder report -o table").expect_err("a report is no table").to_string();
    assert!(refused.contains("which takes md, csv, json or html"), "{refused}");
    for (line, said) in [
        (
            "meshctl ladder report -o xml",
            "there is no --output `xml`; this command takes md, csv, json or html\n",
        ),
        (
            "meshctl -o xml ladder report",
            "there is no --output `xml`; this command takes md, csv, json or html\n",
        ),
        (
            "meshctl ladder list -o xml",
            "there is no --output `xml`; this command takes table or json; md, csv and html are for `meshctl ladder",
        ),
        ("meshctl status -o", "a value is required for '--output <FORM>'"),
    ] {
        let refused = parse(line).expect_err(line).to_string();
        assert!(refused.contains(said), "{line}: {refused}");
    }
}

#[test]
fn the_help_names_the_forms_and_says_what_the_time_limit_bounds() {
    let help = Cli::command().render_long_help().to_string();
    let help: Vec<&str> = help.split_whitespace().collect();
    let help = help.join(" ");
    for said in [
        "table or json [default: table]; of ladder report: md, csv, json or html",
        "each call to it [default: 10s; login: 20s; model fit: 1m]",
        "each load and unload of ladder run, eval run, validate and stress [30m], not what they measure",
    ] {
        assert!(help.contains(said), "{said}: {help}");
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for line in [
        "meshctl",
        "meshctl staus",
        "meshctl ask --mode code --model x hi",
        "meshctl token create",
        "meshctl token create --role root",
        "meshctl token create --role node --ttl 1y",
        "meshctl model load x",
        "meshctl model load x --node a --slots 0",
        "meshctl model pull x --node a --sha256 abc",
        "meshctl model pull x --node a --cancel --url http://127.0.0.1/x.gguf",
        "meshctl node show",
        "meshctl mode set code",
        "meshctl mode set code context",
        "meshctl mode set code =32K",
        "meshctl node drain",
        "meshctl model pin x",
        "meshctl plan --yes",
        "meshctl plan --what-if strix-1",
        "meshctl plan --what-if +node=a --apply",
        "meshctl mode",
        "meshctl mode test",
        "meshctl wait",
        "meshctl wait --for model=x",
        "meshctl model load ../x --node a",
        "meshctl model load x --node UPPER",
        "meshctl status --check --watch",
        "meshctl status -o md",
        "meshctl ladder list -o html",
        "meshctl -o csv ladder show",
        "meshctl ladder report -o table",
        "meshctl ladder report -o pdf",
        "meshctl validate x",
        "meshctl validate --node a",
        "meshctl validate x --node a --repetitions 0",
        "meshctl validate x --node a --contexts 0",
        "meshctl stress",
        "meshctl stress --node a --seconds 0",
        "meshctl stress --node a --pull x",
    ] {
        let code = parse(line).expect_err(line).exit_code();
        assert_eq!(code, i32::from(crate::exit::Kind::Usage.code()), "{line}");
    }
}

#[test]
fn a_change_to_plan_with_may_begin_with_a_dash() {
    let line = "meshctl plan --what-if -node=msi --what-if +node=strix-128 --what-if model=m=20GiB";
    let Command::Plan(args) = parse(line).expect("valid").command else { panic!("plan was typed") };
    assert_eq!(args.what_if, ["-node=msi", "+node=strix-128", "model=m=20GiB"]);
}

#[test]
fn durations_have_a_unit_and_bounds() {
    assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
    for text in ["5m", "5min"] {
        assert_eq!(duration(text), Ok(Duration::from_secs(300)));
    }
    assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
    for text in ["", "h", "1.5h", "-1s", "0", "367d", "99999999999999999999d", "18446744073709551615d"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn the_data_folder_follows_xdg_and_then_home() {
    let both = |name: &str| match name {
        "XDG_DATA_HOME" => Some(OsString::from("/x")),
        "HOME" => Some(OsString::from("/home/a")),
        _ => None,
    };
    assert_eq!(usual_data(both), Some("/x/modemesh".into()));
    let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/a"));
    assert_eq!(usual_data(home), Some("/home/a/.local/share/modemesh".into()));
    assert_eq!(usual_data(|_| None), None);
}
