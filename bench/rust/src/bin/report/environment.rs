//! On what the figures were measured.

use std::collections::BTreeMap;
use std::process::Command;

use procfs::{CpuInfo, Current, Meminfo};
use serde::Serialize;

/// The machine of now, and the programs on it.
pub struct Environment {
    pub machine: Machine,
    /// By name, of those that were found.
    pub versions: BTreeMap<String, String>,
}

#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
}

/// How programs say their version.
const PROGRAMS: [(&str, &[&str]); 8] = [
    ("rustc", &["--version"]),
    (
        "erl",
        &[
            "-noshell",
            "-eval",
            "io:put_chars([\"Erlang/OTP \", erlang:system_info(otp_release)]), halt().",
        ],
    ),
    ("elixir", &["--short-version"]),
    ("go", &["version"]),
    ("redis-server", &["--version"]),
    ("memcached", &["--version"]),
    ("postgres", &["--version"]),
    ("psql", &["--version"]),
];

/// Peers among the crates, and clients of peers.
const CRATES: [&str; 8] = [
    "criterion",
    "fjall",
    "lru",
    "memcache",
    "moka",
    "postgres",
    "quick_cache",
    "redis",
];

impl Environment {
    pub fn of_now() -> Self {
        let mut versions = BTreeMap::new();
        for (program, arguments) in PROGRAMS {
            if let Some(version) = first_line(program, arguments) {
                versions.insert(program.into(), version);
            }
        }
        versions.extend(crates());
        versions.extend(go_modules());
        Environment {
            machine: Machine::this(),
            versions,
        }
    }
}

impl Machine {
    fn this() -> Self {
        let cpus = CpuInfo::current().expect("a Linux machine");
        let memory = Meminfo::current().expect("a Linux machine");
        Machine {
            cpu: processor(&cpus),
            cores: cpus.num_cores(),
            memory_mib: memory.mem_total >> 20,
            kernel: first_line("uname", &["-sr"]).unwrap_or_default(),
        }
    }
}

/// The name, and what tells generations with the same name apart.
fn processor(cpus: &CpuInfo) -> String {
    let field = |name| cpus.get_field(0, name).unwrap_or("unknown");
    let [name, family, model] = ["model name", "cpu family", "model"].map(field);
    format!("{name}, family {family}, model {model}")
}

/// What a program says first, if it is there.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let output = String::from_utf8_lossy(&output.stdout);
    output.lines().next().map(str::to_owned)
}

/// As cargo resolved them.
fn crates() -> impl Iterator<Item = (String, String)> {
    let packages = include_str!("../../../Cargo.lock").split("[[package]]");
    packages.filter_map(|package| {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name));
            Some(line?.trim_matches(['=', ' ', '"']).to_owned())
        };
        let (name, version) = (field("name")?, field("version")?);
        CRATES
            .contains(&name.as_str())
            .then(|| (format!("crate {name}"), version))
    })
}

/// What the Go service is built of.
fn go_modules() -> impl Iterator<Item = (String, String)> {
    let module = include_str!("../../../../open_loop/go_service/go.mod");
    module.lines().filter_map(|line| {
        let required = line.trim().trim_start_matches("require ");
        let (name, version) = required.split_once(" v")?;
        Some((format!("module {name}"), version.to_owned()))
    })
}
