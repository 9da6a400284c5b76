//! What a store notes once about all of its rows, and what is needed to read them: a file or a row with a text in JSON.

use std::fmt::{self, Display, Formatter};

use read_states_engine::id::ID_WIDTH;
use serde::{Deserialize, Serialize};

const FORMAT: &str = "read_states store";
const VERSION: u32 = 1;

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    version: u32,
    id_width: u8,
    counters: Vec<String>,
}

/// Why a store with this header is not opened. `Display` is what comes after the name of its place and a colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The text is no header.
    Damaged(String),
    /// It is of something else, or of a version that this one cannot read.
    NotOurs(String),
    /// The rows were written with counters that do not start those configured now.
    CountersChanged {
        /// As written in the header.
        stored: Vec<String>,
        /// As given now.
        configured: Vec<String>,
    },
}

impl Header {
    /// The header of a store whose rows have these counters.
    pub fn new(counters: &[String]) -> Self {
        Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            id_width: ID_WIDTH,
            counters: counters.to_vec(),
        }
    }

    /// The header that was noted as this text, checked to be one that this version can read.
    pub fn parse(text: &[u8]) -> Result<Self, Misfit> {
        let header: Header =
            serde_json::from_slice(text).map_err(|error| Misfit::Damaged(error.to_string()))?;
        let not_ours = |why| Err(Misfit::NotOurs(why));
        if header.format != FORMAT {
            return not_ours(format!("its format is {:?}", header.format));
        }
        if header.version != VERSION {
            return not_ours(format!("its format has version {}", header.version));
        }
        if header.id_width != ID_WIDTH {
            return not_ours(format!("its ids have {} bytes", header.id_width));
        }
        Ok(header)
    }

    /// The header of the same store opened with `counters`: those that it has, in their order, and maybe more.
    pub fn with_counters(&self, counters: &[String]) -> Result<Self, Misfit> {
        if counters.starts_with(&self.counters) {
            return Ok(Header::new(counters));
        }
        Err(Misfit::CountersChanged {
            stored: self.counters.clone(),
            configured: counters.to_vec(),
        })
    }

    /// As it is noted.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers")
    }
}

impl Display for Misfit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Damaged(why) => write!(f, "damaged header: {why}"),
            Misfit::NotOurs(why) => write!(f, "not a store of this version: {why}"),
            Misfit::CountersChanged { stored, configured } => write!(
                f,
                "written with the counters {}, which must come first and in this order, but configured are {}",
                stored.join(", "),
                configured.join(", ")
            ),
        }
    }
}

impl std::error::Error for Misfit {}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_header_is_read_back() {
        let header = Header::new(&names(&["mentions", "unread"]));
        assert_eq!(Header::parse(header.to_text().as_bytes()), Ok(header));
    }

    #[test]
    fn counters_may_be_appended_but_not_change() {
        let header = Header::new(&names(&["a", "b"]));
        for same_or_more in [&["a", "b"][..], &["a", "b", "c"]] {
            let counters = names(same_or_more);
            assert_eq!(header.with_counters(&counters), Ok(Header::new(&counters)));
        }
        for other in [&["a"][..], &["b", "a"], &["a", "c"], &["c", "a", "b"], &[]] {
            let misfit = header.with_counters(&names(other)).unwrap_err();
            assert!(matches!(misfit, Misfit::CountersChanged { .. }));
            assert!(misfit.to_string().contains("the counters a, b, which"));
        }
    }

    #[test]
    fn what_another_version_wrote_is_not_ours_and_what_nobody_wrote_is_damaged() {
        let header = Header::new(&names(&["a"])).to_text();
        let others = [
            (FORMAT, "else", "its format is \"else\""),
            ("version\":1", "version\":2", "its format has version 2"),
            ("width\":8", "width\":16", "its ids have 16 bytes"),
        ];
        for (ours, other, why) in others {
            let text = header.replace(ours, other);
            let misfit = Misfit::NotOurs(why.to_owned());
            assert_eq!(Header::parse(text.as_bytes()), Err(misfit));
        }
        for text in [&header[..header.len() - 1], "", "{}"] {
            let misfit = Header::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(misfit, Misfit::Damaged(_)));
        }
    }
}
