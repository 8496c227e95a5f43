//! The functions that come with the binary, beside those of SQL.

use std::sync::Arc;

use tidemill_engine::arrow::array::{ArrayRef, AsArray, Float64Array};
use tidemill_engine::arrow::datatypes::DataType;
use tidemill_engine::{BoxError, Determinism, Registry, RegistryBuilder};
use vader_sentimental::SentimentIntensityAnalyzer;

/// A registry with them, to which a build adds its own:
///
/// - `sentiment(text)`: how positive an English text is, from -1 to 1; 0 is neutral. It is the compound score of VADER (Hutto
///   and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014).
pub fn functions() -> RegistryBuilder {
    Registry::builder().scalar(
        "sentiment",
        Determinism::Deterministic,
        vec![DataType::Utf8View],
        DataType::Float64,
        sentiment,
    )
}

fn sentiment(columns: &[ArrayRef]) -> Result<ArrayRef, BoxError> {
    let analyzer = SentimentIntensityAnalyzer::new();
    let [texts] = columns else {
        return Err("sentiment takes one text".into());
    };
    let scores = texts
        .as_string_view()
        .iter()
        .map(|text| text.map(|text| analyzer.polarity_scores(text).compound.clamp(-1.0, 1.0)));
    Ok(Arc::new(scores.collect::<Float64Array>()))
}

#[cfg(test)]
mod tests {
    use tidemill_engine::arrow::array::{Array, StringViewArray};
    use tidemill_engine::arrow::datatypes::Float64Type;

    use super::*;

    #[test]
    fn sentiment_is_between_its_bounds_and_null_of_null() {
        let texts = StringViewArray::from(vec![
            Some("I love this, it is wonderful!"),
            Some("What a horrible, sad mess."),
            Some("The ferry leaves at six."),
            Some(""),
            None,
        ]);
        let scores = sentiment(&[Arc::new(texts)]).unwrap();
        let scores = scores.as_primitive::<Float64Type>();
        assert!(scores.value(0) > 0.5 && scores.value(0) <= 1.0);
        assert!(scores.value(1) < -0.5 && scores.value(1) >= -1.0);
        assert_eq!((scores.value(2), scores.value(3)), (0.0, 0.0));
        assert!(scores.is_null(4));
    }
}
