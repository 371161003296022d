//! Calls that come a second time.

use std::time::Duration;

use super::clock::{CAPACITY, Clock};
use crate::driver::sim::net::fd_of;
use crate::driver::sim::socket::Kind;
use crate::{FlushEnd, Interest, Options};

#[test]
fn a_close_that_another_takes_the_place_of_is_told_what_it_left_unsent() {
    for kind in [Kind::Inet, Kind::Unix] {
        let clock = Clock::new();
        let (near, far) = clock.connection(kind, Options::empty());
        near.write(&vec![7; 4 * CAPACITY]).unwrap();
        let first = clock.close(&near, Some(Duration::from_secs(10)));
        clock.run(1);
        assert_eq!(first.get(), None);
        let second = clock.close(&near, Some(Duration::from_secs(20)));
        let told = first.get().map(|(_, how)| how);
        assert!(matches!(told, Some(FlushEnd::Failed { unsent: 1.. })));
        far.enable(Interest::READ).unwrap();
        clock.run(5);
        let told = second.get().map(|(_, how)| how);
        assert_eq!(told, Some(FlushEnd::Flushed));
    }
}

#[test]
fn one_that_was_read_to_the_end_reads_its_next_descriptor() {
    for kind in [Kind::Inet, Kind::Unix] {
        let clock = Clock::new();
        let (bev, _far) = clock.connection(kind, Options::empty());
        bev.enable(Interest::READ).unwrap();
        bev.finish_reading(|_| {}).unwrap();
        clock.run(1);
        let [other, far] = clock.sockets(kind);
        bev.simulate_another(fd_of(other));
        bev.enable(Interest::READ).unwrap();
        let far = clock.over(far, kind, Options::empty());
        far.write(b"more").unwrap();
        clock.run(1);
        assert_eq!(bev.input().len(), 4, "{kind:?}");
    }
}
