use super::limits::*;
use super::*;
use crate::rate_limit::RateLimitConfig;

const SLOT: u32 = 16 << 10;

fn config(rate: u32, burst: u32) -> RateLimitConfig {
    let (rate, burst) = (rate as usize, burst as usize);
    RateLimitConfig::new(rate, burst, rate, burst, None).expect("valid")
}

fn own(base: &EventBase, rate: u32) -> Limits {
    let mut limits = Limits::default();
    let limiter = &mut limits.limiter;
    limiter.set_config(Some(&config(rate, rate)), base.now());
    limits
}

fn member(base: &EventBase, rate: u32, burst: u32) -> Limits {
    let mut limits = Limits::default();
    let group = base.rate_limit_group(&config(rate, burst));
    let port = base.group_port(&group).expect("a descriptor");
    limits.limiter.join(port.port(), 0).expect("open");
    limits.port = Some(port);
    limits
}

fn launched(multishot: bool, bytes: u32, poll_first: bool) -> Receive {
    Receive::Launch {
        multishot,
        bytes,
        each: 0,
        poll_first,
    }
}

#[test]
fn a_multishot_keeps_to_its_grant_although_it_overshoots() {
    let base = EventBase::new().expect("a ring");
    let mut limits = own(&base, 10 * SLOT);
    let receive = limits.launch_receive(&base, true, MOST_BYTES);
    assert_eq!(receive, launched(true, 9 * SLOT + 1, true));
    assert_eq!(limits.read.granted(), 10 * SLOT);
    // All is granted: nothing is left for another.
    assert_eq!(limits.launch_receive(&base, true, 1), Receive::Wait);
    assert!(limits.read.suspended && limits.read.closed_until > base.now());
}

#[test]
fn a_small_grant_is_a_single_receive_of_all_of_it() {
    let base = EventBase::new().expect("a ring");
    for rate in [1, 1_000, 2 * SLOT - 1] {
        let receive = own(&base, rate).launch_receive(&base, true, MOST_BYTES);
        assert_eq!(receive, launched(false, rate, true));
    }
    let receive = own(&base, 10 * SLOT).launch_receive(&base, false, MOST_BYTES);
    assert_eq!(receive, launched(false, 10 * SLOT, true), "Unix sockets");
    let receive = own(&base, 10 * SLOT).launch_receive(&base, true, 100);
    assert_eq!(receive, launched(false, 100, true), "a high mark");
}

#[test]
fn a_member_waits_for_data_with_what_the_group_can_spare() {
    let base = EventBase::new().expect("a ring");
    let mut spares = member(&base, 100 * SLOT, 200 * SLOT);
    let much = IDLE_RECEIVE_SLOTS as u32 * SLOT;
    let receive = spares.launch_receive(&base, true, MOST_BYTES);
    assert_eq!(receive, launched(true, much - (SLOT - 1), true));

    let mut tight = member(&base, 2 * SLOT, 2 * SLOT);
    let receive = tight.launch_receive(&base, true, MOST_BYTES);
    assert_eq!(receive, launched(false, SLOT, true));
    // The slack is spent, and a 256th of the rate not worth it: the next has to know of data.
    let receive = tight.launch_receive(&base, true, MOST_BYTES);
    assert_eq!(receive, Receive::AwaitReadable);
    tight.readable = true;
    let receive = tight.launch_receive(&base, true, MOST_BYTES);
    assert_eq!(receive, launched(false, SLOT, false));
    assert!(!tight.readable, "until it is known anew");
}

#[test]
fn small_messages_are_received_by_a_multishot_of_small_receives() {
    let base = EventBase::new().expect("a ring");
    // A slot and a 256th of the rate for all; alone it may have it all.
    let mut limits = member(&base, 100 * SLOT, 100 * SLOT);
    let share = SLOT + 100 * SLOT / 256;
    assert_eq!(
        limits.launch_receive(&base, true, MOST_BYTES),
        launched(false, SLOT, true),
        "nothing is known of its messages yet"
    );
    limits.limiter.complete(
        Direction::Read,
        limits.read.grant.take().expect("granted"),
        64,
        base.now(),
    );
    limits.last_bytes = 64;
    let each = share / SMALL_PART;
    assert_eq!(
        limits.launch_receive(&base, true, MOST_BYTES),
        Receive::Launch {
            multishot: true,
            bytes: share - (each - 1),
            each,
            poll_first: true,
        }
    );
    assert_eq!(
        limits.read.granted(),
        share,
        "what it may overshoot by is granted"
    );
    limits.limiter.complete(
        Direction::Read,
        limits.read.grant.take().expect("granted"),
        64,
        base.now(),
    );
    limits.last_bytes = each + 1;
    let receive = limits.launch_receive(&base, true, MOST_BYTES);
    assert_eq!(receive, launched(false, SLOT, true), "too large for it");
}
