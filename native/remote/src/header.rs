//! The header of a store on a server, in a row of its notes.

use read_states_header::{Header, Misfit};

use crate::{Error, Reason};

/// What is to be noted by an instance that has these `counters`, where `noted` was found in `place`: `None` if that is
/// right as it is.
pub fn header_to_note(
    noted: Option<&str>,
    counters: &[String],
    place: &str,
) -> Result<Option<String>, Error> {
    let Some(noted) = noted else {
        return Ok(Some(Header::new(counters).to_text()));
    };
    let refused = |misfit| match misfit {
        Misfit::CountersChanged { .. } => {
            let text = format!("counters: {place} was {misfit}");
            Error::new(Reason::CountersChanged, text)
        }
        Misfit::Damaged(_) | Misfit::NotOurs(_) => {
            Error::new(Reason::NotOurs, format!("{place}: {misfit}"))
        }
    };
    let noted = Header::parse(noted.as_bytes()).map_err(refused)?;
    let header = noted.with_counters(counters).map_err(refused)?;
    Ok((header != noted).then(|| header.to_text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_note(noted: Option<&str>, counters: &[&str]) -> Result<Option<String>, Error> {
        let counters: Vec<_> = counters.iter().map(|name| name.to_string()).collect();
        header_to_note(noted, &counters, "table x")
    }

    #[test]
    fn it_is_noted_when_it_is_not_there_and_when_counters_are_appended() {
        let one = to_note(None, &["a"]).unwrap().unwrap();
        assert_eq!(to_note(Some(&one), &["a"]), Ok(None));
        let two = to_note(Some(&one), &["a", "b"]).unwrap().unwrap();
        assert_eq!(to_note(Some(&two), &["a", "b"]), Ok(None));
    }

    #[test]
    fn one_that_does_not_fit_is_refused_with_the_reason_and_the_place() {
        let noted = to_note(None, &["a", "b"]).unwrap().unwrap();
        let refused = [
            (noted.clone(), &["b", "a"][..], Reason::CountersChanged),
            (
                noted.replace("store", "other"),
                &["a", "b"],
                Reason::NotOurs,
            ),
            ("{".to_owned(), &["a", "b"], Reason::NotOurs),
        ];
        for (noted, counters, reason) in refused {
            let error = to_note(Some(&noted), counters).unwrap_err();
            assert_eq!(error.reason(), reason);
            assert!(error.to_string().contains("table x"), "{error}");
        }
    }
}
