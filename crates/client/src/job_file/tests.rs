mod accumulators;
mod reading;
mod steps;
mod writing;

use super::*;

fn parse_with(text: &str, set: &[(&str, &str)]) -> Result<JobGraph, Diagnostics> {
    let set = set
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    parse(
        text,
        &ParseOptions {
            set,
            ..ParseOptions::default()
        },
    )
}

fn read(text: &str) -> JobGraph {
    parse_with(text, &[]).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

fn faults(text: &str) -> Vec<String> {
    match parse_with(text, &[]) {
        Ok(_) => panic!("no fault found in\n{text}"),
        Err(faults) => faults.0.iter().map(ToString::to_string).collect(),
    }
}
