//! The bytes of a planner's position. They outlive a build: each layout begins with a number of its own, for ever.

use crate::Error;

#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(layout: u8) -> Self {
        Self(vec![layout])
    }

    pub(super) fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        let mut with_length = self.number(text.len() as u64);
        with_length.0.extend(text.as_bytes());
        with_length
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The layout, and what comes behind it.
    pub(super) fn new(bytes: &'a [u8]) -> Result<(u8, Self), Error> {
        let (layout, rest) = bytes.split_first().ok_or_else(damaged)?;
        Ok((*layout, Self(rest)))
    }

    pub(super) fn number(&mut self) -> Result<u64, Error> {
        let (number, rest) = self.0.split_first_chunk::<8>().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*number))
    }

    pub(super) fn text(&mut self) -> Result<String, Error> {
        let length = usize::try_from(self.number()?).map_err(|_| damaged())?;
        let (text, rest) = self.0.split_at_checked(length).ok_or_else(damaged)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| damaged())
    }
}

pub(super) fn damaged() -> Error {
    Error::Position {
        reason: "it is damaged, or of a later version".to_owned(),
    }
}
