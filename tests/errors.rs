//! Errors as their readers see them: one line with the cause in it, once, however it is printed.

use std::error::Error as _;
use std::os::unix::net::UnixStream;

use evring::arena::{Arena, ArenaConfig};
use evring::evbuffer::EvBuffer;
use evring::rate_limit::{RateLimitConfig, RateSpec};
use evring::ring::{CapsMask, Ring, RingConfig, SetupError};
use evring::{Addr, BufferEvent, Error, EventBase, ListenOptions, Listener, Options};

/// The text of an error and of everything behind it, as those print it who walk the chain.
fn chain(error: &Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut behind = error.source();
    while let Some(cause) = behind {
        texts.push(cause.to_string());
        behind = cause.source();
    }
    texts
}

/// Errors of all kinds that a program meets while it starts, each with a part of its cause.
fn errors() -> Vec<(Error, &'static str)> {
    let base = EventBase::new().expect("a ring");
    let listen = |at: &Addr| Listener::bind(&base, at, ListenOptions::default(), |_, _| {});
    let any: Addr = "127.0.0.1:0".parse().expect("an address");
    let taken = listen(&any).expect("a free port");
    let at = taken.local_addr().expect("bound");
    let foreign: Addr = "192.0.2.1:7000".parse().expect("an address");
    let freed = BufferEvent::pair(&base, Options::empty())
        .expect("a pair")
        .0;
    freed.free();
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    let options = Options::CLOSE_ON_FREE;
    let unix = BufferEvent::socket(&base, Some(ours.into()), options).expect("a bufferevent");
    let unknown = "no_such"
        .parse::<evring::ring::CapsMask>()
        .expect_err("none");
    vec![
        (listen(&at).expect_err("taken"), "in use"),
        (listen(&foreign).expect_err("not ours"), "assign"),
        (
            "localhost".parse::<Addr>().expect_err("no port"),
            "localhost",
        ),
        (freed.write(b"x").expect_err("freed"), "freed"),
        (unix.set_nodelay(true).expect_err("no TCP"), ""),
        (base.signal(-1, |_| {}).expect_err("no signal"), "nvalid"),
        (
            EventBase::builder()
                .slot_size(1)
                .build()
                .expect_err("small"),
            "slot size",
        ),
        (
            EventBase::builder()
                .priorities(0)
                .build()
                .expect_err("none"),
            "priorities",
        ),
        (Error::Setup(SetupError::from(unknown)), "no_such"),
    ]
}

#[test]
fn a_cause_is_told_once() {
    for (error, cause) in errors() {
        let texts = chain(&error);
        assert!(texts[0].contains(cause), "{texts:?} names '{cause}'");
        for (at, text) in texts.iter().enumerate().skip(1) {
            let before = &texts[..at];
            assert!(!before.iter().any(|told| told.contains(text)), "{texts:?}");
        }
    }
}

#[test]
fn what_main_returns_reads_as_a_sentence() {
    for (error, _) in errors() {
        // `main` prints an error that it returns by `{:?}`, boxed or not.
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.contains("Os {"), "{text}");
        assert_eq!(format!("{error:?}"), text);
        let boxed: Box<dyn std::error::Error> = error.into();
        assert_eq!(format!("{boxed:?}"), text);
    }
}

/// Those that a program meets by themselves, from the parts of the library that work alone.
#[test]
fn the_errors_of_each_part_read_as_a_sentence_too() {
    let mut frozen = EvBuffer::new();
    frozen.freeze_end();
    let sizes = RingConfig::default().entries(1 << 20);
    let all: Vec<Box<dyn std::error::Error>> = vec![
        frozen.add(b"x").expect_err("frozen").into(),
        Arena::new(ArenaConfig::default().slot_size(1))
            .expect_err("too small")
            .into(),
        Ring::new(&sizes).expect_err("too large").into(),
        "no_such".parse::<CapsMask>().expect_err("no sign").into(),
        RateLimitConfig::new(0, 1, 1, 1, None)
            .expect_err("nothing moves")
            .into(),
        "fast".parse::<RateSpec>().expect_err("no number").into(),
    ];
    for error in all {
        let text = error.to_string();
        assert!(text.contains(' ') && !text.contains('\n'), "{text}");
        assert_eq!(format!("{error:?}"), text);
    }
}
