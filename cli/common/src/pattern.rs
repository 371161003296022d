//! The bytes that `load` sends: they depend on the position in the stream and on the
//! connection, so that lost, doubled, swapped and foreign bytes all show.

use bytes::Bytes;

/// After so many bytes the pattern repeats. A prime, so that messages of every size start at ever
/// other places; small enough to stay in a core's cache.
const PERIOD: usize = 65_521;

/// The longest piece that is given out at once.
const PIECE_MAX: usize = 65_536;

/// A stream's bytes at every position.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// The period, and again as much as a piece from its last position needs.
    bytes: Bytes,
}

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

impl Pattern {
    /// The one pattern there is.
    pub fn new() -> Self {
        // A linear congruential generator: the bytes only have to differ.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        bytes.extend_from_within(..);
        bytes.extend_from_within(..PIECE_MAX.saturating_sub(PERIOD));
        Self {
            bytes: Bytes::from(bytes),
        }
    }

    /// At most `len` bytes of the stream from `position` on, without a copy.
    pub fn piece(&self, position: u64, len: usize) -> Bytes {
        let start = start(position);
        self.bytes.slice(start..start + len.min(PIECE_MAX))
    }

    /// Where in the stream `received` first differs from what belongs at `position`.
    pub fn first_difference(&self, mut position: u64, received: &[u8]) -> Option<u64> {
        for chunk in received.chunks(PIECE_MAX) {
            let start = start(position);
            let expected = &self.bytes[start..start + chunk.len()];
            if chunk != expected {
                let same = chunk.iter().zip(expected).take_while(|(a, b)| a == b);
                return Some(position + same.count() as u64);
            }
            position += chunk.len() as u64;
        }
        None
    }
}

/// Where connection `index` begins in the pattern: connections next to each other are far
/// apart.
pub fn connection_offset(index: usize) -> u64 {
    (index as u64).wrapping_mul(40_503) % PERIOD as u64
}

fn start(position: u64) -> usize {
    (position % PERIOD as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_one_stream() {
        let pattern = Pattern::new();
        let mut stream = Vec::new();
        while stream.len() < 3 * PERIOD {
            let len = 1 + stream.len() % 70_000;
            stream.extend_from_slice(&pattern.piece(stream.len() as u64, len));
        }
        assert_eq!(pattern.first_difference(0, &stream), None);
        for (at, byte) in stream.iter().enumerate().step_by(997) {
            assert_eq!(pattern.piece(at as u64, 1)[0], *byte);
        }
    }

    #[test]
    fn every_kind_of_damage_shows() {
        let pattern = Pattern::new();
        let good = pattern.piece(1000, 5000);
        let mut flipped = good.to_vec();
        flipped[1234] ^= 1;
        assert_eq!(pattern.first_difference(1000, &flipped), Some(2234));
        let mut lost = good.to_vec();
        lost.remove(77);
        assert!(pattern.first_difference(1000, &lost).is_some());
        let mut swapped = good.to_vec();
        swapped.rotate_left(64);
        assert!(pattern.first_difference(1000, &swapped).is_some());
        let foreign = pattern.piece(connection_offset(1), 64);
        assert!(
            pattern
                .first_difference(connection_offset(2), &foreign)
                .is_some()
        );
    }
}
