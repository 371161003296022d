//! Random sequences of all operations, compared with vectors.

mod evbuffer_world;

use evbuffer_world::{Step, World};
use proptest::collection::vec;
use proptest::prelude::*;

fn step() -> impl Strategy<Value = Step> {
    // Few different bytes, line ends among them, so that searches find something.
    let byte = prop_oneof![
        4 => Just(b'a'),
        4 => Just(b'b'),
        2 => Just(b'c'),
        1 => Just(b'\r'),
        1 => Just(b'\n'),
        1 => Just(0u8),
    ];
    (
        any::<u8>(),
        any::<bool>(),
        any::<u32>(),
        any::<u32>(),
        vec(byte, 0..40),
    )
        .prop_map(|(op, second, a, b, data)| Step {
            op,
            second,
            a,
            b,
            data,
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn behaves_like_a_vector(steps in vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}
