//! Bytes become a sequence of buffer operations, done to EvBuffers and to vectors alike.
//!
//! A step is an operation, a flag byte, two little-endian arguments, a length, and so many bytes of
//! data; the last step may be cut short.
#![no_main]

#[path = "../../tests/evbuffer_world/mod.rs"]
mod evbuffer_world;

use evbuffer_world::{Step, World};
use libfuzzer_sys::fuzz_target;

/// Steps of one input: more add little but time.
const MAX_STEPS: usize = 200;

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    let mut rest = input;
    for _ in 0..MAX_STEPS {
        let Some(step) = next_step(&mut rest) else {
            break;
        };
        world.step(&step);
    }
    world.finish();
});

fn next_step(rest: &mut &[u8]) -> Option<Step> {
    let (head, tail) = rest.split_first_chunk::<11>()?;
    let [op, flags, a0, a1, a2, a3, b0, b1, b2, b3, len] = *head;
    let (data, tail) = tail.split_at(usize::from(len % 64).min(tail.len()));
    *rest = tail;
    Some(Step {
        op,
        second: flags & 1 != 0,
        a: u32::from_le_bytes([a0, a1, a2, a3]),
        b: u32::from_le_bytes([b0, b1, b2, b3]),
        data: data.to_vec(),
    })
}
