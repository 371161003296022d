//! Randomness from a seed, and the trace by which two runs of one seed are compared.

use std::ops::Range;

/// Random decisions; the same seed takes the same ones.
#[derive(Debug)]
pub(crate) struct Dice(fastrand::Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(fastrand::Rng::with_seed(seed))
    }

    /// A number of the range.
    pub(crate) fn range(&mut self, range: Range<u64>) -> u64 {
        self.0.u64(range)
    }

    /// From 1 to `most`, rather small than large: what a short read or send is made of.
    pub(crate) fn part(&mut self, most: usize) -> usize {
        match self.0.u8(0..4) {
            0 => 1,
            1 => self.0.usize(1..=most.min(64)),
            _ => self.0.usize(1..=most),
        }
    }

    /// True in so many of a thousand cases.
    pub(crate) fn permille(&mut self, chance: u32) -> bool {
        chance != 0 && self.0.u32(0..1000) < chance
    }

    /// True in so many of a hundred cases.
    pub(crate) fn percent(&mut self, chance: u32) -> bool {
        self.permille(chance * 10)
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(0..choices.len())]
    }
}

/// What happened, as a running hash, printed as well when asked for.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Trace {
            hash: 0xCBF2_9CE4_8422_2325,
            print,
        }
    }

    pub(crate) fn note(&mut self, now: u64, what: &str, numbers: &[u64]) {
        let words = what.bytes().map(u64::from).chain(numbers.iter().copied());
        for word in words.chain([now]) {
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01B3);
        }
        if self.print {
            eprintln!("{:>14.6} {what} {numbers:?}", now as f64 / 1e9);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

/// The byte at a place of a stream: whoever reads it can tell a lost, a doubled or a foreign one.
pub(crate) fn pattern(stream: u32, at: u64) -> u8 {
    let mixed = (at ^ u64::from(stream) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as u8
}

/// So many bytes of a stream from `at` on.
pub(crate) fn pattern_bytes(stream: u32, at: u64, len: usize) -> Vec<u8> {
    (at..at + len as u64)
        .map(|at| pattern(stream, at))
        .collect()
}

/// Sees that `bytes` are what the stream has from `at` on.
pub(crate) fn check_pattern(who: &str, stream: u32, at: u64, bytes: impl IntoIterator<Item = u8>) {
    for (place, byte) in (at..).zip(bytes) {
        let expected = pattern(stream, place);
        assert_eq!(
            byte, expected,
            "{who}: byte {place} of stream {stream} is wrong"
        );
    }
}
