//! States against naive ones, and merging in any order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tidemill_types::AccumulatorId;

use super::*;
use crate::plan::AccumulatorPlan;

/// A kind that appends, so that it tells the order of merges; no right one does.
struct Appending;

impl NativeMerge for Appending {
    fn merge(&self, _: &str, state: &mut Vec<u8>, other: &[u8]) -> Result<(), String> {
        if other.contains(&b'!') {
            return Err("it does not like it".to_owned());
        }
        state.extend(other);
        Ok(())
    }

    fn value(&self, _: &str, state: Option<&[u8]>) -> Result<Scalar, String> {
        Ok(Scalar::from(
            String::from_utf8_lossy(state.unwrap_or_default()).into_owned(),
        ))
    }
}

/// SplitMix64's finaliser.
fn hash(value: &Scalar) -> u64 {
    let mut z = match value {
        Scalar::Integer(value) => value.cast_unsigned().wrapping_add(0x9E37_79B9_7F4A_7C15),
        other => other.to_string().len() as u64,
    };
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn state(kind: &AccumulatorKind, values: &[Scalar]) -> AccumulatorState {
    let value_type = values.first().map(Scalar::value_type);
    let mut state = AccumulatorState::zero(kind, value_type);
    for value in values {
        state.add(kind, value, hash).unwrap();
    }
    state
}

fn read(kind: &AccumulatorKind, values: &[Scalar]) -> Reading {
    state(kind, values).read(kind, &Appending)
}

fn floats(values: &[f64]) -> Vec<Scalar> {
    values.iter().copied().map(Scalar::Float).collect()
}

fn integers(values: &[i64]) -> Vec<Scalar> {
    values.iter().copied().map(Scalar::Integer).collect()
}

fn kinds() -> Vec<AccumulatorKind> {
    vec![
        AccumulatorKind::Sum,
        AccumulatorKind::Count,
        AccumulatorKind::Min,
        AccumulatorKind::Max,
        AccumulatorKind::Average,
        AccumulatorKind::Distinct { limit: 6 },
        AccumulatorKind::ApproxDistinct,
    ]
}

fn any_float() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        -1e3..1e3,
        Just(0.1),
        Just(-0.0),
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE),
        Just(5e-324),
        Just(f64::NAN),
        Just(f64::INFINITY)
    ]
}

/// Parts of one sequence of values: of whole numbers, or of others.
fn parts() -> impl Strategy<Value = Vec<Vec<Scalar>>> {
    let integer = prop_oneof![any::<i64>(), -5..5_i64].prop_map(Scalar::Integer);
    let float = any_float().prop_map(Scalar::Float);
    let of = |value: BoxedStrategy<Scalar>| prop::collection::vec(prop::collection::vec(value, 0..5), 3);
    prop_oneof![of(integer.boxed()), of(float.boxed())]
}

proptest! {
    #[test]
    fn merging_is_associative_commutative_and_the_same_as_adding_all(parts in parts()) {
        let all: Vec<Scalar> = parts.iter().flatten().cloned().collect();
        let value_type = all.first().map(Scalar::value_type);
        let mut kinds = kinds();
        if value_type == Some(ValueType::Float) {
            kinds.push(AccumulatorKind::Histogram { bounds: vec![-1.0, 0.0, 10.0] });
        }
        for kind in kinds {
            let zero = AccumulatorState::zero(&kind, value_type);
            let of = |values: &[Scalar]| {
                let mut state = zero.clone();
                values.iter().for_each(|value| state.add(&kind, value, hash).unwrap());
                state
            };
            let plus = |a: &AccumulatorState, b: &AccumulatorState| {
                let mut sum = a.clone();
                sum.merge(&kind, b, &Appending).unwrap();
                sum
            };
            let [a, b, c] = [of(&parts[0]), of(&parts[1]), of(&parts[2])];
            let whole = of(&all);
            prop_assert_eq!(&plus(&plus(&a, &b), &c), &whole, "{:?}", kind);
            prop_assert_eq!(&plus(&a, &plus(&b, &c)), &whole, "{:?}", kind);
            prop_assert_eq!(&plus(&plus(&c, &a), &b), &whole, "{:?}", kind);
            prop_assert_eq!(&plus(&whole, &zero), &whole);
        }
    }

    #[test]
    fn a_sum_of_numbers_is_the_exact_one_rounded_once(
        numbers in prop::collection::vec((-(1_i64 << 53)..1 << 53, 0..60_i32), 0..40),
    ) {
        // Multiples of 2^-60, whose sum fits 128 bits and is rounded once by the conversion.
        let mut exact = 0_i128;
        let mut sum = ExactSum::default();
        for (significand, shift) in &numbers {
            exact += i128::from(*significand) << shift;
            sum.add(*significand as f64 * 2_f64.powi(shift - 60));
        }
        prop_assert_eq!(sum.value(), exact as f64 * 2_f64.powi(-60));
        for (significand, shift) in numbers.iter().rev() {
            sum.add(-(*significand as f64) * 2_f64.powi(shift - 60));
        }
        prop_assert_eq!(sum, ExactSum::default());
    }

    #[test]
    fn one_number_is_its_own_sum(number in any_float()) {
        if !number.is_nan() {
            let mut sum = ExactSum::default();
            sum.add(number);
            prop_assert_eq!(sum.value(), number);
            let (limbs, positive, negative) = sum.parts();
            prop_assert_eq!(ExactSum::from_parts(&limbs, positive, negative), sum);
        }
    }
}

#[test]
fn sums_round_to_the_nearest_number_and_of_two_to_the_even_one() {
    let sum = |numbers: &[f64]| {
        let mut sum = ExactSum::default();
        numbers.iter().for_each(|number| sum.add(*number));
        sum.value()
    };
    assert_eq!(sum(&[1e308, 1e308, -1e308]), 1e308);
    assert_eq!(sum(&[1e16, 1.0, -1e16]), 1.0);
    assert_eq!(sum(&[0.1; 10]), 1.0);
    let half = f64::EPSILON / 2.0;
    assert_eq!(sum(&[1.0, half]), 1.0, "a tie goes to the even number");
    assert_eq!(sum(&[1.0, half, 5e-324]), 1.0 + f64::EPSILON, "a little more does not");
    assert_eq!(sum(&[1.0 + f64::EPSILON, half]), 1.0 + 2.0 * f64::EPSILON);
    assert_eq!(sum(&[-1.0, -half, -5e-324]), -1.0 - f64::EPSILON);
    assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
    assert_eq!(sum(&[f64::MAX, -f64::MAX]), 0.0);
    assert_eq!(sum(&[5e-324, 5e-324]), 1e-323);
    assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
}

#[test]
fn sums_and_averages_say_what_they_cannot_hold() {
    let overflowed = read(&AccumulatorKind::Sum, &integers(&[i64::MAX, 1]));
    assert_eq!((overflowed.value, overflowed.count), (None, 2));
    let problem = overflowed.problem.unwrap();
    assert!(problem.contains("9223372036854775808"), "{problem}");
    // What is within its type in the end is right, whatever was between.
    let back = read(&AccumulatorKind::Sum, &integers(&[i64::MAX, 1, -1]));
    assert_eq!((back.value, back.problem), (Some(Scalar::Integer(i64::MAX)), None));
    let infinite = read(&AccumulatorKind::Sum, &floats(&[1.0, f64::INFINITY]));
    assert_eq!(infinite.problem.as_deref(), Some("infinite numbers were added"));
    let huge = read(&AccumulatorKind::Sum, &floats(&[f64::MAX, f64::MAX]));
    assert!(huge.value.is_none() && huge.problem.is_some());
    assert_eq!(
        read(&AccumulatorKind::Average, &integers(&[1, 2])).value,
        Some(Scalar::Float(1.5))
    );
    assert_eq!(read(&AccumulatorKind::Average, &[]).value, None);
    assert_eq!(read(&AccumulatorKind::Sum, &[]).value, Some(Scalar::Integer(0)));
}

#[test]
fn nan_is_counted_and_left_out_and_zero_has_one_sign() {
    for kind in kinds() {
        let reading = read(&kind, &floats(&[f64::NAN, 2.0, f64::NAN, 2.0]));
        if kind == AccumulatorKind::Count {
            assert_eq!((reading.count, reading.nan), (4, 0));
        } else {
            assert_eq!((reading.count, reading.nan), (2, 2), "{kind:?}");
        }
    }
    let distinct = AccumulatorKind::Distinct { limit: 5 };
    let zeros = [Scalar::float(0.0), Scalar::float(-0.0)];
    assert_eq!(read(&distinct, &zeros).value, Some(Scalar::Integer(1)));
}

#[test]
fn a_set_is_exact_up_to_its_limit_and_says_when_it_is_over() {
    let kind = AccumulatorKind::Distinct { limit: 3 };
    let full = read(&kind, &integers(&[3, 1, 2, 3, 1]));
    assert_eq!(
        (full.value, full.values),
        (Some(Scalar::Integer(3)), integers(&[1, 2, 3]))
    );
    let over = read(&kind, &integers(&[3, 1, 2, 4, 1]));
    assert_eq!((over.value, over.values.len(), over.count), (None, 0, 5));
    assert!(over.problem.unwrap().contains("more than 3 different values"));
    let long = |i: u8| Scalar::from(format!("{i}{}", "x".repeat(7 << 20)));
    let kind = AccumulatorKind::Distinct { limit: 1000 };
    assert_eq!(read(&kind, &[long(1), long(2)]).value, Some(Scalar::Integer(2)));
    assert_eq!(read(&kind, &[long(1), long(2), long(3)]).value, None);
}

#[test]
fn a_bound_belongs_to_the_bucket_below_it() {
    let kind = AccumulatorKind::Histogram {
        bounds: vec![1.0, 10.0],
    };
    let reading = read(&kind, &floats(&[0.5, 1.0, 1.5, 10.0, 10.5, f64::INFINITY]));
    let buckets: Vec<(Option<f64>, u64)> = reading.buckets.iter().map(|b| (b.bound, b.count)).collect();
    assert_eq!(buckets, [(Some(1.0), 2), (Some(10.0), 2), (None, 2)]);
    assert_eq!(reading.value, Some(Scalar::Integer(6)));
}

#[test]
fn an_approximate_set_is_within_three_standard_errors() {
    for number in [0, 1, 10, 1000, 20_000, 200_000_i64] {
        let values: Vec<Scalar> = (0..number).chain(0..number / 2).map(Scalar::Integer).collect();
        let Some(Scalar::Integer(estimate)) = read(&AccumulatorKind::ApproxDistinct, &values).value else {
            panic!("an estimate")
        };
        let error = (estimate - number).abs() as f64;
        assert!(error <= 0.025 * number as f64, "{estimate} for {number}");
    }
    let mut sketch = HyperLogLog::default();
    assert!(!sketch.set(REGISTERS as u32, 1) && !sketch.set(0, 52) && sketch.set(0, 51));
}

#[test]
fn least_and_greatest_are_of_any_type() {
    let texts = [Scalar::from("b"), Scalar::from("a"), Scalar::from("c")];
    assert_eq!(read(&AccumulatorKind::Min, &texts).value, Some(Scalar::from("a")));
    assert_eq!(read(&AccumulatorKind::Max, &texts).value, Some(Scalar::from("c")));
    assert_eq!(read(&AccumulatorKind::Max, &[]).value, None);
    let days = [Scalar::Date(-1), Scalar::Date(19_782)];
    assert_eq!(
        read(&AccumulatorKind::Max, &days).value.unwrap().to_string(),
        "2024-02-29"
    );
    assert_eq!(
        read(&AccumulatorKind::Min, &days).value.unwrap().to_string(),
        "1969-12-31"
    );
    let shown = |nanos| Scalar::Timestamp(nanos).to_string();
    assert_eq!(shown(0), "1970-01-01T00:00:00Z");
    assert_eq!(shown(-1), "1969-12-31T23:59:59.999999999Z");
    assert_eq!(
        shown(951_782_400_000_000_000 + 1_500_000_000),
        "2000-02-29T00:00:01.500Z"
    );
}

#[test]
fn another_kind_or_type_is_refused() {
    let mut state = AccumulatorState::zero(&AccumulatorKind::Sum, Some(ValueType::Integer));
    assert_eq!(
        state.add(&AccumulatorKind::Sum, &Scalar::from("a"), hash),
        Err(Mismatch)
    );
    let other = AccumulatorState::zero(&AccumulatorKind::Count, None);
    assert!(state.merge(&AccumulatorKind::Sum, &other, &Appending).is_err());
    assert!(state.native_mut(Vec::new).is_err());
}

fn plans() -> Vec<AccumulatorPlan> {
    let plan = |id: u32, kind| AccumulatorPlan {
        id: AccumulatorId(id),
        name: format!("a{id}"),
        kind,
        value_type: Some(ValueType::Integer),
        listed: true,
    };
    let native = AccumulatorKind::Native { name: "joined".into() };
    vec![
        plan(0, AccumulatorKind::Sum),
        plan(1, AccumulatorKind::Count),
        plan(2, native),
    ]
}

#[test]
fn a_batch_goes_into_the_totals_as_a_whole_or_not_at_all() {
    let plans = plans();
    let one = |n: i64| state(&AccumulatorKind::Sum, &integers(&[n]));
    let text = |text: &str| AccumulatorState {
        count: 1,
        nan: 0,
        held: Held::Native(Some(text.as_bytes().to_vec())),
    };
    let joined = |ledger: &Ledger| ledger.read(&plans, &Appending)[2].value.clone();
    let zero = Ledger::zero(&plans);
    assert_eq!(joined(&zero), Some(Scalar::from("")));
    let first = [
        (AccumulatorId(0), one(1)),
        (AccumulatorId(2), text("a")),
        (AccumulatorId(0), one(2)),
    ];
    let first = Ledger::of_batch(&plans, &first, &Appending).unwrap();
    let after = zero.with(&plans, &first, &Appending).unwrap();
    let readings = after.read(&plans, &Appending);
    assert_eq!(readings[0].value, Some(Scalar::Integer(3)));
    assert_eq!(
        (readings[1].value.clone(), readings[0].count),
        (Some(Scalar::Integer(0)), 2)
    );
    assert_eq!(joined(&after), Some(Scalar::from("a")));

    let bad = [(AccumulatorId(0), one(7)), (AccumulatorId(2), text("!"))];
    let bad = Ledger::of_batch(&plans, &bad, &Appending).unwrap();
    let fault = after.with(&plans, &bad, &Appending).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "accumulator `a2` cannot be merged: it does not like it"
    );
    let unknown = [(AccumulatorId(9), one(7))];
    assert!(Ledger::of_batch(&plans, &unknown, &Appending).is_err());
    // A batch without deltas changes nothing.
    let empty = Ledger::of_batch(&plans, &[], &Appending).unwrap();
    assert_eq!(after.with(&plans, &empty, &Appending).unwrap(), after);
    let names: BTreeSet<&str> = AccumulatorKind::NAMES.iter().copied().collect();
    assert!(kinds().iter().all(|kind| names.contains(kind.name())));
}
