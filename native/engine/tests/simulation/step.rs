//! What a seed says: how the world is made, and what happens in it, step by step.
//!
//! A step names a load, a commit or a file by a number that is taken modulo how many there are, so
//! that steps can be left out and the rest still happens.

use fastrand::Rng;
use read_states_engine::Policy;
use read_states_engine::engine::UserOperation;
use read_states_engine::id::{Channel, Id};
use read_states_engine::list::Query;
use read_states_engine::operation::{Change, Operation};
use read_states_engine::read_state::ReadState;
use read_states_stores::versioned::REMEMBERED;

/// Users whom operations are drawn for.
pub const USERS: Id = 6;
/// Users to whom each batch does the same, first and last, and nobody else does anything: so they are equal at
/// every moment, unless a batch was cut in two.
pub const WITNESSES: [Id; 2] = [USERS, USERS + 1];
/// Counters of a read state.
pub const COUNTERS: usize = 2;
/// Partitions of the engine.
pub const PARTITIONS: usize = 2;
/// Microseconds from the first change to the commit.
pub const COMMIT_AFTER: u64 = 1_000;
/// Most steps of a history.
const STEPS: usize = 300;
/// Most operations of a large batch: the journal takes room in pieces of a quarter of a segment, for some 300 of them.
const LARGE: usize = 600;

/// How a world is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Who is evicted first.
    pub policy: Policy,
    /// Most segments of the journal, if there is one.
    pub journal: Option<usize>,
    /// Bound on the dirty memory, also of what is recovered at once.
    pub dirty_memory: usize,
    /// Entries in a page of the store.
    pub page: usize,
    /// What happens to the files at a crash.
    pub disk: Disk,
    /// Whom the store cannot load, until everything is to be committed.
    pub unloadable: Option<Id>,
}

/// What happens to the files of the journal, apart from the process that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Nothing.
    Whole,
    /// The power is cut, or the process dies in the middle of a call.
    Cut,
    /// They are damaged.
    Damaged,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// One operation.
    Apply(UserOperation),
    /// A batch, in which the witnesses put this message.
    ApplyAll(Vec<UserOperation>, Id),
    /// So many puts that segments are filled, one by one or in a batch.
    Burst {
        user: Id,
        channel: Channel,
        puts: u64,
        batch: bool,
    },
    /// Reads, of one user.
    Get(Id, Channel),
    /// The same.
    List(Id, Query),
    /// The same.
    Total(Id),
    /// Of a partition.
    BeginLoad(usize),
    /// Reads a page of the store, without finishing the load.
    ReadPage(usize),
    /// Hands a load a page that is cut: it has failed.
    ReadBadPage(usize),
    /// Reads the pages that are left, and finishes it.
    FinishLoad(usize),
    /// The store does not answer.
    FailLoad(usize),
    /// Of a partition, with so many entries.
    BeginCommit(usize, usize),
    /// What a commit has to do before the store is given it.
    WriteAhead(usize),
    /// The store is given it, and does not answer yet.
    Write(usize),
    /// It answers that it has it.
    Succeed(usize),
    /// The store said no, whether it has it or not, or will have it.
    Fail(usize),
    /// The store carries out a batch that it was given long ago, whatever it answered then.
    WriteLate(usize),
    /// All of a partition is to be committed.
    Flush(usize),
    /// Microseconds.
    Wait(u64),
    /// The clock on the wall is set.
    ClockJumps(u64),
    /// Nothing happens for hours: whatever was under way is given up, and the store forgets deletes.
    HoursPass,
    /// Other bounds.
    Resize {
        capacity: usize,
        dirty_memory: usize,
    },
    /// As is done all the time beside the calls: the journal is tended and synced.
    TendJournal,
    /// No new file can be made in the journal's directory, or again it can.
    RefuseFiles(bool),
    /// The instance is stopped, with everything committed or not, and started.
    Restart { drained: bool },
    /// The engine dies. The next one has so many shards.
    Crash {
        shards: usize,
        death: Death,
        /// The store was opened anew as well: nothing late arrives any more, and it forgets deletes.
        with_store: bool,
        /// Lives in between that end before the journal is read, and when it was read.
        short_lives: [usize; 2],
    },
}

/// How the engine dies. The numbers are seeds for what happens to the files.
#[derive(Clone, Debug)]
pub enum Death {
    /// The process alone: nothing may be missing.
    Killed,
    /// In the middle of a batch, or of a single operation: it is carried out or not.
    KilledDuring(Vec<UserOperation>, u64),
    /// What was written since the last sync reaches the disk or does not, each page for itself.
    PowerCut(u64),
    /// The same while a commit is written ahead.
    PowerCutDuringWriteAhead(usize, u64),
    /// A byte of a file is another.
    Flipped(u64),
    /// A file is shorter.
    Shortened(u64),
}

/// What a seed says.
pub fn draw(seed: u64) -> (Settings, Vec<Step>) {
    let rng = &mut Rng::with_seed(seed);
    let (journal, disk) = match rng.u8(0..8) {
        0..2 => (None, Disk::Whole),
        2..4 => (Some(8), Disk::Whole),
        4 => (Some(rng.usize(2..5)), Disk::Whole),
        5..7 => (Some(rng.usize(3..9)), Disk::Cut),
        _ => (Some(rng.usize(3..9)), Disk::Damaged),
    };
    let mut settings = Settings {
        policy: rng.choice([Policy::Clock, Policy::Lru]).unwrap(),
        journal,
        dirty_memory: match rng.u8(0..4) {
            0 => rng.usize(500..20_000),
            _ => usize::MAX,
        },
        page: rng.choice([1, 3, 100]).unwrap(),
        disk,
        unloadable: None,
    };
    let steps: Vec<_> = (0..rng.usize(1..STEPS)).map(|_| step(rng, disk)).collect();
    // Last, for the sake of what seeds mean.
    settings.unloadable = (rng.u8(0..3) == 0).then(|| user(rng));
    (settings, steps)
}

fn step(rng: &mut Rng, disk: Disk) -> Step {
    let which = rng.usize(0..8);
    let partition = rng.usize(0..PARTITIONS);
    match rng.u8(0..98) {
        0..20 => Step::Apply(operation(rng)),
        20..23 => Step::ApplyAll(batch(rng, 90, 40), rng.u64(0..20)),
        23..29 => Step::Get(user(rng), channel(rng)),
        29..33 => Step::List(user(rng), query(rng)),
        33..35 => Step::Total(user(rng)),
        35..40 => Step::BeginLoad(partition),
        40..44 => Step::ReadPage(which),
        44..50 => Step::FinishLoad(which),
        50 => Step::FailLoad(which),
        51 => Step::ReadBadPage(which),
        52..58 => Step::BeginCommit(partition, rng.usize(1..30)),
        58..61 => Step::WriteAhead(which),
        61..64 => Step::Write(which),
        64..68 => Step::Succeed(which),
        68..70 => Step::Fail(which),
        70..72 => Step::WriteLate(which),
        72..74 => Step::Flush(partition),
        74..77 => Step::Wait(rng.u64(0..2 * COMMIT_AFTER)),
        77..79 => Step::Wait(6_000_000),
        79..81 => Step::ClockJumps(rng.u64(0..1_000_000)),
        // Not so far that the store forgets deletes that something late is older than: for that hours have to pass.
        81 => Step::ClockJumps(rng.u64(0..REMEMBERED - 10_000_000)),
        82..84 => Step::Resize {
            capacity: rng.usize(0..40),
            dirty_memory: match rng.bool() {
                true => usize::MAX,
                false => rng.usize(0..20_000),
            },
        },
        84..90 => Step::TendJournal,
        90..96 => match rng.u8(0..16) {
            0..2 => Step::Burst {
                user: user(rng),
                channel: channel(rng),
                puts: rng.u64(100..1_300),
                batch: rng.bool(),
            },
            2..4 => Step::HoursPass,
            4..7 => Step::RefuseFiles(rng.bool()),
            7..9 => Step::Restart {
                drained: rng.bool(),
            },
            _ => Step::Wait(COMMIT_AFTER),
        },
        _ => Step::Crash {
            shards: 1 << rng.u8(1..5),
            death: death(rng, disk),
            with_store: rng.bool(),
            short_lives: match rng.bool() {
                true => [0, 0],
                false => [rng.usize(0..2), rng.usize(0..3)],
            },
        },
    }
}

fn death(rng: &mut Rng, disk: Disk) -> Death {
    let seed = rng.u64(..);
    match (disk, rng.u8(0..4)) {
        (Disk::Whole, _) | (_, 0) => Death::Killed,
        (Disk::Cut, 1) => Death::KilledDuring(batch(rng, 9, 8), seed),
        (Disk::Cut, 2) => Death::PowerCut(seed),
        (Disk::Cut, _) => Death::PowerCutDuringWriteAhead(rng.usize(0..8), seed),
        (Disk::Damaged, 1) => Death::Shortened(seed),
        (Disk::Damaged, _) => Death::Flipped(seed),
    }
}

fn user(rng: &mut Rng) -> Id {
    rng.u64(0..USERS)
}

fn channel(rng: &mut Rng) -> Channel {
    Channel {
        kind: rng.u8(0..2),
        id: rng.u64(0..9),
    }
}

fn change(rng: &mut Rng) -> Change {
    let message = rng.u64(0..20);
    let counter = rng.u8(0..COUNTERS as u8);
    let by = match rng.u8(0..4) {
        0 => u32::MAX,
        _ => rng.u32(0..4),
    };
    match rng.u8(0..14) {
        0..4 => Change::Ack { message },
        4..8 => Change::Increment {
            message,
            counter,
            by,
        },
        8..10 => Change::Decrement {
            message,
            counter,
            by,
        },
        10..12 => Change::Put {
            state: put(message, [rng.u32(..), rng.u32(..)]),
        },
        _ => Change::Delete,
    }
}

/// A read state with these counters.
fn put(last_message_id: Id, [first, second]: [u32; COUNTERS]) -> ReadState {
    ReadState {
        last_message_id,
        counters: [first, second, 0, 0],
    }
}

fn operation(rng: &mut Rng) -> UserOperation {
    let operation = match rng.u8(0..21) {
        0 => Operation::DeleteUser,
        _ => Operation::Change {
            channel: channel(rng),
            change: change(rng),
        },
    };
    UserOperation {
        user: user(rng),
        operation,
    }
}

fn operations(rng: &mut Rng, most: usize) -> Vec<UserOperation> {
    (0..rng.usize(0..most)).map(|_| operation(rng)).collect()
}

/// Fewer operations than `most`, but one of so many batches is a large one.
fn batch(rng: &mut Rng, most: usize, one_of: u8) -> Vec<UserOperation> {
    let most = match rng.u8(0..one_of) {
        0 => LARGE,
        _ => most,
    };
    operations(rng, most)
}

/// A batch with what the witnesses do in it.
pub fn witnessed(mut operations: Vec<UserOperation>, message: Id) -> Vec<UserOperation> {
    let [first, last] = WITNESSES.map(|user| put_one(user, channel_of(message), message));
    operations.insert(0, first);
    operations.push(last);
    operations
}

fn channel_of(message: Id) -> Channel {
    Channel {
        kind: 2,
        id: message % 4,
    }
}

fn put_one(user: Id, channel: Channel, message: Id) -> UserOperation {
    let change = Change::Put {
        state: put(message, [1, 2]),
    };
    UserOperation {
        user,
        operation: Operation::Change { channel, change },
    }
}

/// The puts of a burst.
pub fn burst(user: Id, channel: Channel, puts: u64) -> Vec<UserOperation> {
    let puts = 0..puts;
    puts.map(|message| put_one(user, channel, message))
        .collect()
}

fn query(rng: &mut Rng) -> Query {
    Query {
        after: rng.bool().then(|| channel(rng)),
        limit: rng.bool().then(|| rng.usize(0..5)),
        nonzero: rng.bool().then(|| rng.usize(0..COUNTERS)),
    }
}
