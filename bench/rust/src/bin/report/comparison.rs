//! Who did the same work, side by side.

use read_states_bench::measurement::Measurement;

/// Whether it is what all others are compared with: ReadStates, or some part of it.
pub fn is_ours(subject: &str) -> bool {
    subject.starts_with("ReadStates")
}

/// One kind of figure of one work, of all who did it.
pub struct Comparison {
    /// What all have in common; the subject, the threads and the value are those of the rows.
    pub of: Measurement,
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
}

/// The figure of one of them.
pub struct Row {
    /// Who.
    pub subject: String,
    /// From so many threads.
    pub threads: u64,
    /// The median, if it was measured more than once.
    pub value: f64,
    /// How many times the figure of ReadStates it is, from as many threads.
    pub ratio: Option<f64>,
    /// How many times as many operations it does as from one thread, if it was measured from more.
    pub speedup: Option<f64>,
}

/// Brings together what can be compared, in the order in which it was measured.
pub fn compare(measurements: &[Measurement]) -> Vec<Comparison> {
    let mut groups: Vec<Vec<&Measurement>> = Vec::new();
    for measurement in measurements {
        match groups
            .iter_mut()
            .find(|group| same_work(group[0], measurement))
        {
            Some(group) => group.push(measurement),
            None => groups.push(vec![measurement]),
        }
    }
    groups.iter().map(|group| comparison(group)).collect()
}

fn same_work(a: &Measurement, b: &Measurement) -> bool {
    let key = |m: &Measurement| {
        let names = (m.part.clone(), m.work.clone(), m.metric.clone());
        (names, m.states, m.per_user, m.shared_by)
    };
    key(a) == key(b)
}

fn comparison(group: &[&Measurement]) -> Comparison {
    let mut runs: Vec<(&str, u64, Vec<f64>)> = Vec::new();
    for Measurement {
        subject,
        threads,
        value,
        ..
    } in group.iter().copied()
    {
        let same = |run: &&mut (&str, u64, _)| (run.0, run.1) == (subject, *threads);
        match runs.iter_mut().find(same) {
            Some((_, _, values)) => values.push(*value),
            None => runs.push((subject, *threads, vec![*value])),
        }
    }
    let mut rows = Vec::from_iter(runs.into_iter().map(|(subject, threads, values)| Row {
        subject: subject.into(),
        threads,
        value: median(values),
        ratio: None,
        speedup: None,
    }));
    for i in 0..rows.len() {
        let ours = |row: &&Row| is_ours(&row.subject) && row.threads == rows[i].threads;
        let ours = rows
            .iter()
            .find(ours)
            .filter(|_| !is_ours(&rows[i].subject));
        rows[i].ratio = ours.map(|ours| rows[i].value / ours.value);
        let alone = |row: &&Row| row.subject == rows[i].subject && row.threads == 1;
        let is_more = rows[i].threads > 1 && group[0].metric == "ns/operation";
        let alone = rows.iter().find(alone).filter(|_| is_more);
        rows[i].speedup = alone.map(|alone| alone.value / rows[i].value);
    }
    Comparison {
        of: group[0].clone(),
        rows,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "ReadStates";

    #[test]
    fn compares_what_is_alike() {
        let figure = |subject: &str, threads, value| Measurement {
            subject: subject.into(),
            threads,
            value,
            ..Measurement::default()
        };
        let other = Measurement {
            work: "another".into(),
            ..figure(OURS, 1, 1.0)
        };
        let measured = [
            figure("other", 1, 30.0),
            figure(OURS, 1, 10.0),
            other,
            figure("other", 2, 1.0),
            figure("other", 1, 50.0),
        ];
        let comparisons = compare(&measured);
        let row = |row: &Row| (row.subject.clone(), row.threads, row.value, row.ratio);
        let rows = |i: usize| Vec::from_iter(comparisons[i].rows.iter().map(row));
        assert_eq!(comparisons.len(), 2);
        assert_eq!(
            rows(0),
            [
                ("other".into(), 1, 40.0, Some(4.0)),
                (OURS.into(), 1, 10.0, None),
                ("other".into(), 2, 1.0, None)
            ]
        );
        assert_eq!(rows(1), [(OURS.into(), 1, 1.0, None)]);
    }
}
