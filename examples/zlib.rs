//! A filter that compresses: an echo server that speaks zlib on the wire, each stream flushed after
//! every message.
//!
//! `cargo run --release --example zlib -- 127.0.0.1:7000`, and on the other side, for example,
//! Python's `zlib.decompressobj`.

use evring::{
    Addr, BufferEvent, Callbacks, EvBuffer, EventBase, Filter, FilterResult, FlushMode, Interest,
    ListenOptions, Listener, Options,
};

/// What is transformed at a time, in bytes.
const CHUNK: usize = 16 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1);
    let addr: Addr = addr.as_deref().unwrap_or("127.0.0.1:7000").parse()?;
    let base = EventBase::new()?;
    let listener = Listener::bind(
        &base,
        &addr,
        ListenOptions::default(),
        |listener, accepted| {
            let served = listener
                .base()
                .and_then(|base| serve(&base, accepted.into_fd()));
            if let Err(error) = served {
                eprintln!("a connection could not be served: {error}");
            }
        },
    )?;
    println!("listening on {}", listener.local_addr()?);
    base.run()?;
    Ok(())
}

fn serve(base: &EventBase, fd: std::os::fd::OwnedFd) -> Result<(), evring::Error> {
    let socket = BufferEvent::socket(base, Some(fd), Options::CLOSE_ON_FREE)?;
    let bev = BufferEvent::filter(&socket, Zlib::new(), Options::CLOSE_ON_FREE)?.free_on_drop();
    bev.set_callbacks(
        Callbacks::new()
            .on_read(|bev| {
                bev.transfer_to(bev)?;
                bev.flush(Interest::WRITE, FlushMode::Flush)
            })
            .on_event(|bev, _events| bev.close_after_flush(None, |_end| {})),
    )?;
    bev.enable(Interest::READ | Interest::WRITE)?;
    bev.keep();
    Ok(())
}

/// A zlib stream each way.
pub(crate) struct Zlib {
    deflate: flate2::Compress,
    inflate: flate2::Decompress,
}

impl Zlib {
    /// A stream of its own for each direction.
    pub(crate) fn new() -> Self {
        Zlib {
            deflate: flate2::Compress::new(flate2::Compression::fast(), true),
            inflate: flate2::Decompress::new(true),
        }
    }
}

impl Filter for Zlib {
    fn input(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        _: FlushMode,
    ) -> FilterResult {
        let mut produced = 0;
        while produced < limit.unwrap_or(usize::MAX) {
            let head = bytes::Buf::chunk(src).to_vec();
            let mut out = vec![0; CHUNK.min(limit.map_or(CHUNK, |limit| limit - produced))];
            let (read, wrote) = (self.inflate.total_in(), self.inflate.total_out());
            if self
                .inflate
                .decompress(&head, &mut out, flate2::FlushDecompress::None)
                .is_err()
            {
                return FilterResult::Error;
            }
            let read = (self.inflate.total_in() - read) as usize;
            let wrote = (self.inflate.total_out() - wrote) as usize;
            if src.drain(read).and(dst.add(&out[..wrote])).is_err() {
                return FilterResult::Error;
            }
            produced += wrote;
            if read == 0 && wrote == 0 {
                return FilterResult::NeedMore;
            }
        }
        FilterResult::Ok
    }

    fn output(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        _: Option<usize>,
        mode: FlushMode,
    ) -> FilterResult {
        let flush = match mode {
            FlushMode::Normal => flate2::FlushCompress::None,
            FlushMode::Flush => flate2::FlushCompress::Sync,
            FlushMode::Finished => flate2::FlushCompress::Finish,
        };
        let mut out = vec![0; CHUNK];
        loop {
            let head = bytes::Buf::chunk(src).to_vec();
            let last = head.len() == src.len();
            let flush = if last {
                flush
            } else {
                flate2::FlushCompress::None
            };
            let (read, wrote) = (self.deflate.total_in(), self.deflate.total_out());
            let Ok(status) = self.deflate.compress(&head, &mut out, flush) else {
                return FilterResult::Error;
            };
            let read = (self.deflate.total_in() - read) as usize;
            let wrote = (self.deflate.total_out() - wrote) as usize;
            if src.drain(read).and(dst.add(&out[..wrote])).is_err() {
                return FilterResult::Error;
            }
            if status == flate2::Status::StreamEnd || src.is_empty() && wrote < out.len() {
                return FilterResult::NeedMore;
            }
        }
    }
}
