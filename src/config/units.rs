//! Durations (`300ms`, `14d`), sizes (`64KiB`), and which known word an unknown one was meant to be.

use std::time::Duration;

/// Longer than any setting makes sense, and short enough that no sum of times overflows.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 86_400);

/// `300ms`, `10s`, `5m`, `12h`, `14d`: a whole number and one unit.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(millis)?);
    (duration <= MAX_DURATION).then_some(duration)
}

/// A duration as [`duration`] reads it, in the largest unit that tells it whole.
pub(super) fn told(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000_u128, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let whole = units.into_iter().find(|(length, _)| millis >= *length && millis.is_multiple_of(*length));
    let (length, unit) = whole.unwrap_or((1, if millis == 0 { "s" } else { "ms" }));
    format!("{}{unit}", millis / length)
}

/// `512B`, `64KiB`, `10MiB`, `1GiB`, or plain `0`, in bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" if number == 0 => 1,
        _ => return None,
    };
    number.checked_mul(bytes)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

/// The word among `known` that `word` is most likely a slip of. Of words with digits another number is another thing,
/// and another beginning too (HS256, RS256).
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = fold(word);
    let limit = word.len().max(3) / 3;
    let digits = |word: &[char]| -> String { word.iter().filter(|c| c.is_ascii_digit()).collect() };
    let own = digits(&word);
    let scored = known.into_iter().filter_map(|candidate| {
        let other = fold(candidate);
        let theirs = digits(&other);
        let alike = theirs.is_empty() || (theirs == own && word.first() == other.first());
        let distance = distance(&word, &other);
        (alike && distance <= limit).then_some((distance, candidate))
    });
    scored.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

fn fold(word: &str) -> Vec<char> {
    word.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Edit distance by inserting, deleting or replacing a character, or swapping two neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    // Row i holds the distances of the first i characters of `a` to every beginning of `b`.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut previous: Option<char> = None;
    for (i, &ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        let mut left = i + 1;
        let mut last: Option<char> = None;
        let columns = b.iter().zip(above.iter().zip(above.iter().skip(1))).enumerate();
        for (j, (&cb, (&diagonal, &up))) in columns {
            let mut cost = (diagonal + usize::from(ca != cb)).min(up + 1).min(left + 1);
            if last == Some(ca)
                && previous == Some(cb)
                && let Some(&swapped) = j.checked_sub(1).and_then(|at| before.get(at))
            {
                cost = cost.min(swapped + 1);
            }
            row.push(cost);
            left = cost;
            last = Some(cb);
        }
        before = std::mem::replace(&mut above, row);
        previous = Some(ca);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        assert_eq!(duration("300ms"), Some(Duration::from_millis(300)));
        assert_eq!(duration("14d"), Some(Duration::from_secs(14 * 86_400)));
        assert_eq!(duration("0s"), Some(Duration::ZERO));
        for text in
            ["", "10", "s", "-1s", "1.5h", "10 s", "1w", "1h30m", "+1s", "99999999999999999999s", "36501d"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_binary_and_zero_needs_no_unit() {
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("1GiB"), Some(1 << 30));
        assert_eq!(size("0"), Some(0));
        for text in ["10", "10KB", "10MB", "1kib", "", "KiB", "20000000000GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["listeners", "threads", "trusted_proxies", "limits"];
        assert_eq!(nearest("listners", known), Some("listeners"));
        assert_eq!(nearest("trusted-proxies", known), Some("trusted_proxies"));
        assert_eq!(nearest("thread", known), Some("threads"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("ilmits", known), Some("limits"));
        assert_eq!(nearest("es256", ["RS256", "ES256"]), Some("ES256"));
        assert_eq!(nearest("HS256", ["RS256", "ES256"]), None);
        assert_eq!(nearest("http2x", ["host", "http2"]), Some("http2"));
        assert_eq!(nearest("htp2", ["http2"]), Some("http2"));
        assert_eq!(nearest("http3", ["http2"]), None);
        assert_eq!(nearest("orders-1", ["orders-2"]), None);
        let distance = |a, b| distance(&fold(a), &fold(b));
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("corp", "crop"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }
}
