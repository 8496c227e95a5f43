//! Accumulators: what is kept of them is read for ever.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use tidemill_dstream::accumulator::{AccumulatorState, Bucket, Held, HyperLogLog, NativeMerge, Reading, Scalar};
use tidemill_dstream::{AccumulatorDef, AccumulatorKind, ValueType};

use super::{line, round_trip, text};
use crate::{control, plan};

fn kind() -> impl Strategy<Value = AccumulatorKind> {
    prop_oneof![
        Just(AccumulatorKind::Sum),
        Just(AccumulatorKind::Count),
        Just(AccumulatorKind::Min),
        Just(AccumulatorKind::Max),
        Just(AccumulatorKind::Average),
        any::<u32>().prop_map(|limit| AccumulatorKind::Distinct { limit }),
        Just(AccumulatorKind::ApproxDistinct),
        vec(-1e9..1e9, 0..4).prop_map(|bounds| AccumulatorKind::Histogram { bounds }),
        text().prop_map(|name| AccumulatorKind::Native { name }),
    ]
}

pub(super) fn accumulator() -> impl Strategy<Value = AccumulatorDef> {
    let types: Vec<ValueType> = ValueType::ALL.iter().map(|(_, value_type)| *value_type).collect();
    let value_type = option::of(proptest::sample::select(types));
    (text(), kind(), value_type, any::<bool>(), line()).prop_map(|(name, kind, value_type, listed, line)| {
        AccumulatorDef {
            name,
            kind,
            value_type,
            listed,
            line,
        }
    })
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        any::<bool>().prop_map(Scalar::Boolean),
        any::<i64>().prop_map(Scalar::Integer),
        any::<f64>().prop_filter("NaN", |n| !n.is_nan()).prop_map(Scalar::Float),
        text().prop_map(Scalar::Text),
        any::<i32>().prop_map(Scalar::Date),
        any::<i64>().prop_map(Scalar::Timestamp),
    ]
}

/// States as they come to be: of values of one type.
fn state() -> impl Strategy<Value = AccumulatorState> {
    let values = prop_oneof![
        vec(any::<i64>().prop_map(Scalar::Integer), 0..20),
        vec(any::<f64>().prop_map(Scalar::Float), 0..20),
    ];
    let native = option::of(vec(any::<u8>(), 0..8)).prop_map(|state| AccumulatorState {
        count: u64::from(state.is_some()),
        nan: 0,
        held: Held::Native(state),
    });
    let added = (kind(), values).prop_map(|(kind, values)| {
        let value_type = values.first().map(Scalar::value_type);
        let mut state = AccumulatorState::zero(&kind, value_type);
        for value in &values {
            // Histograms take no whole numbers, registered kinds nothing here.
            let _ = state.add(&kind, value, |value| {
                (value.to_string().len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            });
        }
        state
    });
    prop_oneof![4 => added, 1 => native]
}

struct NoneRegistered;

impl NativeMerge for NoneRegistered {
    fn merge(&self, _: &str, _: &mut Vec<u8>, _: &[u8]) -> Result<(), String> {
        Err("none".to_owned())
    }

    fn value(&self, _: &str, _: Option<&[u8]>) -> Result<Scalar, String> {
        Err("none".to_owned())
    }
}

proptest! {
    #[test]
    fn states_keep_all_that_they_hold(state in state()) {
        prop_assert_eq!(round_trip::<_, plan::AccumulatorState>(&state), state);
    }

    #[test]
    fn readings_keep_all_that_they_say(
        value in option::of(scalar()),
        values in vec(scalar(), 0..3),
        bound in option::of(-1e3..1e3),
        problem in option::of("[a-z]{1,8}"),
    ) {
        let bucket = Bucket { bound, count: 3 };
        let reading = Reading { value, count: 1, nan: 2, buckets: vec![bucket], values, problem };
        prop_assert_eq!(round_trip::<_, control::AccumulatorReading>(&reading), reading);
    }

    #[test]
    fn bytes_that_are_no_state_are_refused_or_a_state(bytes in vec(any::<u8>(), 0..60)) {
        if let Ok(decoded) = plan::AccumulatorState::decode(bytes.as_slice())
            && let Ok(state) = AccumulatorState::try_from(decoded)
        {
            let _ = state.read(&AccumulatorKind::Sum, &NoneRegistered);
        }
    }
}

fn refused(state: plan::AccumulatorState) -> String {
    AccumulatorState::try_from(state).unwrap_err().to_string()
}

#[test]
fn damaged_states_and_those_of_another_version_are_told() {
    use plan::accumulator_state::Held as Wire;
    let of = |version, held| plan::AccumulatorState {
        version,
        count: 1,
        nan: 0,
        held,
    };
    assert_eq!(refused(of(2, None)), "version: 2, and this build reads 1");
    assert_eq!(refused(of(1, None)), "held: missing, or of a later version");
    let floats = plan::FloatsHeld {
        first: 60,
        limbs: vec![1; 20],
        ..Default::default()
    };
    assert_eq!(
        refused(of(1, Some(Wire::Floats(floats)))),
        "floats.limbs: more than a sum has"
    );
    let sketch = |registers: &[u32], ranks: &'static [u8]| {
        let held = plan::ApproximateHeld {
            registers: registers.to_vec(),
            ranks: ranks.into(),
        };
        of(1, Some(Wire::Approximate(held)))
    };
    assert!(refused(sketch(&[1, 2], &[1])).contains("not one for each register"));
    assert!(refused(sketch(&[u32::MAX], &[1])).contains("not a register"));
    assert!(refused(sketch(&[0], &[77])).contains("not a register"));
}

/// The bytes of these states are in checkpoints: they are never to be others.
#[test]
fn the_bytes_of_states_stay_as_they_are() {
    let of = |kind: &AccumulatorKind, values: &[Scalar]| {
        let mut state = AccumulatorState::zero(kind, values.first().map(Scalar::value_type));
        for value in values {
            state.add(kind, value, |_| 0x8000_0000_0000_0001).unwrap();
        }
        let bytes = plan::AccumulatorState::from(&state).encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let sum = AccumulatorKind::Sum;
    assert_eq!(of(&sum, &[Scalar::Integer(5)]), "080110012a09110500000000000000");
    assert_eq!(of(&sum, &[Scalar::Float(1.5)]), "08011001320708211203808018");
    let distinct = AccumulatorKind::Distinct { limit: 9 };
    assert_eq!(
        of(&distinct, &[Scalar::from("b"), Scalar::from("a")]),
        "080110024a0a0a032201610a03220162"
    );
    let mut sketch = HyperLogLog::default();
    sketch.add(0x8000_0000_0000_0001);
    assert_eq!(sketch.set_registers().collect::<Vec<_>>(), [(8192, 50)]);
    assert_eq!(
        of(&AccumulatorKind::ApproxDistinct, &[Scalar::Integer(1)]),
        "0801100152070a0280401201 32".replace(' ', "")
    );
}
