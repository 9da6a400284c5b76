//! Versions: strictly growing stamps in microseconds since 1970.

use crate::batch::Version;
use crate::now::Now;

/// Hands out versions that grow strictly, whatever the clock does.
#[derive(Debug)]
pub struct Stamp {
    last: Version,
}

impl Stamp {
    /// Every version will be above `floor`.
    pub fn new(floor: Version) -> Self {
        Stamp { last: floor }
    }

    /// The next version: the time, or one above the last version if the clock is behind it.
    #[inline]
    pub fn next(&mut self, now: Now) -> Version {
        self.last = now.unix.max(self.last.saturating_add(1));
        self.last
    }

    /// The version that was handed out last, or what all are above.
    pub fn last(&self) -> Version {
        self.last
    }

    /// Every further version will be above `version`, which a store returned.
    pub fn raise(&mut self, version: Version) {
        self.last = self.last.max(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix: u64) -> Now {
        Now { monotonic: 0, unix }
    }

    #[test]
    fn versions_follow_the_clock_and_grow_when_it_stands_or_goes_back() {
        let mut stamp = Stamp::new(100);
        assert_eq!(stamp.next(at(50)), 101);
        assert_eq!(stamp.next(at(500)), 500);
        assert_eq!(stamp.next(at(500)), 501);
        assert_eq!(stamp.next(at(3)), 502);
        stamp.raise(1_000);
        assert_eq!(stamp.next(at(600)), 1_001);
        stamp.raise(7);
        assert_eq!(stamp.next(at(600)), 1_002);
    }
}
