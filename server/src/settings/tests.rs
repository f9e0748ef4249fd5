use std::collections::BTreeSet;
use std::process::Command;

use clap::{Args, CommandFactory, FromArgMatches, Parser};

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/SETTINGS.md");

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Without the environment, which is not the tests' to set.
fn try_from_flags(flags: &[&str]) -> Result<Result<Settings>, clap::Error> {
    let command = Cli::command().mut_args(|arg| arg.env(None::<&str>));
    let matches = command.try_get_matches_from(std::iter::once(&"roost").chain(flags))?;
    Ok(Cli::from_arg_matches(&matches)?.serve.settings())
}

fn from_flags(flags: &[&str]) -> Result<Settings> {
    try_from_flags(flags).unwrap()
}

fn written(dir: &tempfile::TempDir, text: &str) -> String {
    let path = dir.path().join("roost.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A setting as the settings file would write its default.
fn default_values() -> toml::Table {
    let defaults =
        Settings { advertise: Some(String::new()), secret_file: Some(PathBuf::new()), ..Settings::default() };
    toml::Table::try_from(defaults).unwrap()
}

/// How help and document write a default that is no constant, or is the absence of a value.
fn default_in_words(field: &str, help: bool) -> Option<&'static str> {
    Some(match (field, help) {
        ("cache-dir", true) => "$XDG_CACHE_HOME/roost, else ~/.cache/roost",
        ("cache-dir", false) => "`$XDG_CACHE_HOME/roost`, else `~/.cache/roost`",
        ("decode-threads", _) => "one for each core",
        ("advertise", true) => "the address listened on, or the host name where that is 0.0.0.0",
        ("secret-file", true) => "made in the first cache directory",
        ("allow", true) => "all may be read",
        ("advertise" | "secret-file" | "allow", false) => "none",
        _ => return None,
    })
}

fn default_text(field: &str, value: &toml::Value, help: bool) -> String {
    let plain = match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match default_in_words(field, help) {
        Some(words) => words.to_owned(),
        None if help => plain,
        None => format!("`{plain}`"),
    }
}

/// The row of the document's tables about a field: field, default, bounds, meaning.
fn document_row(field: &str) -> Vec<&'static str> {
    let start = format!("| `{field}` |");
    let rows: Vec<_> = DOCUMENT.lines().filter(|line| line.starts_with(&start)).collect();
    assert_eq!(rows.len(), 1, "docs/SETTINGS.md needs one row for {field}, and has {rows:?}");
    rows[0].trim_matches('|').split(" | ").map(str::trim).collect()
}

fn help_of(field: &str) -> String {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(field)).unwrap();
    let text = arg.get_long_help().or(arg.get_help()).unwrap();
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_setting_has_a_flag_a_variable_and_a_row_in_the_document() {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let mut flags = BTreeSet::new();
    for arg in command.get_arguments() {
        let flag = arg.get_long().unwrap();
        let variable = format!("ROOST_{}", flag.to_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        assert!(arg.get_help_heading().is_some(), "--{flag} stands under no heading");
        flags.insert(flag.to_owned());
    }
    assert!(flags.remove("config"));
    let defaults = default_values();
    assert_eq!(flags, defaults.keys().cloned().collect());
    for (field, value) in &defaults {
        let row = document_row(field);
        assert_eq!(row[1], default_text(field, value, false), "the default of {field} in docs/SETTINGS.md");
        let (help, default) = (help_of(field), format!("[default: {}]", default_text(field, value, true)));
        assert!(help.contains(&default), "the help of --{field} lacks {default}: {help}");
    }
    let documented = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|(f, _)| f);
    assert_eq!(documented.collect::<BTreeSet<_>>(), defaults.keys().map(String::as_str).collect());
}

#[test]
fn bounds_hold_at_their_ends_and_are_those_that_help_and_document_tell() {
    // Field, the values just outside, the values just inside.
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("capacity", &["1048575", "0%"], &["1MiB", "0.01%", "100%"]),
        ("job-grace", &["30days 1ms"], &["0s", "30days"]),
        ("revalidate", &["30days 1ms"], &["0s", "30days"]),
        ("footer-cache", &["1048575"], &["1MiB"]),
        ("memory", &["67108863"], &["64MiB", "8EiB"]),
        ("decode-threads", &["0", "1025"], &["1", "1024"]),
        ("max-streams", &["0", "65537"], &["1", "65536"]),
        ("max-maps", &["0", "1048577"], &["1", "1048576"]),
        ("drain-timeout", &["1h 1ms"], &["0s", "1h"]),
        ("origin-concurrency", &["0", "4097"], &["1", "4096"]),
        ("request-timeout", &["99ms", "1h 1ms"], &["100ms", "1h"]),
        ("connect-timeout", &["9ms", "10m 1ms"], &["10ms", "10m"]),
        ("retries", &["101"], &["0", "100"]),
        ("retry-timeout", &["1h 1ms"], &["0s", "1h"]),
        ("footer-read", &["1023", "16777217"], &["1KiB", "16MiB"]),
        ("piece-bytes", &["65535", "1073741825"], &["64KiB", "1GiB"]),
        ("coalesce-gap", &["67108865"], &["0", "64MiB"]),
    ];
    for (field, outside, inside) in cases {
        for value in *inside {
            from_flags(&[&format!("--{field}={value}")]).unwrap_or_else(|error| panic!("{field} {value}: {error}"));
        }
        for value in *outside {
            let message = from_flags(&[&format!("--{field}={value}")]).unwrap_err().to_string();
            let (start, bounds) = message.split(';').next().unwrap().split_once(": must be ").unwrap();
            assert_eq!(start, format!("{field} is {value}"));
            let row = document_row(field);
            assert!(
                row[2].starts_with(bounds),
                "docs/SETTINGS.md gives {field} the bounds {:?}, not {bounds:?}",
                row[2]
            );
            assert!(help_of(field).contains(bounds), "the help of --{field} lacks {bounds:?}");
        }
    }
    for field in default_values().keys() {
        let bounds = document_row(field)[2];
        let tried = cases.iter().any(|case| case.0 == field);
        assert_eq!(bounds.starts_with(|c: char| c.is_ascii_digit()), tried, "{field} has the bounds {bounds:?}");
    }
}

#[test]
fn defaults_are_valid_and_survive_a_settings_file() {
    let dir = tempfile::tempdir().unwrap();
    let defaults = Settings { cache_dir: vec![dir.path().into()], ..Settings::default() };
    defaults.check().unwrap();
    let text = toml::to_string(&defaults).unwrap();
    assert_eq!(Settings::from_file(written(&dir, &text).as_ref()).unwrap(), defaults);
}

#[test]
fn the_example_in_the_document_is_valid() {
    let (_, rest) = DOCUMENT.split_once("```toml\n").unwrap();
    let settings = Settings::from_toml(rest.split_once("```").unwrap().0).unwrap();
    settings.check().unwrap();
    assert_eq!(settings.capacity, Amount::Percent(90.0));
    assert_eq!(settings.min_free, Amount::Bytes(50 * GIB));
    assert_eq!(settings.job_grace, Duration::from_mins(30));
    assert_eq!(settings.log_format, LogFormat::Json);
}

#[test]
fn every_flag_reaches_its_setting() {
    let changed = from_flags(&[
        "--listen=[::1]:0",
        "--http=localhost:9",
        "--advertise=here",
        "--socket=/r.sock",
        "--socket-mode=600",
        "--insecure",
        "--secret-file=/s",
        "--cache-dir=/a,/b",
        "--cache-dir=/c",
        "--capacity=2GiB",
        "--min-free=1%",
        "--verify=always",
        "--compression=lz4",
        "--job-grace=1s",
        "--revalidate=2s",
        "--footer-cache=2MiB",
        "--memory=65MiB",
        "--decode-threads=3",
        "--max-streams=4",
        "--max-maps=5",
        "--drain-timeout=5s",
        "--allow=s3://a/,s3://b/",
        "--origin-concurrency=6",
        "--request-timeout=7s",
        "--connect-timeout=8s",
        "--retries=9",
        "--retry-timeout=10s",
        "--footer-read=11KiB",
        "--piece-bytes=128KiB",
        "--coalesce-gap=13KiB",
        "--ahead-bandwidth=14KiB",
        "--log=debug",
        "--log-format=json",
    ]);
    let settings = Settings {
        listen: "[::1]:0".into(),
        http: "localhost:9".into(),
        advertise: Some("here".into()),
        socket: "/r.sock".into(),
        socket_mode: "600".into(),
        insecure: true,
        secret_file: Some("/s".into()),
        cache_dir: vec!["/a".into(), "/b".into(), "/c".into()],
        capacity: Amount::Bytes(2 * GIB),
        min_free: Amount::Percent(1.0),
        verify: Verify::Always,
        compression: Compression::Lz4,
        job_grace: Duration::from_secs(1),
        revalidate: Duration::from_secs(2),
        footer_cache: 2 * MIB,
        memory: 65 * MIB,
        decode_threads: 3,
        max_streams: 4,
        max_maps: 5,
        drain_timeout: Duration::from_secs(5),
        allow: vec!["s3://a/".into(), "s3://b/".into()],
        origin_concurrency: 6,
        request_timeout: Duration::from_secs(7),
        connect_timeout: Duration::from_secs(8),
        retries: 9,
        retry_timeout: Duration::from_secs(10),
        footer_read: 11 * KIB,
        piece_bytes: 128 * KIB,
        coalesce_gap: 13 * KIB,
        ahead_bandwidth: 14 * KIB,
        log: "debug".into(),
        log_format: LogFormat::Json,
    };
    assert_eq!(changed.unwrap(), settings);
}

const CHILD: &str = "settings::tests::show_settings_to_the_parent";

/// Not a test by itself: run in a process of its own, as the environment of this one is shared by all tests.
#[test]
#[ignore = "run by flags_win_over_the_environment_and_that_over_the_file"]
fn show_settings_to_the_parent() {
    let settings = Cli::parse_from(["roost", "--retries=3"]).serve.settings().unwrap();
    let Settings { retries, max_streams, memory, insecure, allow, .. } = settings;
    println!("{retries} {max_streams} {memory} {insecure} {allow:?}|");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir, "retries = 1\nmax-streams = 1\nmemory = \"100MiB\"");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env("ROOST_CONFIG", &path)
        .env("ROOST_RETRIES", "2")
        .env("ROOST_MAX_STREAMS", "2")
        .env("ROOST_INSECURE", "yes")
        .env("ROOST_ALLOW", "s3://a/,s3://b/")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(r#"3 2 104857600 true ["s3://a/", "s3://b/"]|"#), "{text}");
}

#[test]
fn a_bad_settings_file_is_named_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    for (text, named) in [
        ("capcity = 1", "unknown field `capcity`"),
        ("retries = 1\ncapacity = \"12Q\"", "\"12Q\" is no size"),
        ("memory = -1", "\"-1\" is no size"),
        ("memory = 1.5", "invalid type: floating point"),
        ("job-grace = 30", "\"30\" is no duration: time unit needed"),
        ("job-grace = \"soon\"", "\"soon\" is no duration"),
        ("job-grace = true", "expected a duration such as \"30s\""),
        ("verify = \"never\"", "`first` or `always`"),
    ] {
        let path = written(&dir, text);
        let message = from_flags(&["--config", &path]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("settings file {path}: ")), "{message}");
        assert!(message.contains(&format!("line {}", text.lines().count())), "{message}");
        assert!(message.contains(named), "{message}");
    }
    let absent = dir.path().join("absent.toml");
    let message = from_flags(&["--config", absent.to_str().unwrap()]).unwrap_err().to_string();
    assert!(message.contains("absent.toml: No such file"), "{message}");
}

#[test]
fn all_that_is_wrong_is_named_at_once() {
    let message = from_flags(&["--retries=101", "--memory=1MiB", "--http=nowhere"]).unwrap_err().to_string();
    for part in ["http is nowhere", "retries is 101", "memory is 1MiB: must be 64MiB or more", "piece-bytes is 4MiB"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn addresses_beyond_loopback_need_insecure() {
    for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "gpu-7:1", "localhost.example.net:1", "[::ffff:10.0.0.1]:1"] {
        for flag in ["--listen", "--http"] {
            let message = from_flags(&[flag, address]).unwrap_err().to_string();
            assert!(message.contains(&format!("{} is {address}", &flag[2..])), "{message}");
            from_flags(&[flag, address, "--insecure"]).unwrap();
        }
    }
    for address in ["127.0.0.1:0", "127.1.2.3:1", "localhost:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        from_flags(&["--listen", address]).unwrap();
    }
}

#[test]
fn malformed_addresses_are_refused_even_with_insecure() {
    for (address, reason) in [
        ("8815", "no port"),
        (":8815", "no host"),
        ("127.0.0.1:", "port \"\""),
        ("127.0.0.1:65536", "65536"),
        ("127.0.0.1:-1", "port \"-1\""),
        ("::1:8815", "brackets"),
        ("[gpu]:8815", "brackets"),
        ("a b:1", "a b"),
        ("grpc://127.0.0.1:1", "scheme"),
        ("off", "no port"),
    ] {
        let message = from_flags(&["--insecure", "--listen", address]).unwrap_err().to_string();
        assert!(message.contains(address) && message.contains(reason), "{message}");
    }
    let same = from_flags(&["--listen=127.0.0.1:1", "--http=127.0.0.1:1"]).unwrap_err();
    assert!(same.message().contains("must differ from listen"), "{same}");
    from_flags(&["--listen=127.0.0.1:0", "--http=127.0.0.1:0"]).unwrap();
}

#[test]
fn http_can_be_off() {
    assert_eq!(from_flags(&["--http=off"]).unwrap().http_address(), None);
    assert_eq!(from_flags(&[]).unwrap().http_address(), Some("127.0.0.1:8816"));
}

#[test]
fn clients_are_told_an_address_they_can_use() {
    let advertised = |advertise: Option<&str>, bound: &str| {
        let settings = Settings { advertise: advertise.map(str::to_owned), ..Settings::default() };
        settings.check().unwrap();
        settings.advertised(bound.parse().unwrap())
    };
    assert_eq!(advertised(None, "127.0.0.1:5"), "127.0.0.1:5");
    assert_eq!(advertised(None, "[::1]:5"), "[::1]:5");
    assert_eq!(advertised(Some("gpu-7"), "0.0.0.0:5"), "gpu-7:5");
    assert_eq!(advertised(Some("[fd00::7]"), "0.0.0.0:5"), "[fd00::7]:5");
    assert_eq!(advertised(Some("gpu-7:80"), "0.0.0.0:5"), "gpu-7:80");
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(advertised(None, "0.0.0.0:5"), format!("{name}:5"));
    for wrong in ["grpc://gpu-7", "gpu-7:0", "::1", "", "gpu 7"] {
        let message = from_flags(&["--advertise", wrong, "--retries=1"]).unwrap_err().to_string();
        assert!(message.contains("advertise is"), "{message}");
    }
}

#[test]
fn cache_directories_stand_apart() {
    let default = |xdg: Option<&str>, home: Option<&str>| {
        default_cache_dir(|name| if name == "HOME" { home } else { xdg }.map(PathBuf::from))
    };
    assert_eq!(default(Some("/x"), Some("/home/a")), Some("/x/roost".into()));
    assert_eq!(default(Some("relative"), Some("/home/a")), Some("/home/a/.cache/roost".into()));
    assert_eq!(default(None, Some("/home/a")), Some("/home/a/.cache/roost".into()));
    assert_eq!(default(None, Some("")), None);

    let none = Settings { cache_dir: Vec::new(), ..Settings::default() };
    assert!(none.check().unwrap_err().message().contains("name a directory"));
    for (dirs, fine) in
        [("/a,/b", true), ("/a,/ab", true), ("/a,/a", false), ("/a,/a/b", false), ("/a/b,/c,/a/", false)]
    {
        let result = from_flags(&["--cache-dir", dirs]);
        assert_eq!(result.is_ok(), fine, "{dirs}: {result:?}");
    }
}

#[test]
fn allowed_prefixes_are_urls_and_logs_have_levels() {
    from_flags(&[
        "--allow=s3://b/,https://example.org,file:///data/,/data,s3://",
        "--log=warn,roost_server::cache=trace",
    ])
    .unwrap();
    for allow in ["bucket/path", "s3//b", "bucket:path"] {
        let message = from_flags(&["--allow", allow]).unwrap_err().to_string();
        assert!(message.contains(&format!("allow is {allow}")), "{message}");
    }
    for log in ["a=b=c", "roost=loud"] {
        let message = from_flags(&["--log", log]).unwrap_err().to_string();
        assert!(message.contains(&format!("log is {log}")), "{message}");
    }
}

#[test]
fn insecure_takes_no_value_from_the_next_argument() {
    assert!(!from_flags(&["--insecure=false"]).unwrap().insecure);
    assert!(from_flags(&["--insecure", "--retries=1"]).unwrap().insecure);
    assert!(try_from_flags(&["--insecure", "false"]).is_err());
}

#[test]
fn sizes_parse_exactly_and_show_as_they_parse() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("1.5GiB", 1_610_612_736),
        ("500MB", 500_000_000),
        ("1k", 1000),
        (" 1MiB ", MIB),
        ("18446744073709551615", u64::MAX),
        ("9007199254740993B", 9_007_199_254_740_993),
    ] {
        assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        assert_eq!(text.parse(), Ok(Amount::Bytes(bytes)));
    }
    assert_eq!(format_bytes(GIB), "1GiB");
    assert_eq!(format_bytes(1536 * MIB), "1536MiB");
    assert_eq!(format_bytes(1000), "1000");
    for text in ["", "GiB", "-1", "+1", "1.2.3", "1,5GiB", "1e9", "5XB", "0x10", ".", "1 2"] {
        assert!(parse_bytes(text).unwrap_err().contains("is no size"), "{text}");
    }
    for text in ["16EiB", "18446744073709551616", "99999999999.5EiB", "18446744073709551615KiB"] {
        assert!(parse_bytes(text).unwrap_err().contains("too large"), "{text}");
    }
}

#[test]
fn shares_resolve_against_the_whole() {
    let amount = |text: &str| text.parse::<Amount>();
    assert_eq!(amount("80%").unwrap().of(1000), 800);
    assert_eq!(amount(" 12.5 % ").unwrap().of(1000), 125);
    assert_eq!(amount("100%").unwrap().of(u64::MAX), u64::MAX);
    assert_eq!(amount("2KiB").unwrap().of(1000), 2048);
    assert_eq!(amount("12.5%").unwrap().to_string(), "12.5%");
    for text in ["101%", "-1%", "NaN%", "inf%", "%", "80%%", "a%"] {
        assert!(amount(text).unwrap_err().contains("is no percentage"), "{text}");
    }
}
