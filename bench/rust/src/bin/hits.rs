//! How many accesses find their user in memory: the engine's policy beside an exact LRU of users.
//!
//!     cargo run --release --bin hits -- --states N --output FILE
//!
//! An access is one of a user, all of whose read states are loaded if he is not resident. A user who
//! has more than there is room for stays until the next one is loaded, of the engine and of the LRU
//! alike: in the community's history with room for 1 %, 22 users are so large, and make most of the accesses.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;
use lru::LruCache;
use rand::RngExt;
use rand_distr::{Distribution, Zipf};
use read_states_bench::arguments::Arguments;
use read_states_bench::measurement::{Measurement, append};
use read_states_bench::world::{random, snowflake};
use read_states_engine::Policy;
use read_states_engine::batch::{BatchBuilder, Entry, Row};
use read_states_engine::engine::{Config, Engine};
use read_states_engine::id::Channel;
use read_states_engine::now::Now;
use read_states_engine::read::Found;
use read_states_engine::read_state::ReadState;

const TRACE: &str = "../../test/fixtures/community-2018-2021.tsv.gz";

/// Users in the order in which they are accessed, and the read states of each.
struct Accesses {
    name: String,
    users: Vec<u32>,
    sizes: Vec<u32>,
}

fn main() {
    let arguments = Arguments::parse();
    let users = (arguments.states / 50).max(1_000) as u32;
    let mut results = vec![];
    println!(
        "{:<24}{:>9}{:>12}{:>12}{:>12}",
        "hits, %", "capacity", "exact LRU", ":clock", ":lru"
    );
    let mut all = vec![zipf(users, 0.0), zipf(users, 0.2)];
    // Its users with thousands of channels are loaded over and over: it takes minutes.
    if arguments.states >= 1_000_000 {
        all.push(community());
    }
    for accesses in all {
        let states: u64 = accesses.sizes.iter().map(|size| u64::from(*size)).sum();
        for percent in [1, 10, 50] {
            let capacity = (states * percent / 100) as usize;
            let exact = exact_lru(&accesses, capacity);
            let clock = engine(&accesses, capacity, Policy::Clock);
            let lru = engine(&accesses, capacity, Policy::Lru);
            println!(
                "{:<24}{percent:>7} %{exact:>12.2}{clock:>12.2}{lru:>12.2}",
                accesses.name
            );
            let subjects = ["exact LRU of users", "ReadStates", "ReadStates, :lru"];
            for (subject, value) in subjects.into_iter().zip([exact, clock, lru]) {
                results.push(Measurement {
                    part: "hits".into(),
                    work: format!("{}, room for {percent} %", accesses.name),
                    subject: subject.into(),
                    states,
                    threads: 1,
                    metric: "% hits".into(),
                    value,
                    ..Measurement::default()
                });
            }
        }
    }
    if let Some(output) = arguments.output {
        append(&output, &results).expect("the output can be written");
    }
}

/// The community's history: who sends a message reads the channel, who is mentioned gets a mention.
fn community() -> Accesses {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TRACE);
    let file = File::open(path).expect("the trace");
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut channels: Vec<HashSet<String>> = vec![];
    let mut participants: HashMap<String, Vec<String>> = HashMap::new();
    let mut users = vec![];
    for line in BufReader::new(GzDecoder::new(file)).lines() {
        let line = line.expect("text");
        if line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split('\t').collect();
        let all = participants.entry(fields[2].to_owned()).or_default();
        let everybody = all.join(",");
        let mentioned = match fields[4] {
            "*" => &everybody,
            some => some,
        };
        let named = mentioned.split(',').filter(|user| !user.is_empty());
        for user in std::iter::once(fields[3]).chain(named) {
            if !all.iter().any(|other| other == user) {
                all.push(user.to_owned());
            }
            let next = numbers.len() as u32;
            let user = *numbers.entry(user.to_owned()).or_insert(next);
            if user == next {
                channels.push(HashSet::new());
            }
            channels[user as usize].insert(fields[2].to_owned());
            users.push(user);
        }
    }
    Accesses {
        name: "community".into(),
        users,
        sizes: channels.iter().map(|set| set.len() as u32).collect(),
    }
}

/// Users of 50 read states, the next more often than the one after; and from time to time
/// everybody once, so that this is a `swept` part of the accesses.
fn zipf(count: u32, swept: f64) -> Accesses {
    let mut random = random(5);
    let distribution = Zipf::new(f64::from(count), 0.9).expect("it is one");
    let mut users = vec![];
    // Who is popular is no matter of the id.
    let mut names: Vec<u32> = (0..count).collect();
    for at in (1..names.len()).rev() {
        names.swap(at, random.random_range(0..=at));
    }
    let between = if swept > 0.0 {
        (f64::from(count) * (1.0 - swept) / swept) as u32
    } else {
        4 * count
    };
    for _round in 0..5 {
        for _ in 0..between {
            let rank = distribution.sample(&mut random) as u32 - 1;
            users.push(names[rank as usize]);
        }
        if swept > 0.0 {
            users.extend(0..count);
        }
    }
    Accesses {
        name: if swept > 0.0 {
            "zipf 0.9, with sweeps"
        } else {
            "zipf 0.9"
        }
        .into(),
        users,
        sizes: vec![50; count as usize],
    }
}

fn exact_lru(accesses: &Accesses, capacity: usize) -> f64 {
    let mut cache = LruCache::unbounded();
    let (mut held, mut hits) = (0, 0);
    for user in &accesses.users {
        if cache.get(user).is_some() {
            hits += 1;
            continue;
        }
        let size = accesses.sizes[*user as usize] as usize;
        cache.put(*user, size);
        held += size;
        // Who was just loaded stays, as with the engine.
        while held > capacity
            && cache.len() > 1
            && let Some((_, size)) = cache.pop_lru()
        {
            held -= size;
        }
    }
    share(hits, accesses)
}

fn engine(accesses: &Accesses, capacity: usize, policy: Policy) -> f64 {
    let engine = Arc::new(Engine::new(Config {
        capacity,
        policy,
        ..Config::default()
    }));
    let now = Now::default();
    let channel = |id| Channel { kind: 0, id };
    let mut hits = 0;
    for user in &accesses.users {
        let id = snowflake(u64::from(*user));
        if let Ok(Found::Resident(_)) = engine.get(id, channel(0)) {
            hits += 1;
            continue;
        }
        let mut page = BatchBuilder::new(1);
        for n in 0..accesses.sizes[*user as usize] {
            page.push(&Entry::Row(Row {
                user: id,
                channel: channel(u64::from(n)),
                version: 1,
                writer: 0,
                state: ReadState::default(),
            }));
        }
        let mut load = engine.begin_load(0, 1).load.expect("he is wanted");
        load.add(&page.finish()).expect("a batch");
        load.finish(now);
        // Who waited reads.
        let found = engine.get(id, channel(0));
        assert!(matches!(found, Ok(Found::Resident(_))));
    }
    share(hits, accesses)
}

fn share(hits: usize, accesses: &Accesses) -> f64 {
    100.0 * hits as f64 / accesses.users.len() as f64
}
