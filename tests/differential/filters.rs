//! The filters that a script can name; the C side has the same ones.

use evring::{EvBuffer, Filter, FilterResult, FlushMode};

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Pass,
    Xor,
    Block,
    Dup,
    Err,
}

impl Kind {
    pub fn named(name: &str) -> Self {
        match name {
            "pass" => Kind::Pass,
            "xor" => Kind::Xor,
            "block" => Kind::Block,
            "dup" => Kind::Dup,
            "err" => Kind::Err,
            _ => panic!("no filter is called {name}"),
        }
    }

    fn run(
        self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        mode: FlushMode,
        outwards: bool,
    ) -> FilterResult {
        let len = src.len();
        let most = limit.unwrap_or(usize::MAX);
        match self {
            Kind::Pass => moved(src.remove_buffer(dst, len.min(most)).unwrap()),
            Kind::Xor => {
                let mut bytes = vec![0; len.min(most)];
                src.remove(&mut bytes).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
                dst.add(&bytes).unwrap();
                moved(bytes.len())
            }
            // Whole blocks of four; a rest only when flushing.
            Kind::Block => {
                let n = match len.min(most) & !3 {
                    _ if mode != FlushMode::Normal => len,
                    0 if len >= 4 => 4,
                    n => n,
                };
                moved(src.remove_buffer(dst, n).unwrap())
            }
            // Outwards each byte twice, inwards each pair once.
            Kind::Dup if outwards => {
                let mut bytes = vec![0; len.min((most / 2).max(1))];
                src.remove(&mut bytes).unwrap();
                let twice: Vec<_> = bytes.iter().flat_map(|&byte| [byte, byte]).collect();
                dst.add(&twice).unwrap();
                moved(bytes.len())
            }
            Kind::Dup => {
                let mut bytes = vec![0; 2 * (len / 2).min(most)];
                src.remove(&mut bytes).unwrap();
                let once: Vec<_> = bytes.chunks(2).map(|pair| pair[0]).collect();
                dst.add(&once).unwrap();
                moved(once.len())
            }
            Kind::Err => FilterResult::Error,
        }
    }
}

fn moved(n: usize) -> FilterResult {
    match n {
        0 => FilterResult::NeedMore,
        _ => FilterResult::Ok,
    }
}

impl Filter for Kind {
    fn input(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        mode: FlushMode,
    ) -> FilterResult {
        self.run(src, dst, limit, mode, false)
    }

    fn output(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        mode: FlushMode,
    ) -> FilterResult {
        self.run(src, dst, limit, mode, true)
    }
}
