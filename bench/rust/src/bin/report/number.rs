//! Numbers as people read them.

/// Three digits that count, and thousands apart: `0.12`, `3.4`, `118`, `1,250`.
pub fn readable(value: f64) -> String {
    if value >= 99.95 {
        grouped(value.round() as u64)
    } else if value >= 0.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// With thousands apart.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Singular or plural.
pub fn count(value: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(value), if value == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_digits_that_count() {
        let values = [0.123, 1.0, 18.84, 99.94, 99.96, 1_250.4, 12_345_678.0];
        let read = ["0.12", "1.0", "18.8", "99.9", "100", "1,250", "12,345,678"];
        assert_eq!(values.map(readable), read);
    }
}
