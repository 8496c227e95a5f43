//! What a single-purpose program does with the same input: the baselines.

use std::hint::black_box;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use memchr::{memchr_iter, memchr2_iter, memrchr};
use tidemill_bench::VOCABULARY;

type Counts<'a> = HashMap<&'a [u8], u64, RandomState>;

/// The `limit` most frequent words, the most frequent first, equally frequent ones in alphabetical order; counted by
/// `threads` threads, each with its part of the text and its own map.
pub(crate) fn top_words(text: &[u8], threads: usize, limit: usize) -> Result<Vec<(String, u64)>> {
    let counts = thread::scope(|scope| {
        let counting: Vec<_> = parts(text, threads)
            .into_iter()
            .map(|part| scope.spawn(move || count(part)))
            .collect();
        let maps: Option<Vec<Counts<'_>>> = counting.into_iter().map(|thread| thread.join().ok()).collect();
        maps.and_then(|maps| maps.into_iter().reduce(merge))
    });
    let mut words: Vec<(&[u8], u64)> = counts.context("a counting thread panicked")?.into_iter().collect();
    let order = |a: &(&[u8], u64), b: &(&[u8], u64)| b.1.cmp(&a.1).then(a.0.cmp(b.0));
    if words.len() > limit {
        words.select_nth_unstable_by(limit, order);
        words.truncate(limit);
    }
    words.sort_unstable_by(order);
    let owned = words.into_iter();
    Ok(owned
        .map(|(word, count)| (String::from_utf8_lossy(word).into_owned(), count))
        .collect())
}

/// The text in about equal parts that end with a line.
pub(crate) fn parts(text: &[u8], parts: usize) -> Vec<&[u8]> {
    let mut rest = text;
    let mut cut = Vec::with_capacity(parts);
    for left in (1..=parts).rev() {
        let about = rest.len() / left;
        let end = match left {
            1 => rest.len(),
            _ => memrchr(b'\n', &rest[..about]).map_or(0, |at| at + 1),
        };
        let (part, behind) = rest.split_at(end);
        cut.push(part);
        rest = behind;
    }
    cut
}

fn count(text: &[u8]) -> Counts<'_> {
    // Room for every word, so that it does not grow.
    let mut counts = Counts::with_capacity_and_hasher(VOCABULARY, RandomState::default());
    let mut begin = 0;
    for end in memchr2_iter(b' ', b'\n', text) {
        *counts.entry(&text[begin..end]).or_insert(0) += 1;
        begin = end + 1;
    }
    counts
}

fn merge<'a>(mut into: Counts<'a>, from: Counts<'a>) -> Counts<'a> {
    for (word, count) in from {
        *into.entry(word).or_insert(0) += count;
    }
    into
}

/// Reads lines from a socket for a while and gives the number of lines a second.
pub(crate) fn read_lines(address: SocketAddr, time: Duration) -> Result<f64> {
    const BUFFER_BYTES: usize = 256 << 10;
    let mut socket = TcpStream::connect(address)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    let mut lines = 0_u64;
    let started = Instant::now();
    while started.elapsed() < time {
        let read = socket.read(&mut buffer[filled..])?;
        if read == 0 {
            break;
        }
        filled += read;
        let mut begin = 0;
        for end in memchr_iter(b'\n', &buffer[..filled]) {
            black_box(&buffer[begin..end]);
            lines += 1;
            begin = end + 1;
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
    }
    Ok(lines as f64 / started.elapsed().as_secs_f64())
}
