//! Compiles the C side against libevent, or says why there is none.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(libevent)");
    println!("cargo::rerun-if-changed=peer.c");
    // try_expand fails where the header is missing, without an error on the terminal.
    let mut probe = cc::Build::new();
    probe
        .file("probe.c")
        .cargo_metadata(false)
        .cargo_warnings(false);
    if probe.try_expand().is_err() {
        println!(
            "cargo::warning=event2/buffer.h not found: the comparison is left out; \
             install libevent's development files (Debian: libevent-dev)"
        );
        return;
    }
    cc::Build::new()
        .file("peer.c")
        .opt_level(2)
        .compile("evbuffer_peer");
    println!("cargo::rustc-link-lib=event_core");
    println!("cargo::rustc-cfg=libevent");
}
