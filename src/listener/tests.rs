//! What a listener makes of the errors of an accept.

use super::*;

#[test]
fn what_befell_one_connection_is_no_failure_to_accept() {
    let base = EventBase::new().expect("a base");
    let at = "127.0.0.1:0".parse().expect("an address");
    let listener = Listener::bind(&base, &at, ListenOptions::default(), |_, _| {});
    let listener = listener.expect("a free port");
    let told = Rc::new(Cell::new(0));
    let count = told.clone();
    listener.on_error(move |_, _| count.set(count.get() + 1));
    for errno in [libc::ECONNABORTED, libc::EPROTO, libc::EHOSTUNREACH] {
        listener.0.refused(&base, Errno::from_raw(errno));
        assert_eq!(told.get(), 0, "{errno}");
        assert_eq!(listener.0.state.get(), Accepting::Armed);
    }
    listener.0.refused(&base, Errno::from_raw(libc::EMFILE));
    assert_eq!(told.get(), 1);
    assert!(matches!(listener.0.state.get(), Accepting::Backoff(_)));
}
