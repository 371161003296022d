//! Compiles the libevent peers, if libevent's headers are on this machine.
//!
//! Without them the binaries named `libevent-*` are still built, but only say what is missing;
//! nothing else in the workspace depends on libevent.

use std::env;
use std::path::PathBuf;

/// Binary, C source, and the library's name in `OUT_DIR`.
const PEERS: [(&str, &str); 3] = [
    ("libevent-echo", "c/echo.c"),
    ("libevent-proxy", "c/proxy.c"),
    ("libevent-pair", "c/pair.c"),
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(have_libevent)");
    println!("cargo::rerun-if-changed=c");
    println!("cargo::rerun-if-env-changed=CFLAGS");

    let headers_found = cc::Build::new()
        .file("c/probe.c")
        .cargo_warnings(false)
        .cargo_metadata(false)
        .try_expand()
        .is_ok();
    if !headers_found {
        // A path that is not there makes cargo look again with every build, until it is.
        println!("cargo::rerun-if-changed=/usr/include/event2/event.h");
        println!(
            "cargo::warning=libevent's headers were not found (Debian: libevent-dev); \
             libevent-echo, libevent-proxy and libevent-pair are built without it"
        );
        return;
    }

    println!("cargo::rustc-cfg=have_libevent");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (bin, source) in PEERS {
        let archive = bin.replace('-', "_") + "_c";
        cc::Build::new()
            .file(source)
            .warnings(true)
            .extra_warnings(true)
            .cargo_metadata(false)
            .compile(&archive);
        // Only these binaries link libevent; the other peers must not carry it.
        println!(
            "cargo::rustc-link-arg-bin={bin}={}",
            out_dir.join(format!("lib{archive}.a")).display()
        );
        println!("cargo::rustc-link-arg-bin={bin}=-levent_core");
    }
}
