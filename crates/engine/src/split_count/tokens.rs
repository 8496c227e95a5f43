//! A table of distinct tokens with their counts.
//!
//! A token is kept as an Arrow string view: up to twelve bytes within the view itself, longer ones in blocks of bytes
//! that become the buffers of the resulting array. So short tokens are compared and hashed as one integer, loaded from
//! the text in one piece.

use arrow::array::StringViewArray;
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::error::ArrowError;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Bytes that are loaded at a time; the text has as many behind its end.
const STEP: usize = 16;

/// Longest token that a view holds itself.
const INLINE: usize = 12;

/// Bytes of one block of long tokens, if none is longer.
const BLOCK: usize = 1 << 20;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// How a text is cut into tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Splitting {
    /// An ASCII character. If `lower` is set it is not a letter, so that splitting and lowering can change places.
    pub(super) separator: u8,
    pub(super) lower: bool,
    /// Tokens that do not start with it are not wanted. Others may be unwanted too.
    pub(super) prefix: Vec<u8>,
}

pub(super) struct TokenCounts {
    splitting: Splitting,
    /// The separator in all bytes.
    pattern: u64,
    /// The first bytes of a wanted token, as far as they are checked here, and which bytes these are.
    prefix: (u128, u128),
    table: HashTable<Counted>,
    blocks: Vec<Vec<u8>>,
    /// The text at hand, followed by a separator and zeros.
    text: Vec<u8>,
}

/// A token and how often it was seen. The view is in two halves, for alignment to 8 bytes keeps the table small.
#[derive(Clone, Copy)]
struct Counted {
    view: [u64; 2],
    count: u64,
}

impl TokenCounts {
    pub(super) fn new(splitting: Splitting) -> Self {
        let checked = splitting.prefix.len().min(INLINE);
        let mut first = [0; STEP];
        first[..checked].copy_from_slice(&splitting.prefix[..checked]);
        Self {
            pattern: u64::from(splitting.separator) * LOW_BITS,
            prefix: (u128::from_le_bytes(first), mask(checked)),
            splitting,
            table: HashTable::with_capacity(1024),
            blocks: Vec::new(),
            text: Vec::new(),
        }
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.table.allocation_size() + self.blocks.iter().map(Vec::capacity).sum::<usize>() + self.text.capacity()
    }

    /// Counts the tokens of a text. An empty text has none, and adjacent separators have an empty one between them.
    pub(super) fn add(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.text.clear();
        if self.splitting.lower && !text.is_ascii() {
            // Beyond ASCII a character's lower case depends on those around it.
            self.text.extend_from_slice(text.to_lowercase().as_bytes());
        } else {
            self.text.extend_from_slice(text.as_bytes());
            if self.splitting.lower {
                self.text.make_ascii_lowercase();
            }
        }
        let end = self.text.len();
        self.text.push(self.splitting.separator);
        self.text.extend_from_slice(&[0; STEP]);
        let text = std::mem::take(&mut self.text);
        let mut start = 0;
        while start <= end {
            start += self.token(&text, start) + 1;
        }
        self.text = text;
    }

    /// Counts the token that begins at `start` and returns its length.
    #[inline]
    fn token(&mut self, text: &[u8], start: usize) -> usize {
        let (low, high) = (load(text, start), load(text, start + 8));
        let bytes = u128::from(low) | (u128::from(high) << 64);
        let length = match (first_match(low, self.pattern), first_match(high, self.pattern)) {
            (Some(at), _) => at,
            (None, Some(at)) => 8 + at,
            (None, None) => {
                let rest = &text[start + STEP..];
                STEP + memchr::memchr(self.splitting.separator, rest).unwrap_or(rest.len())
            }
        };
        let (wanted, checked) = self.prefix;
        if length <= INLINE {
            let token = bytes & mask(length);
            if token & checked == wanted {
                self.count_short((token << 32) | length as u128);
            }
        } else if bytes & checked == wanted {
            self.count_long(&text[start..start + length]);
        }
        length
    }

    #[inline]
    fn count_short(&mut self, view: u128) {
        let view = halves(view);
        let blocks = &self.blocks;
        let entry = self.table.entry(
            hash_short(view),
            |counted| counted.view == view,
            |counted| counted.hash(blocks),
        );
        match entry {
            Entry::Occupied(mut seen) => seen.get_mut().count += 1,
            Entry::Vacant(new) => {
                new.insert(Counted { view, count: 1 });
            }
        }
    }

    fn count_long(&mut self, token: &[u8]) {
        let blocks = &self.blocks;
        let head = load(token, 0) << 32 | token.len() as u64;
        let is_token = |counted: &Counted| counted.view[0] == head && counted.long(blocks) == token;
        if let Some(seen) = self.table.find_mut(hash_long(token), is_token) {
            seen.count += 1;
            return;
        }
        let place = store(&mut self.blocks, token);
        let blocks = &self.blocks;
        let counted = Counted {
            view: [head, place],
            count: 1,
        };
        self.table
            .insert_unique(hash_long(token), counted, |counted| counted.hash(blocks));
    }

    /// The distinct tokens and their counts, in pieces of at most `rows`.
    pub(super) fn finish(self, rows: usize) -> Result<Vec<(StringViewArray, Vec<i64>)>, ArrowError> {
        let buffers: Vec<Buffer> = self.blocks.into_iter().map(Buffer::from_vec).collect();
        let counted: Vec<Counted> = self.table.into_iter().collect();
        counted
            .chunks(rows)
            .map(|chunk| {
                let views: Vec<u128> = chunk
                    .iter()
                    .map(|counted| u128::from(counted.view[0]) | (u128::from(counted.view[1]) << 64))
                    .collect();
                let tokens = StringViewArray::try_new(ScalarBuffer::from(views), buffers.clone(), None)?;
                let counts = chunk
                    .iter()
                    .map(|counted| i64::try_from(counted.count).unwrap_or(i64::MAX));
                Ok((tokens, counts.collect()))
            })
            .collect()
    }
}

impl Counted {
    fn hash(&self, blocks: &[Vec<u8>]) -> u64 {
        if self.length() <= INLINE {
            hash_short(self.view)
        } else {
            hash_long(self.long(blocks))
        }
    }

    fn length(&self) -> usize {
        (self.view[0] & u64::from(u32::MAX)) as usize
    }

    /// The bytes of a token that is not within its view.
    fn long<'a>(&self, blocks: &'a [Vec<u8>]) -> &'a [u8] {
        let (block, offset) = (self.view[1] & u64::from(u32::MAX), self.view[1] >> 32);
        &blocks[block as usize][offset as usize..offset as usize + self.length()]
    }
}

/// Stores a token and returns the second half of its view: its block, and its offset in there.
fn store(blocks: &mut Vec<Vec<u8>>, token: &[u8]) -> u64 {
    if blocks
        .last()
        .is_none_or(|block| block.capacity() - block.len() < token.len())
    {
        blocks.push(Vec::with_capacity(token.len().max(BLOCK)));
    }
    let block = blocks.len() - 1;
    let offset = blocks[block].len();
    blocks[block].extend_from_slice(token);
    block as u64 | ((offset as u64) << 32)
}

fn halves(view: u128) -> [u64; 2] {
    [view as u64, (view >> 64) as u64]
}

fn load(text: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&text[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// The position of the first byte of `word` that is the byte of which `pattern` consists.
fn first_match(word: u64, pattern: u64) -> Option<usize> {
    let difference = word ^ pattern;
    // The lowest bit that is left belongs to the first byte that was zero; higher ones may not.
    let zeros = difference.wrapping_sub(LOW_BITS) & !difference & HIGH_BITS;
    (zeros != 0).then(|| zeros.trailing_zeros() as usize / 8)
}

/// The first `length` bytes, at most fifteen.
fn mask(length: usize) -> u128 {
    (1 << (8 * length)) - 1
}

fn hash_short(view: [u64; 2]) -> u64 {
    let product = u128::from(view[0] ^ 0x243F_6A88_85A3_08D3) * u128::from(view[1] ^ 0x1319_8A2E_0370_7344);
    (product as u64) ^ ((product >> 64) as u64)
}

fn hash_long(token: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = FixedState::with_seed(0).build_hasher();
    hasher.write(token);
    hasher.finish()
}
