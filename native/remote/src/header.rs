//! What a store notes once about all of its rows, and what is needed to read them.

use read_states_engine::id::ID_WIDTH;
use serde::{Deserialize, Serialize};

use crate::{Error, Reason};

const FORMAT: &str = "read_states store";
const VERSION: u32 = 1;

/// The header of a store, a text in JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    version: u32,
    id_width: u8,
    counters: Vec<String>,
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

    /// What is to be noted by an instance that has these `counters`, where `noted` was found in `place`: `None` if that is
    /// right as it is.
    pub fn update(
        noted: Option<&str>,
        counters: &[String],
        place: &str,
    ) -> Result<Option<String>, Error> {
        let header = Header::new(counters);
        if let Some(noted) = noted {
            let noted = Header::read(noted, place)?;
            if !counters.starts_with(&noted.counters) {
                let text = format!(
                    "counters: {place} was written with {}, which must come first and in this order, but configured are {}",
                    noted.counters.join(", "),
                    counters.join(", ")
                );
                return Err(Error::new(Reason::CountersChanged, text));
            }
            if noted == header {
                return Ok(None);
            }
        }
        Ok(Some(
            serde_json::to_string(&header).expect("texts and numbers"),
        ))
    }

    fn read(text: &str, place: &str) -> Result<Self, Error> {
        let not_ours = |why: String| Error::new(Reason::NotOurs, format!("{place}: {why}"));
        let header: Header = serde_json::from_str(text)
            .map_err(|error| not_ours(format!("its header cannot be understood: {error}")))?;
        if header.format != FORMAT {
            return Err(not_ours(format!("its format is {:?}", header.format)));
        }
        if header.version != VERSION {
            let why = format!("its format has version {}", header.version);
            return Err(not_ours(why));
        }
        if header.id_width != ID_WIDTH {
            return Err(not_ours(format!("its ids have {} bytes", header.id_width)));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(noted: Option<&str>, counters: &[&str]) -> Result<Option<String>, Error> {
        let counters: Vec<_> = counters.iter().map(|name| name.to_string()).collect();
        Header::update(noted, &counters, "table x")
    }

    #[test]
    fn counters_may_be_appended_and_nothing_else() {
        let one = update(None, &["a"]).unwrap().unwrap();
        assert_eq!(update(Some(&one), &["a"]), Ok(None));
        let two = update(Some(&one), &["a", "b"]).unwrap().unwrap();
        for counters in [&["b", "a"][..], &["a"], &["c", "b"]] {
            let error = update(Some(&two), counters).unwrap_err();
            assert_eq!(error.reason(), Reason::CountersChanged);
            assert!(error.to_string().contains("table x was written with a, b"));
        }
    }

    #[test]
    fn what_is_of_another_version_or_width_is_refused() {
        let header = update(None, &["a"]).unwrap().unwrap();
        let others = [
            header.replace("read_states", "other"),
            header.replace("\"version\":1", "\"version\":2"),
            header.replace("\"id_width\":8", "\"id_width\":16"),
            "{".to_owned(),
        ];
        for other in others {
            let error = update(Some(&other), &["a"]).unwrap_err();
            assert_eq!(error.reason(), Reason::NotOurs, "{other}");
        }
    }
}
