//! How many replicas are asked, and whether a load is sure to see every commit.

use std::collections::BTreeMap;

use scylla::statement::Consistency;
use serde::Deserialize;

/// A consistency level, of those that make sense for both reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One replica of any datacentre.
    One,
    /// Two.
    Two,
    /// Three.
    Three,
    /// More than half of all replicas.
    Quorum,
    /// All of them.
    All,
    /// More than half of the replicas in our datacentre.
    LocalQuorum,
    /// One in our datacentre.
    LocalOne,
    /// More than half of the replicas in each datacentre; only for writes.
    EachQuorum,
}

impl Level {
    /// As the driver takes it.
    pub fn consistency(self) -> Consistency {
        match self {
            Level::One => Consistency::One,
            Level::Two => Consistency::Two,
            Level::Three => Consistency::Three,
            Level::Quorum => Consistency::Quorum,
            Level::All => Consistency::All,
            Level::LocalQuorum => Consistency::LocalQuorum,
            Level::LocalOne => Consistency::LocalOne,
            Level::EachQuorum => Consistency::EachQuorum,
        }
    }

    /// As the option has it.
    pub fn name(self) -> &'static str {
        match self {
            Level::One => ":one",
            Level::Two => ":two",
            Level::Three => ":three",
            Level::Quorum => ":quorum",
            Level::All => ":all",
            Level::LocalQuorum => ":local_quorum",
            Level::LocalOne => ":local_one",
            Level::EachQuorum => ":each_quorum",
        }
    }

    fn is_local(self) -> bool {
        matches!(self, Level::LocalQuorum | Level::LocalOne)
    }
}

/// The replicas of a keyspace, by datacentre; all of them under one name where the strategy knows no datacentres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication(pub BTreeMap<String, u32>);

impl Replication {
    fn all(&self) -> u32 {
        self.0.values().sum()
    }

    /// Whether there are as many replicas as a level asks for: else each request with it fails, also while all nodes are there.
    pub fn can_satisfy(&self, level: Level, datacentre: &str) -> bool {
        let all = self.all();
        match level {
            Level::Two => all >= 2,
            Level::Three => all >= 3,
            Level::LocalQuorum | Level::LocalOne => {
                self.0.get(datacentre).copied().unwrap_or(all) >= 1
            }
            Level::One | Level::Quorum | Level::All | Level::EachQuorum => all >= 1,
        }
    }

    /// Whether the replicas that answer a load have one among them that has the commit, with the nearest replicas in
    /// `datacentre`. If each datacentre has a loader of its own, then `datacentre` is any of them.
    pub fn overlap(&self, read: Level, write: Level, datacentre: &str) -> bool {
        let all = self.all();
        let local = self.0.get(datacentre).copied().unwrap_or(all);
        // Replicas of our datacentre that a level is sure to have asked, and of all.
        let asked = |level| {
            let elsewhere = all - local;
            let (here, overall) = match level {
                Level::One => (0, 1),
                Level::Two => (0, 2),
                Level::Three => (0, 3),
                Level::Quorum => (0, quorum(all)),
                Level::All => (local, all),
                Level::LocalQuorum => (quorum(local), quorum(local)),
                Level::LocalOne => (1, 1),
                Level::EachQuorum => (quorum(local), self.0.values().copied().map(quorum).sum()),
            };
            // Those that are not elsewhere must be here.
            let here: u32 = std::cmp::max(here, u32::saturating_sub(overall, elsewhere));
            (here.min(local), overall.min(all))
        };
        let (read_here, read_overall) = asked(read);
        let (write_here, write_overall) = asked(write);
        if read.is_local() || write.is_local() {
            read_here + write_here > local || read_overall + write_overall > all
        } else {
            read_overall + write_overall > all
        }
    }
}

fn quorum(replicas: u32) -> u32 {
    replicas / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::Level::*;
    use super::*;

    fn replication(datacentres: &[(&str, u32)]) -> Replication {
        let datacentres = datacentres.iter();
        Replication(
            datacentres
                .map(|(name, n)| (name.to_string(), *n))
                .collect(),
        )
    }

    #[test]
    fn one_datacentre() {
        let three = replication(&[("a", 3)]);
        let enough = [
            (LocalQuorum, LocalQuorum),
            (Quorum, Quorum),
            (Quorum, LocalQuorum),
            (One, All),
            (All, LocalOne),
            (Two, Two),
            (LocalQuorum, EachQuorum),
        ];
        for (read, write) in enough {
            assert!(three.overlap(read, write, "a"), "{read:?} {write:?}");
        }
        let too_few = [
            (One, One),
            (LocalOne, LocalQuorum),
            (LocalQuorum, LocalOne),
            (One, Quorum),
            (Two, One),
        ];
        for (read, write) in too_few {
            assert!(!three.overlap(read, write, "a"), "{read:?} {write:?}");
        }
        assert!(replication(&[("a", 1)]).overlap(One, One, "a"));
        assert!(!replication(&[("a", 5)]).overlap(Three, Two, "a"));
    }

    #[test]
    fn a_level_needs_as_many_replicas_as_it_asks() {
        let levels = [One, Two, Three, Quorum, All, LocalQuorum, LocalOne];
        for replicas in 0..5 {
            let in_one = replication(&[("a", replicas)]);
            let in_two = replication(&[("a", 0), ("b", replicas)]);
            for level in levels {
                let asked = match level {
                    Two => 2,
                    Three => 3,
                    _ => 1,
                };
                let enough = replicas >= asked;
                assert_eq!(
                    in_one.can_satisfy(level, "a"),
                    enough,
                    "{level:?} {replicas}"
                );
                let here = !level.is_local() && enough;
                assert_eq!(in_two.can_satisfy(level, "a"), here, "{level:?} {replicas}");
            }
        }
    }

    #[test]
    fn two_datacentres() {
        let both = replication(&[("a", 3), ("b", 3)]);
        let enough = [
            (LocalQuorum, LocalQuorum),
            (Quorum, Quorum),
            (LocalQuorum, EachQuorum),
            (LocalOne, All),
        ];
        for (read, write) in enough {
            assert!(both.overlap(read, write, "a"), "{read:?} {write:?}");
        }
        let too_few = [
            (LocalQuorum, Quorum),
            (Quorum, LocalQuorum),
            (LocalOne, EachQuorum),
            (Three, Three),
        ];
        for (read, write) in too_few {
            assert!(!both.overlap(read, write, "a"), "{read:?} {write:?}");
        }
    }

    /// By going through all replicas that could answer, for small clusters.
    #[test]
    fn it_is_what_trying_all_replicas_says() {
        let levels = [
            One,
            Two,
            Three,
            Quorum,
            All,
            LocalQuorum,
            LocalOne,
            EachQuorum,
        ];
        for (a, b) in [
            (1, 0),
            (2, 0),
            (3, 0),
            (4, 0),
            (1, 1),
            (2, 1),
            (1, 3),
            (3, 3),
        ] {
            let replication = if b == 0 {
                replication(&[("a", a)])
            } else {
                replication(&[("a", a), ("b", b)])
            };
            let here = (1u32 << a) - 1;
            let all = (1u32 << (a + b)) - 1;
            let satisfies = |level: Level, set: u32| {
                let [in_a, in_all] = [set & here, set].map(u32::count_ones);
                let in_b = in_all - in_a;
                match level {
                    One => in_all >= 1,
                    Two => in_all >= 2.min(a + b),
                    Three => in_all >= 3.min(a + b),
                    Quorum => in_all >= quorum(a + b),
                    All => set == all,
                    LocalQuorum => in_a >= quorum(a),
                    LocalOne => in_a >= 1,
                    EachQuorum => in_a >= quorum(a) && (b == 0 || in_b >= quorum(b)),
                }
            };
            for read in levels {
                for write in levels {
                    let sets = |level| (0..=all).filter(move |set| satisfies(level, *set));
                    let overlap = sets(read).all(|r| sets(write).all(|w| r & w != 0));
                    assert_eq!(
                        replication.overlap(read, write, "a"),
                        overlap,
                        "{a}+{b} {read:?} {write:?}"
                    );
                }
            }
        }
    }
}
