//! Compiles the C program against libevent, or says why there is none.

use std::env;
use std::path::PathBuf;

fn main() {
    for source in ["peer.c", "filters.h", "probe.c"] {
        println!("cargo::rerun-if-changed={source}");
    }
    // try_expand fails where the header is missing, without an error on the terminal.
    let headers_found = cc::Build::new()
        .file("probe.c")
        .cargo_metadata(false)
        .cargo_warnings(false)
        .try_expand()
        .is_ok();
    if !headers_found {
        // A path that is not there makes cargo look again with every build, until it is.
        println!("cargo::rerun-if-changed=/usr/include/event2/bufferevent.h");
        println!(
            "cargo::warning=event2/bufferevent.h not found: the differential test is left out; \
             install libevent's development files (Debian: libevent-dev)"
        );
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let peer = out.join("libevent-peer");
    let mut compile = cc::Build::new()
        .warnings(true)
        .extra_warnings(true)
        .get_compiler()
        .to_command();
    compile
        .arg("peer.c")
        .arg("-o")
        .arg(&peer)
        .arg("-levent_core");
    let status = compile.status().expect("the compiler just ran");
    assert!(status.success(), "{compile:?}: {status}");
    println!("cargo::rustc-env=LIBEVENT_PEER={}", peer.display());
}
