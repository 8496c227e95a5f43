//! The `accumulators` of a job, and the step that adds to them.

use tidemill_dstream::{AccumulatorDef, AccumulatorKind, Addition, Function, Line, Operator, ValueType};

use super::document::{Data, Entry, Node};
use super::functions::function;
use super::keys;
use super::reader::{Reader, Settings};
use super::sources::each;

/// Added where a step does not say what: each record counts.
pub(super) const ONE: &str = "1";

/// A kind, or `{kind: .., type: .., ..}`.
pub(super) fn accumulator(reader: &mut Reader<'_>, entry: &Entry, path: &str) -> Option<AccumulatorDef> {
    let node = &*entry.value;
    let (kind, value_type, listed) = if matches!(node.data, Data::Map(_)) {
        let settings = reader.settings(node, path, keys::ACCUMULATOR)?;
        let listed = reader.optional(&settings, "listed", Reader::boolean);
        let (kind, value_type) = spec(reader, &settings)?;
        (kind, value_type, listed?.unwrap_or(true))
    } else {
        (kind(reader, node, path, None)?, None, true)
    };
    Some(AccumulatorDef {
        name: entry.key.clone(),
        kind,
        value_type,
        listed,
        line: Line(Some(entry.line)),
    })
}

/// The kind with its settings, and the type.
fn spec(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<(AccumulatorKind, Option<ValueType>)> {
    let value_type = reader.optional(settings, "type", |reader, node, path| {
        reader.choice(node, path, "type", ValueType::ALL)
    });
    let kind = match (settings.get("kind"), settings.get("native")) {
        (Some(node), None) => kind(reader, node, &settings.at("kind"), Some(settings)),
        (None, Some(node)) => {
            let what = "the name of a registered accumulator";
            let name = reader.text(node, &settings.at("native"), what);
            name.map(|name| AccumulatorKind::Native { name })
        }
        (Some(_), Some(node)) => {
            let message = "it has a `kind` or is `native`, not both";
            reader.fault(node.line, &settings.at("native"), message);
            None
        }
        (None, None) => {
            let hint = format!("known: {}", AccumulatorKind::NAMES.join(", "));
            reader.hinted(settings.line, &settings.path, "`kind` is missing", hint);
            None
        }
    };
    let kind = kind?;
    for (key, allowed) in [
        ("limit", matches!(kind, AccumulatorKind::Distinct { .. })),
        ("bounds", matches!(kind, AccumulatorKind::Histogram { .. })),
    ] {
        if let Some(node) = settings.get(key)
            && !allowed
        {
            let message = format!("a {} has no `{key}`", kind.name());
            reader.fault(node.line, &settings.at(key), message);
            return None;
        }
    }
    Some((kind, value_type?))
}

fn kind(reader: &mut Reader<'_>, node: &Node, path: &str, settings: Option<&Settings<'_>>) -> Option<AccumulatorKind> {
    let name = reader.text(node, path, "a kind of accumulator")?;
    Some(match name.as_str() {
        "sum" => AccumulatorKind::Sum,
        "count" => AccumulatorKind::Count,
        "min" => AccumulatorKind::Min,
        "max" => AccumulatorKind::Max,
        "average" => AccumulatorKind::Average,
        "distinct" => {
            let limit = match settings {
                None => None,
                Some(settings) => reader.optional(settings, "limit", |reader, node, path| {
                    reader.number(node, path, u32::MAX)
                })?,
            };
            AccumulatorKind::Distinct {
                limit: limit.unwrap_or(AccumulatorKind::DISTINCT_LIMIT),
            }
        }
        "approx_distinct" => AccumulatorKind::ApproxDistinct,
        "histogram" => {
            let bounds = match settings.and_then(|settings| Some((settings, settings.get("bounds")?))) {
                // Validation says what is missing.
                None => Vec::new(),
                Some((settings, node)) => {
                    let path = settings.at("bounds");
                    let items = reader.list(node, &path, "a list of numbers")?;
                    each(items, &path, |item, at| reader.decimal(item, at))?
                }
            };
            AccumulatorKind::Histogram { bounds }
        }
        other => {
            reader.unknown(node.line, path, "kind of accumulator", other, AccumulatorKind::NAMES);
            return None;
        }
    })
}

/// The name of an accumulator, settings, or a list of such.
pub(super) fn accumulate(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Operator> {
    let additions = match &node.data {
        Data::List(items) => each(items, path, |item, at| addition(reader, item, at)),
        _ => addition(reader, node, path).map(|addition| vec![addition]),
    };
    additions.map(|additions| Operator::Accumulate { additions })
}

fn addition(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<Addition> {
    let line = Line(Some(node.line));
    if !matches!(node.data, Data::Map(_)) {
        let into = reader.text(node, path, "the name of an accumulator, or {into: .., add: ..}")?;
        return Some(Addition {
            line,
            ..Addition::new(into, ONE)
        });
    }
    let settings = reader.settings(node, path, keys::ACCUMULATE)?;
    let add = reader.optional(&settings, "add", function);
    let when = reader.optional(&settings, "when", function);
    let into = match settings.get("into") {
        Some(node) => {
            let own = keys::ACCUMULATOR.iter().find_map(|key| Some((key, settings.get(key)?)));
            if let Some((key, other)) = own {
                let message = format!("`{key}` stands beside `into`, whose accumulator is declared elsewhere");
                reader.fault(other.line, &settings.at(key), message);
                return None;
            }
            reader.text(node, &settings.at("into"), "the name of an accumulator")
        }
        None if settings.get("kind").is_none() && settings.get("native").is_none() => {
            let hint = "name an accumulator of the job, or say what `kind` an unnamed one is";
            reader.hinted(node.line, path, "`into` is missing", hint);
            None
        }
        None => unnamed(reader, &settings),
    };
    Some(Addition {
        into: into?,
        add: add?.unwrap_or_else(|| Function::expr(ONE)),
        when: when?,
        line,
    })
}

/// Declares an accumulator at its step, under a name that says where it is.
fn unnamed(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<String> {
    let (kind, value_type) = spec(reader, settings)?;
    let name = generated(&settings.path);
    reader.unnamed.push(AccumulatorDef {
        name: name.clone(),
        kind,
        value_type,
        listed: false,
        line: Line(Some(settings.line)),
    });
    Some(name)
}

/// `streams.hashtags.steps[0].accumulate[1]` as `hashtags_0_accumulate_1`.
fn generated(path: &str) -> String {
    let path = path.trim_start_matches("streams.").replace(".steps", "");
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    path.chars().filter(|c| *c != ']').map(word).collect()
}

/// Those that are declared by themselves, then those of steps.
pub(super) fn with_unnamed(mut declared: Vec<AccumulatorDef>, reader: &mut Reader<'_>) -> Vec<AccumulatorDef> {
    declared.append(&mut reader.unnamed);
    declared
}
