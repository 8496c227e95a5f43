//! Accumulators and the step that adds to them.

use tidemill_dstream::{AccumulatorDef, AccumulatorKind, Addition, Function, NativeCall, Operator, ValueType};

use super::{faults, read, to_yaml};

const JOB: &str = "
name: counts
batch_interval: 1s
accumulators:
  lines: count
  blank: {kind: sum, type: integer, listed: false}
  users: {kind: distinct, limit: 500}
  rough: approx_distinct
  sizes: {kind: histogram, bounds: [10, 100.5]}
  longest: {native: longest}
streams:
  text:
    source: {text_file: {path: a}}
    steps:
STEPS
outputs:
  - print: {from: text}
";

fn with(steps: &str) -> String {
    JOB.replace("STEPS", steps)
}

#[test]
fn accumulators_are_kinds_with_settings() {
    let graph = read(&with("      - accumulate: lines"));
    let of = |name: &str, kind| AccumulatorDef::new(name, kind);
    let expected = [
        of("lines", AccumulatorKind::Count),
        AccumulatorDef {
            value_type: Some(ValueType::Integer),
            listed: false,
            ..of("blank", AccumulatorKind::Sum)
        },
        of("users", AccumulatorKind::Distinct { limit: 500 }),
        of("rough", AccumulatorKind::ApproxDistinct),
        of(
            "sizes",
            AccumulatorKind::Histogram {
                bounds: vec![10.0, 100.5],
            },
        ),
        of(
            "longest",
            AccumulatorKind::Native {
                name: "longest".to_owned(),
            },
        ),
    ];
    assert_eq!(graph.accumulators, expected);
    assert_eq!(graph.accumulators[1].line.0, Some(6));
}

#[test]
fn the_step_adds_to_one_or_several_named_or_not() {
    let steps = "      - accumulate: lines
      - accumulate: {into: blank, add: \"CASE WHEN value = '' THEN 1 ELSE 0 END\", when: value IS NOT NULL}
      - accumulate:
          - {into: users, add: {native: user_of, args: [value], accumulators: {bad: blank}}}
          - {kind: max, add: length(value)}
      - accumulate: {kind: sum}";
    let graph = read(&with(steps));
    let operators: Vec<Operator> = graph.streams[0]
        .steps
        .iter()
        .map(|step| step.operator.clone())
        .collect();
    let one = |addition| Operator::Accumulate {
        additions: vec![addition],
    };
    let call = NativeCall::new("user_of").args(["value"]).accumulator("bad", "blank");
    let unnamed = ["text_3_accumulate", "text_2_accumulate_1"];
    let expected = [
        one(Addition::new("lines", "1")),
        one(Addition {
            when: Some(Function::expr("value IS NOT NULL")),
            ..Addition::new("blank", "CASE WHEN value = '' THEN 1 ELSE 0 END")
        }),
        Operator::Accumulate {
            additions: vec![Addition::new("users", call), Addition::new(unnamed[1], "length(value)")],
        },
        one(Addition::new(unnamed[0], "1")),
    ];
    assert_eq!(operators, expected);
    for name in unnamed {
        assert_eq!(
            graph.accumulator(name).map(|accumulator| accumulator.listed),
            Some(false)
        );
    }
    assert_eq!(read(&to_yaml(&graph)), graph);
}

#[track_caller]
fn fault(steps: &str, expected: &str) {
    assert_eq!(faults(&with(steps)), [expected]);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_the_nearest_name() {
    fault(
        "      - accumulate: {into: lnes}",
        "line 15: streams.text.steps[0].accumulate.into: unknown accumulator `lnes` (did you mean `lines`?)",
    );
    fault(
        "      - accumulate: {into: lines, ad: value}",
        "line 15: streams.text.steps[0].accumulate.ad: unknown key `ad` (did you mean `add`?)",
    );
    fault(
        "      - accumulate: {add: value}",
        "line 15: streams.text.steps[0].accumulate: `into` is missing (name an accumulator of the job, or say what \
         `kind` an unnamed one is)",
    );
    fault(
        "      - accumulate: {into: lines, kind: sum}",
        "line 15: streams.text.steps[0].accumulate.kind: `kind` stands beside `into`, whose accumulator is declared \
         elsewhere",
    );
    fault(
        "      - accumulate: {kind: summ}",
        "line 15: streams.text.steps[0].accumulate.kind: unknown kind of accumulator `summ` (did you mean `sum`?)",
    );
    let job = |from: &str, to: &str| faults(&with("      - accumulate: lines").replace(from, to));
    assert_eq!(
        job("lines: count", "lines: cuont"),
        ["line 5: accumulators.lines: unknown kind of accumulator `cuont` (did you mean `count`?)"]
    );
    assert_eq!(
        job("[10, 100.5]", "[10, 1]"),
        ["line 9: accumulators.sizes.bounds: the bounds are not in ascending order"]
    );
    assert_eq!(
        job("kind: sum, type: integer", "kind: sum, type: text"),
        ["line 6: accumulators.blank.type: sum takes numbers, and the type is text"]
    );
    assert_eq!(
        job("kind: sum, type: integer", "kind: sum, limit: 3"),
        ["line 6: accumulators.blank.limit: a sum has no `limit`"]
    );
    assert_eq!(
        job("limit: 500", "limit: 5000000"),
        ["line 7: accumulators.users.limit: 5000000 is not between 1 and 1000000 (approx_distinct has no limit)"]
    );
}
