//! Steps that keep a state for each key.

use tidemill_dstream::{MapWithState, StateFunction, UpdateStateByKey};

use super::super::document::Node;
use super::super::functions::{columns_or_value, is_native, native, partitions, required_keys};
use super::super::keys;
use super::super::reader::{Reader, Settings};

pub(super) fn update_state_by_key(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<UpdateStateByKey> {
    let settings = reader.settings(node, path, keys::UPDATE_STATE_BY_KEY)?;
    let keys = required_keys(reader, &settings);
    let values = reader.optional(&settings, "values", columns_or_value);
    let state = state(reader, &settings);
    let initial = reader.optional(&settings, "initial", initial);
    let partitions = partitions(reader, &settings);
    Some(UpdateStateByKey {
        keys: keys?,
        values: values?.unwrap_or_default(),
        state: state?,
        initial: initial?,
        partitions: partitions?,
    })
}

pub(super) fn map_with_state(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<MapWithState> {
    let settings = reader.settings(node, path, keys::MAP_WITH_STATE)?;
    let keys = required_keys(reader, &settings);
    let values = reader.optional(&settings, "values", columns_or_value);
    let state = state(reader, &settings);
    let emit = reader.optional(&settings, "emit", columns_or_value);
    let timeout = reader.optional(&settings, "timeout", Reader::duration);
    let initial = reader.optional(&settings, "initial", initial);
    let partitions = partitions(reader, &settings);
    Some(MapWithState {
        keys: keys?,
        values: values?.unwrap_or_default(),
        state: state?,
        emit: emit?.unwrap_or_default(),
        timeout: timeout?,
        initial: initial?,
        partitions: partitions?,
    })
}

/// The columns of the state, or `{native: name}`.
fn state(reader: &mut Reader<'_>, settings: &Settings<'_>) -> Option<StateFunction> {
    let node = reader.required(settings, "state")?;
    let path = settings.at("state");
    if is_native(node) {
        native(reader, node, &path).map(StateFunction::Native)
    } else {
        columns_or_value(reader, node, &path).map(StateFunction::Columns)
    }
}

fn initial(reader: &mut Reader<'_>, node: &Node, path: &str) -> Option<String> {
    reader.text(node, path, "an SQL query or the name of a table")
}
