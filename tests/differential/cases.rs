//! Scripts written for the rules, and the differences that are meant.
//!
//! `differs` is what only libevent does (`<`) and what only evring does (`>`), by the line of the
//! script. Where it is not empty the comment says which rule wants it so.

use super::compare::{Differ, Order};

pub const ALL: &[Differ] = &[
    Differ {
        name: "rule 01: a new bufferevent writes and does not read, and calls nobody",
        order: Order::AsCalled,
        script: "
            sock 0 c
            nofd 1 c
            pair 2 3 c
            sock 4 c
            filter 5 4 c pass
            pwrite 0 5
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 02: each explicit enable of WRITE calls the write callback once",
        order: Order::AsCalled,
        script: "
            sock 0 c
            run
            enable 0 w
            run
            enable 0 w
            enable 0 w
            run
            setfd 0 new
            run
            disable 0 w
            run
            enable 0 r
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 02: not with the output above its low mark, nor for pairs and filters",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            enable 0 w
            run
            sock 2 c
            filter 3 2 c pass
            run
            enable 3 w
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 03: what waits goes out on the next enable",
        order: Order::AsCalled,
        script: "
            sock 0 c
            disable 0 w
            write 0 10
            run
            pread 0 100
            enable 0 w
            run
            pread 0 100
        ",
        differs: "",
    },
    // Rule 3 holds for filters as well; libevent's sends what waits with the next write only.
    Differ {
        name: "rule 03: the same on a filter",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c pass
            disable 1 w
            write 1 10
            run
            pread 0 100
            enable 1 w
            run
            pread 0 100
            write 1 1
            run
            pread 0 100
        ",
        differs: "
            8: > run
            < = 0 rw in 0 out 0
            < = 1 -w in 0 out 10
            > 1w write 0
            > = 0 rw in 0 out 0
            > = 1 -w in 0 out 0
            9: > pread 0 100
            < main pgot 0 811c9dc5
            > main pgot 10 23067898
            12: > pread 0 100
            < main pgot 11 20307647
            > main pgot 1 e00c22e0
        ",
    },
    // Rule 4 holds for every flavour; libevent protects neither a pair's output nor the buffers of
    // a filter.
    Differ {
        name: "rule 04: input takes no appends, output no drains",
        order: Order::AsCalled,
        script: "
            sock 0 c
            disable 0 w
            write 0 5
            addin 0
            drainout 0
            run
            pair 1 2 c
            addin 1
            drainout 1
            sock 3 c
            filter 4 3 c pass
            addin 4
            drainout 4
        ",
        differs: "
            9: > drainout 1
            > main refused
            12: > addin 4
            > main refused
            13: > drainout 4
            > main refused
        ",
    },
    Differ {
        name: "rule 05: timeouts run without a descriptor",
        order: Order::AsCalled,
        script: "
            nofd 0 c
            timeouts 0 20 0
            enable 0 r
            wait 60
        ",
        differs: "",
    },
    Differ {
        name: "rule 06: from the low mark on, and nothing when it is lowered",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 r 5 0
            enable 0 r
            run
            pwrite 0 4
            run
            pwrite 0 1
            run
            marks 0 r 9 0
            pwrite 0 1
            run
            marks 0 r 1 0
            run
            clearcb 0
            setcb 0
            run
            trigger 0 r -
            pwrite 0 1
            run
        ",
        differs: "",
    },
    // Rule 6: what came in is told; libevent's flush of a filter does not. Rule 33: nothing moved
    // below, so nobody is called.
    Differ {
        name: "rule 06: a flush of a filter's reading direction",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            filter 2 0 c block
            enable 2 r
            write 1 6
            run
            flush 2 r flush
            run
        ",
        differs: "
            6: > flush 2 r flush
            > 2r read 6
            7: > run
            < 1w write 0
        ",
    },
    Differ {
        name: "rule 07: no more than the high mark, and on once drained",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 r 0 10
            always 0 r read 0 10
            enable 0 r
            pwrite 0 25
            run
            pwrite 0 10
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 07: a pause at the mark, drained from outside",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 r 0 10
            on 0 r disable 0 r
            enable 0 r
            pwrite 0 25
            run
            read 0 4
            run
            read 0 10
            enable 0 r
            on 0 r read 0 10
            on 0 r read 0 10
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 08: full when the callback returns: called again",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 r 0 10
            always 0 r read 0 1
            marks 0 r 0 4
            enable 0 r
            pwrite 0 8
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 08: not if it disabled reading",
        order: Order::AsCalled,
        script: "
            sock 0 c
            enable 0 r
            pwrite 0 8
            marks 0 r 0 8
            on 0 r disable 0 r
            run
            read 0 1
            run
        ",
        differs: "",
    },
    // Rule 8 [I]: no spinning.
    Differ {
        name: "rule 08: not for ever if it does not drain",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 r 0 4
            enable 0 r
            pwrite 0 4
            run
        ",
        differs: "
            5: > run
            < endless
            > = 0 rw in 4 out 0
        ",
    },
    Differ {
        name: "rule 09: the end of the stream disables READ, tells once, and again when enabled again",
        order: Order::AsCalled,
        script: "
            sock 0 c
            enable 0 r
            pwrite 0 5
            pshut 0
            run
            read 0 10
            run
            write 0 6
            run
            pread 0 100
            enable 0 r
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 09: no read callback for what is below the low mark",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 r 10 0
            enable 0 r
            pwrite 0 5
            pshut 0
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 09: not while reading pauses at the high mark",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 r 0 5
            always 0 r disable 0 r
            enable 0 r
            pwrite 0 5
            pshut 0
            run
            read 0 5
            enable 0 r
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 09: not while READ is disabled",
        order: Order::AsCalled,
        script: "
            sock 0 c
            pwrite 0 5
            pshut 0
            run
            enable 0 r
            run
        ",
        differs: "",
    },
    // Rule 9 holds for filters as well: READ is disabled, and enabling it again tells the end
    // again.
    Differ {
        name: "rule 09: on a filter",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c pass
            enable 1 r
            pwrite 0 5
            pshut 0
            run
            enable 1 r
            run
            write 1 5
            run
            pread 0 100
        ",
        differs: "
            6: > run
            < = 1 rw in 5 out 0
            > = 1 -w in 5 out 0
            8: > run
            < = 0 -w in 0 out 0
            < = 1 rw in 5 out 0
            > 1r event 11
            > = 0 -w in 0 out 0
            > = 1 -w in 5 out 0
            10: > run
            < = 1 rw in 5 out 0
            > = 1 -w in 5 out 0
        ",
    },
    Differ {
        name: "rule 11: the write callback comes at the low mark, not above it",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 w 100 0
            write 0 10
            run
            write 0 200
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 11: a write from the write callback",
        order: Order::AsCalled,
        script: "
            sock 0 c
            on 0 w write 0 5
            write 0 10
            run
            pread 0 100
        ",
        differs: "",
    },
    Differ {
        name: "rule 12: the write high mark does not bound a socket's write",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 w 0 10
            write 0 100
            run
            pread 0 1000
        ",
        differs: "",
    },
    Differ {
        name: "rule 13: a peer that is gone",
        order: Order::PerDirection,
        script: "
            sock 0 c
            pclose 0
            write 0 10
            run
            write 0 5
            run
            enable 0 w
            run
        ",
        differs: "",
    },
    // Rules 9 and 13 hold for filters as well: what failed is disabled.
    Differ {
        name: "rule 13: the same on a filter",
        order: Order::PerDirection,
        script: "
            sock 0 c
            filter 1 0 c pass
            pclose 0
            write 1 10
            run
            write 1 5
            run
        ",
        differs: "
            5: > run
            < = 1 -w in 0 out 0
            > = 1 -- in 0 out 0
            6: > write 1 5
            < 1w write 0
            7: > run
            < = 0 r- in 0 out 15
            < = 1 -w in 0 out 0
            > = 0 r- in 0 out 10
            > = 1 -- in 0 out 5
        ",
    },
    Differ {
        name: "rule 15: deferred, the order is connected, read, write, events",
        order: Order::AsCalled,
        script: "
            sock 0 cd
            event 0 10 -
            trigger 0 w i
            trigger 0 r i
            event 0 80 -
            event 0 40 -
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 15: event flags are joined",
        order: Order::AsCalled,
        script: "
            sock 0 cd
            event 0 11 -
            event 0 42 -
            run
            sock 1 c
            event 1 11 d
            event 1 42 d
            run
        ",
        differs: "",
    },
    // Rule 15: what has nobody to be told to is over; libevent keeps it until callbacks are set
    // again.
    Differ {
        name: "rule 15: callbacks changed inside one hold for the same run",
        order: Order::AsCalled,
        script: "
            sock 0 cd
            trigger 0 rw i
            event 0 11 -
            on 0 r clearcb 0
            run
            setcb 0
            trigger 0 rw i
            run
        ",
        differs: "
            8: > run
            < 0r event 11
        ",
    },
    Differ {
        name: "rule 16: UNLOCK_CALLBACKS needs DEFER_CALLBACKS",
        order: Order::AsCalled,
        script: "
            sock 0 cu
            sock 1 cdu
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 17: trigger heeds the marks unless told not to",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 r 5 0
            trigger 0 r -
            trigger 0 r i
            trigger 0 rw -
            trigger 0 rw d
            run
            event 0 55 -
            event 0 55 d
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 17: a trigger inside a callback of the same bufferevent",
        order: Order::AsCalled,
        script: "
            sock 0 c
            on 0 r trigger 0 w -
            trigger 0 r -
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 17: a callback inside a callback of the same bufferevent, deferred",
        order: Order::AsCalled,
        script: "
            sock 0 c
            on 0 r trigger 0 w d
            trigger 0 r -
            run
            pair 1 2 c
            trigger 1 rw -
            run
        ",
        differs: "",
    },
    // Rule 35 [I]: freeing one side of a pair ends the other.
    Differ {
        name: "rule 18: free self in each callback",
        order: Order::PerDirection,
        script: "
            sock 0 c
            enable 0 rw
            pwrite 0 5
            on 0 r free 0
            run
            sock 1 c
            write 1 5
            on 1 w free 1
            run
            pread 1 100
            sock 2 c
            enable 2 r
            pclose 2
            on 2 R free 2
            run
            sock 3 cd
            enable 3 rw
            pwrite 3 1
            on 3 r free 3
            run
            pair 4 5 cd
            enable 5 r
            write 4 5
            on 5 r free 4
            run
        ",
        differs: "
            25: > run
            < = 5 rw in 5 out 0
            > 5r event 11
            > = 5 -w in 5 out 0
        ",
    },
    Differ {
        name: "rule 18: stop in a callback",
        order: Order::AsCalled,
        script: "
            sock 0 c
            sock 1 c
            enable 0 r
            enable 1 r
            pwrite 0 5
            pwrite 1 5
            on 0 r stop
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 19: free does not flush; it closes",
        order: Order::AsCalled,
        script: "
            sock 0 c
            write 0 10
            free 0
            run
            pread 0 100
            sock 1 -
            free 1
            run
            pread 1 10
        ",
        differs: "",
    },
    Differ {
        name: "rule 20: without CLOSE_ON_FREE what is below a filter stays, without callbacks",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 - pass
            enable 1 r
            pwrite 0 5
            run
            free 1
            run
            pwrite 0 5
            run
            setcb 0
            run
            write 0 3
            pwrite 0 3
            run
            pread 0 100
        ",
        differs: "",
    },
    Differ {
        name: "rule 22: the read timer, restarted by bytes",
        order: Order::PerDirection,
        script: "
            sock 0 c
            timeouts 0 150 0
            enable 0 r
            wait 90
            pwrite 0 1
            wait 90
            wait 120
            enable 0 r
            wait 200
        ",
        differs: "",
    },
    Differ {
        name: "rule 22: no read timer while READ is disabled or the input full",
        order: Order::PerDirection,
        script: "
            sock 0 c
            timeouts 0 20 0
            wait 50
            marks 0 r 0 4
            always 0 r trigger 0 w -
            on 0 r disable 0 w
            enable 0 w
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 22: no write timer without anything to write",
        order: Order::PerDirection,
        script: "
            sock 0 c
            timeouts 0 0 20
            wait 50
            enable 0 w
            wait 50
        ",
        differs: "",
    },
    Differ {
        name: "rule 23: both directions",
        order: Order::PerDirection,
        script: "
            nofd 0 c
            timeouts 0 20 20
            enable 0 rw
            wait 60
            enable 0 rw
            wait 60
        ",
        differs: "",
    },
    Differ {
        name: "rule 24: an idle filter with WRITE enabled, an idle pair",
        order: Order::PerDirection,
        script: "
            pair 0 1 c
            timeouts 0 0 20
            enable 0 w
            wait 50
            pair 2 3 c
            filter 4 2 c pass
            timeouts 4 0 20
            enable 4 w
            wait 50
        ",
        differs: "",
    },
    Differ {
        name: "rule 24: a pair that has something to write, and one that reads",
        order: Order::PerDirection,
        script: "
            pair 0 1 c
            timeouts 0 0 20
            write 0 5
            enable 0 w
            wait 60
            timeouts 1 20 0
            enable 1 r
            wait 60
        ",
        differs: "",
    },
    // Rule 26: CONNECTED alone; libevent 2.1 calls the write callback as well when a connect
    // succeeds at once.
    Differ {
        name: "rule 26: connect to a Unix socket",
        order: Order::AsCalled,
        script: "
            nofd 0 c
            connect 0 unix
            write 0 10
            run
            accept 0
            run
            pread 0 100
            pwrite 0 5
            enable 0 r
            run
        ",
        differs: "
            4: > run
            < 0w write 10
        ",
    },
    Differ {
        name: "rule 26: connect over TCP, then what was queued",
        order: Order::AsCalled,
        script: "
            nofd 0 c
            connect 0 tcp
            write 0 10
            run
            accept 0
            run
            pread 0 100
            enable 0 r
            pwrite 0 5
            run
            pshut 0
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 26: a connect alone brings no write callback",
        order: Order::AsCalled,
        script: "
            nofd 0 c
            connect 0 tcp
            run
            accept 0
            run
        ",
        differs: "",
    },
    // Rule 27: `enabled` stays; libevent disables WRITE when a connect fails at once.
    Differ {
        name: "rule 27: nobody listens",
        order: Order::AsCalled,
        script: "
            nofd 0 c
            connect 0 refused
            run
            nofd 1 c
            connect 1 nounix
            run
        ",
        differs: "
            6: > run
            < = 1 -- in 0 out 0
            > = 1 -w in 0 out 0
        ",
    },
    Differ {
        name: "rule 27: something was queued",
        order: Order::AsCalled,
        script: "
            nofd 0 c
            enable 0 rw
            write 0 10
            connect 0 refused
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 29: another descriptor",
        order: Order::AsCalled,
        script: "
            sock 0 c
            enable 0 r
            pwrite 0 5
            run
            setfd 0 new
            pwrite 0 6
            run
            setfd 0 none
            write 0 3
            run
            setfd 0 new
            run
            pread 0 100
            pair 1 2 c
            setfd 1 new
        ",
        differs: "",
    },
    Differ {
        name: "rule 31: priorities are for sockets",
        order: Order::AsCalled,
        script: "
            sock 0 c
            priority 0 0
            priority 0 1
            pair 1 2 c
            priority 1 0
            sock 3 c
            filter 4 3 c pass
            priority 4 0
        ",
        differs: "",
    },
    Differ {
        name: "rule 32: a pair moves bytes at write and at either enable",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            write 0 10
            run
            enable 1 r
            run
            write 0 5
            run
            disable 0 w
            write 0 5
            run
            enable 0 w
            run
            free 0
            free 1
        ",
        differs: "",
    },
    Differ {
        name: "rule 32: up to the high mark, and on when drained",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            marks 1 r 0 10
            always 1 r read 1 4
            enable 1 r
            write 0 25
            run
        ",
        differs: "",
    },
    Differ {
        name: "rule 33: a transfer calls both, as their low marks allow",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            marks 1 r 10 0
            marks 0 w 5 0
            enable 1 r
            write 0 5
            run
            write 0 5
            run
        ",
        differs: "",
    },
    // Rule 33 [I].
    Differ {
        name: "rule 33: not when nothing moved",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            enable 1 r
            flush 0 w flush
            run
        ",
        differs: "
            4: > run
            < 1r read 0
            < 0w write 0
        ",
    },
    // Rule 34: the answer tells whether bytes moved, as the header says; libevent's pair always
    // answers 0.
    Differ {
        name: "rule 34: the modes of a flush",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            disable 0 w
            write 0 5
            flush 0 w normal
            run
            flush 0 w flush
            run
            write 0 5
            flush 1 r flush
            run
            free 0
            free 1
        ",
        differs: "
            6: > flush 0 w flush
            < main flushed 0
            > main flushed 1
            9: > flush 1 r flush
            < main flushed 0
            > main flushed 1
        ",
    },
    // Rule 33 [I]: nothing moved. Rule 9 holds for pairs as well: READ is disabled.
    Differ {
        name: "rule 34: FINISHED is the end",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            enable 1 r
            write 0 5
            run
            flush 0 w finished
            run
        ",
        differs: "
            6: > run
            < 1r read 5
            < 1r event 11
            < 0w write 0
            < = 0 -w in 0 out 0
            < = 1 rw in 5 out 0
            > 1r event 11
            > = 0 -w in 0 out 0
            > = 1 -w in 5 out 0
        ",
    },
    // Rule 34: a flush moves all; libevent stops at the mark, but not when it is reached already.
    Differ {
        name: "rule 34: a flush passes the high mark",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            disable 0 w
            marks 1 r 0 4
            write 0 10
            flush 0 w flush
            run
        ",
        differs: "
            5: > flush 0 w flush
            < main flushed 0
            > main flushed 1
            6: > run
            < 1r read 4
            < = 0 -- in 0 out 6
            < = 1 -w in 4 out 0
            > 1r read 10
            > 0w write 0
            > = 0 -- in 0 out 0
            > = 1 -w in 10 out 0
        ",
    },
    // Rule 35 [I].
    Differ {
        name: "rule 35: freeing one side ends the other",
        order: Order::AsCalled,
        script: "
            pair 0 1 c
            enable 1 r
            write 0 5
            run
            free 0
            run
            write 1 5
            run
        ",
        differs: "
            6: > run
            < = 1 rw in 5 out 0
            > 1r event 11
            > = 1 -w in 5 out 0
            8: > run
            < = 1 rw in 5 out 5
            > = 1 -w in 5 out 5
        ",
    },
    Differ {
        name: "rule 35: no write time-out on a drained source",
        order: Order::PerDirection,
        script: "
            pair 0 1 c
            enable 1 r
            timeouts 0 0 20
            enable 0 w
            write 0 5
            wait 60
        ",
        differs: "",
    },
    Differ {
        name: "rule 37: a filter reads only while it is enabled",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c pass
            pwrite 0 5
            run
            enable 1 r
            run
            write 1 7
            run
            pread 0 100
        ",
        differs: "",
    },
    Differ {
        name: "rule 38: the output filter within the write, bounded by the mark below",
        order: Order::AsCalled,
        script: "
            sock 0 c
            marks 0 w 0 10
            disable 0 w
            filter 1 0 c pass
            disable 0 w
            write 1 25
            run
            enable 0 w
            run
            pread 0 100
        ",
        differs: "",
    },
    // Rule 38: a filter that was full goes on when it is drained; libevent's leaves the rest until
    // more comes.
    Differ {
        name: "rule 38: the input filter and its high mark",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c pass
            marks 1 r 0 10
            always 1 r read 1 10
            enable 1 r
            pwrite 0 35
            run
            pwrite 0 5
            run
        ",
        differs: "
            7: > run
            < = 0 rw in 25 out 0
            > 1r read 10
            > 1r got 10 9eeaf416
            > 1r read 10
            > 1r got 10 334c9d7e
            > 1r read 5
            > 1r got 5 38bf23d0
            > = 0 rw in 0 out 0
            9: > run
            < 1r read 10
            < 1r got 10 9eeaf416
            < = 0 rw in 20 out 0
            > 1r read 5
            > 1r got 5 ecd78c81
            > = 0 rw in 0 out 0
        ",
    },
    Differ {
        name: "rule 38: a low mark below",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c pass
            marks 0 r 10 0
            enable 1 r
            pwrite 0 5
            run
            pwrite 0 5
            run
        ",
        differs: "",
    },
    // Rule 38: without recursion; libevent calls back again within the write.
    Differ {
        name: "rule 38: writes in the write callback of a filter",
        order: Order::PerDirection,
        script: "
            sock 0 c
            filter 1 0 c pass
            on 1 w write 1 4
            write 1 10
            run
            pread 0 100
        ",
        differs: "
            4: > write 1 10
            < 1w write 0
            5: > run
            > 1w write 0
        ",
    },
    // Rule 38: it runs when there is something and it may; libevent's waits for more.
    Differ {
        name: "rule 38: an enable takes what waits below",
        order: Order::AsCalled,
        script: "
            sock 0 c
            enable 0 r
            pwrite 0 9
            run
            filter 1 0 c pass
            run
            enable 1 r
            run
        ",
        differs: "
            8: > run
            < = 0 rw in 9 out 0
            < = 1 rw in 0 out 0
            > 1r read 9
            > = 0 rw in 0 out 0
            > = 1 rw in 9 out 0
        ",
    },
    Differ {
        name: "rule 39: a filter that waits for more",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c block
            enable 1 r
            pwrite 0 3
            run
            pwrite 0 3
            run
            write 1 6
            run
            pread 0 100
            flush 1 w flush
            run
            pread 0 100
        ",
        differs: "",
    },
    // Rule 39 [I]: the filter is called with Finished before the end is told. Rule 9: READ is
    // disabled.
    Differ {
        name: "rule 39: its rest at the end of the stream",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c block
            enable 1 r
            pwrite 0 6
            pshut 0
            run
        ",
        differs: "
            6: > run
            < 1r event 11
            < = 0 -w in 2 out 0
            < = 1 rw in 4 out 0
            > 1r read 6
            > 1r event 11
            > = 0 -w in 0 out 0
            > = 1 -w in 6 out 0
        ",
    },
    // Rule 39 [I]: an error is told, with its direction, which it disables.
    Differ {
        name: "rule 39: an error of the filter",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c err
            enable 1 r
            pwrite 0 6
            run
            write 1 5
            run
        ",
        differs: "
            5: > run
            < = 0 rw in 6 out 0
            < = 1 rw in 0 out 0
            > 1r event 21 errno 84
            > = 0 rw in 6 out 0
            > = 1 -w in 0 out 0
            6: > write 1 5
            > 1w event 22 errno 84
            7: > run
            < = 1 rw in 0 out 5
            > = 1 -- in 0 out 5
        ",
    },
    Differ {
        name: "rule 40: filters stack",
        order: Order::AsCalled,
        script: "
            sock 0 c
            filter 1 0 c xor
            filter 2 1 c dup
            filter 3 2 c block
            enable 3 r
            write 3 10
            run
            pread 0 100
            pwrite 0 16
            run
            flush 3 w flush
            run
            pread 0 100
            free 3
            run
            pread 0 10
        ",
        differs: "",
    },
    Differ {
        name: "rule 40: what a flush answers",
        order: Order::AsCalled,
        script: "
            sock 0 c
            flush 0 w flush
            filter 1 0 c block
            write 1 6
            flush 1 w normal
            flush 1 w flush
            flush 1 w flush
            run
        ",
        differs: "",
    },
    Differ {
        name: "bounds of one operation",
        order: Order::AsCalled,
        script: "
            sock 0 c
            maxread 0 4
            enable 0 r
            pwrite 0 10
            run
            maxwrite 0 4
            marks 0 w 6 0
            write 0 10
            run
        ",
        differs: "",
    },
];
