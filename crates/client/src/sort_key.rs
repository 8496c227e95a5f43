//! How a sort key is said in a text.

use tidemill_dstream::{Function, SortKey};

/// An expression with `ASC` or `DESC`, and `NULLS FIRST` or `NULLS LAST`, behind it, as SQL has it.
pub(crate) fn sort_key(text: &str) -> SortKey {
    let (text, nulls_first) = match without_word(text, "FIRST").or_else(|| without_word(text, "LAST")) {
        Some(rest) => match without_word(rest, "NULLS") {
            Some(rest) => (rest, Some(without_word(text, "FIRST").is_some())),
            None => (text, None),
        },
        None => (text, None),
    };
    let (text, descending) = match without_word(text, "DESC") {
        Some(rest) => (rest, true),
        None => (without_word(text, "ASC").unwrap_or(text), false),
    };
    SortKey {
        function: Function::expr(text),
        descending,
        nulls_first,
    }
}

/// The text before a last word, if it is this one and not all of it.
fn without_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let (rest, last) = text.trim_end().rsplit_once(char::is_whitespace)?;
    let rest = rest.trim_end();
    (last.eq_ignore_ascii_case(word) && !rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_nulls_are_the_last_words() {
        for (text, sql, descending, nulls_first) in [
            ("count", "count", false, None),
            ("count DESC", "count", true, None),
            ("lower(a) asc", "lower(a)", false, None),
            ("a + b desc nulls last", "a + b", true, Some(false)),
            ("a  NULLS  FIRST", "a", false, Some(true)),
            ("a DESC ASC", "a DESC", false, None),
            ("desc", "desc", false, None),
            ("nulls last", "nulls last", false, None),
            ("nulls desc", "nulls", true, None),
            ("the first", "the first", false, None),
        ] {
            let key = SortKey {
                function: Function::expr(sql),
                descending,
                nulls_first,
            };
            assert_eq!(sort_key(text), key, "{text}");
        }
    }
}
