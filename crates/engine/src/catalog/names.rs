//! What the names in a query mean.

use std::sync::Arc;

use datafusion::catalog::MemTable;
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::{Known, QueryError, suggestion};

/// The table that a reference means. Case matters only where it is needed to tell names apart.
pub(super) fn find(reference: &TableReference, known: &Known) -> Result<Arc<MemTable>, QueryError> {
    let table = reference.table();
    let (jobs, kept) = (&known.jobs, &known.kept);
    match reference.schema() {
        None => {
            let candidates: Vec<(&String, &Arc<MemTable>)> = jobs
                .iter()
                .filter_map(|(job, tables)| Some((job, get(tables, table)?)))
                .collect();
            match candidates.as_slice() {
                [(_, found)] => Ok(Arc::clone(found)),
                [] => Err(unknown(
                    reference,
                    table,
                    jobs.values().flat_map(|tables| tables.keys()),
                )),
                several => {
                    let names: Vec<String> = several.iter().map(|(job, _)| format!("{job}.{table}")).collect();
                    Err(QueryError {
                        message: format!("table `{table}` is put out by {} jobs", several.len()),
                        hint: Some(format!("write one of {}", names.join(", "))),
                    })
                }
            }
        }
        Some(job) => {
            let schemas = [get(jobs, job), get(kept, job)];
            let mut tables = schemas.iter().flatten();
            match tables.clone().find_map(|tables| get(tables, table)) {
                Some(found) => Ok(Arc::clone(found)),
                None if tables.next().is_some() => {
                    let names = schemas.iter().flatten().flat_map(|tables| tables.keys());
                    Err(unknown(reference, table, names))
                }
                None => Err(unknown_schema(job, known)),
            }
        }
    }
}

fn get<'a, T>(map: &'a std::collections::BTreeMap<String, T>, name: &str) -> Option<&'a T> {
    map.get(name).or_else(|| {
        let mut alike = map.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let (_, found) = alike.next()?;
        alike.next().is_none().then_some(found)
    })
}

fn unknown_schema(schema: &str, known: &Known) -> QueryError {
    let names = |jobs: &super::Jobs| jobs.keys().cloned().collect::<Vec<_>>();
    let ends = |suffix: &str| schema.to_ascii_lowercase().ends_with(suffix);
    if !ends("_state") && !ends("_streams") {
        return QueryError {
            message: format!("unknown job `{schema}`"),
            hint: suggestion(schema, &names(&known.jobs)),
        };
    }
    let what = "a job's state and remembered streams can be asked for while it runs";
    let kept = match names(&known.kept) {
        none if none.is_empty() => "none does".to_owned(),
        kept => suggestion(schema, &kept).unwrap_or_default(),
    };
    QueryError {
        message: format!("no job keeps `{schema}`"),
        hint: Some(format!("{what}; {kept}")),
    }
}

fn unknown<'a>(reference: &TableReference, table: &str, known: impl Iterator<Item = &'a String>) -> QueryError {
    QueryError {
        message: format!("unknown table `{reference}`"),
        hint: suggestion(table, &known.cloned().collect::<Vec<_>>()),
    }
}

/// The query with quotes around known names that have a hyphen, where a name of a job or a table stands: SQL would take
/// `trending-hashtags.tweets` for a difference.
pub(super) fn quote<'a>(sql: &str, names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&String> = names.filter(|name| name.contains('-')).collect();
    if names.is_empty() {
        return sql.to_owned();
    }
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).with_unescape(false).tokenize() else {
        return sql.to_owned();
    };
    let mut out = String::with_capacity(sql.len() + 8);
    let mut at = 0;
    while at < tokens.len() {
        match hyphenated(&tokens, at, &names) {
            Some((name, length)) => {
                out.push_str(&format!("\"{name}\""));
                at += length;
            }
            None => {
                out.push_str(&tokens[at].to_string());
                at += 1;
            }
        }
    }
    out
}

/// The longest known name that the tokens from `at` on spell where a name is expected, and how many tokens it takes.
fn hyphenated<'a>(tokens: &[Token], at: usize, names: &[&'a String]) -> Option<(&'a String, usize)> {
    if !matches!(&tokens[at], Token::Word(word) if word.quote_style.is_none()) {
        return None;
    }
    let before = tokens[..at]
        .iter()
        .rev()
        .find(|token| !matches!(token, Token::Whitespace(_)));
    let expected = match before {
        Some(Token::Word(word)) => matches!(word.keyword, Keyword::FROM | Keyword::JOIN),
        Some(Token::Period) => true,
        _ => false,
    };
    let mut spelled = String::new();
    let mut found = None;
    for (i, token) in tokens[at..].iter().enumerate() {
        match token {
            Token::Word(word) if word.quote_style.is_none() => spelled.push_str(&word.value),
            Token::Number(..) | Token::Minus if i > 0 => spelled.push_str(&token.to_string()),
            _ => break,
        }
        let qualifies = expected || tokens.get(at + i + 1) == Some(&Token::Period);
        if qualifies && let Some(name) = names.iter().find(|name| name.eq_ignore_ascii_case(&spelled)) {
            found = Some((*name, i + 1));
        }
    }
    found
}
