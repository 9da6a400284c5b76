//! Tables for the terminal.

use crate::comparison::{Comparison, Row};
use crate::number::{count, grouped, readable};

/// Prints a table for each part and the read states it had.
pub fn print(comparisons: &[Comparison]) {
    let mut comparisons = Vec::from_iter(comparisons);
    // Stable: works stay in the order in which they were measured.
    comparisons.sort_by_key(|comparison| (comparison.of.part.clone(), size(comparison)));
    for table in comparisons.chunk_by(|a, b| (&a.of.part, size(a)) == (&b.of.part, size(b))) {
        print_table(table);
    }
}

fn size(comparison: &Comparison) -> (u64, u64, u64) {
    let of = &comparison.of;
    (of.states, of.per_user, of.shared_by)
}

fn print_table(table: &[&Comparison]) {
    let of = &table[0].of;
    println!(
        "\n{}: {} read states, {} a user, {} a channel\n",
        of.part,
        grouped(of.states),
        grouped(of.per_user),
        count(of.shared_by, "user", "users"),
    );
    let rows = || table.iter().flat_map(|comparison| &comparison.rows);
    let works = table.iter().map(|comparison| comparison.of.work.len());
    let work_width = works.max().unwrap_or(0);
    let subject_width = rows().map(|row| row.subject.len()).max().unwrap_or(0);
    for comparison in table {
        for (i, row) in comparison.rows.iter().enumerate() {
            let work = if i == 0 { &comparison.of.work } else { "" };
            let line = format!(
                "  {work:work_width$}  {:subject_width$}  {:>9}  {:>11} {:<20}{:>9}",
                row.subject,
                count(row.threads, "thread", "threads"),
                readable(row.value),
                comparison.of.metric,
                remark(row),
            );
            println!("{}", line.trim_end());
        }
    }
}

/// How it compares with ReadStates, and what several threads bring.
fn remark(row: &Row) -> String {
    let ratio = row.ratio.map(|ratio| format!("x {}", readable(ratio)));
    let speedup = row.speedup;
    let speedup = speedup.map(|times| format!("{} of one thread's rate", readable(times)));
    Vec::from_iter(ratio.into_iter().chain(speedup)).join(", ")
}
