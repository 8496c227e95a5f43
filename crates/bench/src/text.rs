//! The text that is counted.

use std::collections::HashSet;

use crate::Random;

/// Words of a line.
pub const WORDS_PER_LINE: usize = 10;
/// Distinct words.
pub const VOCABULARY: usize = 100_000;
const SHORTEST_WORD: usize = 5;
/// Words have from `SHORTEST_WORD` on this many different lengths: 7 letters on average, so 80 bytes a line.
const WORD_LENGTHS: usize = 5;

/// So many lines of [`WORDS_PER_LINE`] words, separated by spaces, each ended by a newline: about 80 bytes. The word
/// of rank `k` of 100,000 is as frequent as `1/k`. The same count and seed give the same text.
#[must_use]
pub fn text(lines: usize, seed: u64) -> Vec<u8> {
    text_of(VOCABULARY, lines, seed)
}

/// The same with as many distinct words.
#[must_use]
pub fn text_of(distinct: usize, lines: usize, seed: u64) -> Vec<u8> {
    let words = vocabulary(distinct);
    let until = cumulative(words.len());
    let mut random = Random::new(seed);
    let mut text = Vec::with_capacity(lines * WORDS_PER_LINE * (SHORTEST_WORD + WORD_LENGTHS));
    for _ in 0..lines {
        for word in 0..WORDS_PER_LINE {
            if word > 0 {
                text.push(b' ');
            }
            let at = random.fraction();
            let rank = until.partition_point(|until| *until <= at);
            text.extend_from_slice(&words[rank.min(words.len() - 1)]);
        }
        text.push(b'\n');
    }
    text
}

/// The words by rank, all different.
fn vocabulary(distinct: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(0);
    let mut seen = HashSet::with_capacity(distinct);
    let mut words = Vec::with_capacity(distinct);
    while words.len() < distinct {
        let letters = SHORTEST_WORD + words.len() % WORD_LENGTHS;
        let word: Vec<u8> = (0..letters).map(|_| b'a' + random.below(26) as u8).collect();
        if seen.insert(word.clone()) {
            words.push(word);
        }
    }
    words
}

/// For each rank the share of all words that have it or a lower one.
fn cumulative(ranks: usize) -> Vec<f64> {
    let mut sum = 0.0;
    let mut until: Vec<f64> = (1..=ranks)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    for until in &mut until {
        *until /= sum;
    }
    until
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn lines_have_ten_words_and_about_eighty_bytes() {
        let text = text(2_000, 1);
        let lines: Vec<&[u8]> = text.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 2_000);
        assert!(
            lines
                .iter()
                .all(|line| line.split(|byte| *byte == b' ').count() == WORDS_PER_LINE)
        );
        let mean = text.len() / lines.len();
        assert!((74..=86).contains(&mean), "{mean}");
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        assert_eq!(text(50, 3), text(50, 3));
        assert_ne!(text(50, 3), text(50, 4));
    }

    #[test]
    fn the_most_frequent_word_is_twice_as_frequent_as_the_next() {
        let text = text(10_000, 1);
        let mut counts: HashMap<&[u8], u32> = HashMap::new();
        for word in text
            .split(|byte| byte.is_ascii_whitespace())
            .filter(|word| !word.is_empty())
        {
            *counts.entry(word).or_default() += 1;
        }
        let mut counts: Vec<u32> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.8..2.2).contains(&ratio), "{ratio}");
    }
}
