//! Templates of generated lines.
//!
//! | placeholder | becomes |
//! |---|---|
//! | `{index}` | the line's number since zero time |
//! | `{batch_time}` | the batch's time in milliseconds |
//! | `{word}` | a common English word; few are frequent, many are rare |
//! | `{hashtag}` | a hashtag with its `#`, distributed in the same way |
//! | `{user}` | a name, such as `ada_17` |
//! | `{int:LOW..HIGH}` | a whole number from LOW to HIGH, both included |
//! | `{pick:a\|b\|c}` | one of the given texts, each as often as the others; one may be empty |
//!
//! `{{` and `}}` stand for braces. A line is a function of the seed, the batch time and the line's index alone: it is
//! the same on every executor, in every attempt and on every platform.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use tidemill_dstream::nearest;
use tidemill_types::BatchTime;

use super::words::{self, Zipf};

/// Tweets as the demo makes them.
pub const TWEET_TEMPLATE: &str = "@{user}: {word} {word} {word} {word} {word} {hashtag} {word} {hashtag} \
                                  {pick:lol|so true|love it|wow|what a day|cannot wait|#nofilter}";

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Index,
    BatchTime,
    Word,
    Hashtag,
    User,
    Int(RangeInclusive<i64>),
    Pick(Vec<String>),
}

/// A fault of a template. Columns count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the brace at column {column} is not closed; write {{{{ for a brace as text")]
    Unclosed { column: usize },

    #[error("the closing brace at column {column} has no opening one; write }}}} for a brace as text")]
    Unopened { column: usize },

    #[error("unknown placeholder {{{name}}} at column {column}; {}", unknown_hint(.nearest.as_deref()))]
    Unknown {
        name: String,
        column: usize,
        nearest: Option<String>,
    },

    #[error("placeholder {{{name}}} at column {column} takes nothing behind a colon")]
    UnexpectedArgument { name: String, column: usize },

    #[error("{{int:{range}}} at column {column} is not a range; write {{int:1..100}}")]
    NotARange { range: String, column: usize },

    #[error("the range {range} at column {column} is empty; put the smaller number first")]
    EmptyRange { range: String, column: usize },

    #[error("placeholder {{pick}} at column {column} has nothing to pick from; write {{pick:a|b|c}}")]
    NothingToPick { column: usize },
}

const NAMES: [&str; 7] = ["index", "batch_time", "word", "hashtag", "user", "int", "pick"];

fn unknown_hint(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("did you mean {{{name}}}?"),
        None => format!("known are {}", NAMES.join(", ")),
    }
}

/// Parses the template of a generate source.
pub fn parse_template(template: &str) -> Result<Template, TemplateError> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut chars = template.chars().zip(1..).peekable();
    while let Some((c, column)) = chars.next() {
        match c {
            '{' | '}' if chars.next_if(|&(next, _)| next == c).is_some() => text.push(c),
            '{' => {
                let mut inside = String::new();
                loop {
                    match chars.next() {
                        None | Some(('{', _)) => return Err(TemplateError::Unclosed { column }),
                        Some(('}', _)) => break,
                        Some((c, _)) => inside.push(c),
                    }
                }
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(parse_placeholder(&inside, column)?);
            }
            '}' => return Err(TemplateError::Unopened { column }),
            _ => text.push(c),
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(Template { parts })
}

fn parse_placeholder(inside: &str, column: usize) -> Result<Part, TemplateError> {
    let (name, argument) = match inside.split_once(':') {
        Some((name, argument)) => (name.trim(), Some(argument)),
        None => (inside.trim(), None),
    };
    let part = match name {
        "int" => return parse_range(argument.unwrap_or_default(), column).map(Part::Int),
        "pick" => {
            return match argument {
                None | Some("") => Err(TemplateError::NothingToPick { column }),
                Some(choices) => Ok(Part::Pick(choices.split('|').map(str::to_owned).collect())),
            };
        }
        "index" => Part::Index,
        "batch_time" => Part::BatchTime,
        "word" => Part::Word,
        "hashtag" => Part::Hashtag,
        "user" => Part::User,
        _ => {
            return Err(TemplateError::Unknown {
                name: name.to_owned(),
                column,
                nearest: nearest(name, NAMES).map(str::to_owned),
            });
        }
    };
    match argument {
        None => Ok(part),
        Some(_) => Err(TemplateError::UnexpectedArgument {
            name: name.to_owned(),
            column,
        }),
    }
}

fn parse_range(range: &str, column: usize) -> Result<RangeInclusive<i64>, TemplateError> {
    let bounds = range
        .split_once("..")
        .and_then(|(low, high)| Some((low.trim().parse::<i64>().ok()?, high.trim().parse::<i64>().ok()?)));
    match bounds {
        None => Err(TemplateError::NotARange {
            range: range.to_owned(),
            column,
        }),
        Some((low, high)) if low > high => Err(TemplateError::EmptyRange {
            range: range.to_owned(),
            column,
        }),
        Some((low, high)) => Ok(low..=high),
    }
}

impl Template {
    /// Appends the line number `index` to `line`.
    pub fn render(&self, seed: u64, batch: BatchTime, index: u64, line: &mut String) {
        let mut draws = Draws::new(seed, index);
        for part in &self.parts {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Index => push(line, index),
                Part::BatchTime => push(line, batch),
                Part::Word => line.push_str(Zipf::words().pick(draws.next())),
                Part::Hashtag => {
                    line.push('#');
                    line.push_str(Zipf::hashtags().pick(draws.next()));
                }
                Part::User => {
                    let draw = draws.next();
                    line.push_str(words::NAMES[below(draw, words::NAMES.len() as u64) as usize]);
                    line.push('_');
                    // The low bits, as the name was made of the high ones.
                    push(line, draw % 100);
                }
                Part::Int(range) => {
                    let (low, high) = (*range.start(), *range.end());
                    let draw = draws.next();
                    let width = high.wrapping_sub(low) as u64;
                    let offset = width.checked_add(1).map_or(draw, |count| below(draw, count));
                    push(line, low.wrapping_add(offset as i64));
                }
                Part::Pick(choices) => line.push_str(&choices[below(draws.next(), choices.len() as u64) as usize]),
            }
        }
    }
}

fn push(line: &mut String, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = write!(line, "{value}");
}

/// A number below `count`, evenly distributed if `draw` is.
pub(super) fn below(draw: u64, count: u64) -> u64 {
    ((u128::from(draw) * u128::from(count)) >> 64) as u64
}

/// Random numbers that are a function of the seed, the index and their position (SplitMix64).
struct Draws(u64);

impl Draws {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    fn new(seed: u64, index: u64) -> Self {
        Self(mix(mix(seed).wrapping_add(index.wrapping_mul(Self::STEP))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        mix(self.0)
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
