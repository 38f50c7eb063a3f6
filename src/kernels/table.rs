//! Look-up tables in shared memory. Sixteen words lie in sixteen banks: lanes that read them at random never conflict.

use crate::format::CodebookTable;
use ptx_asm::{Array, B32, F32, Kernel, Ptr, Reg, lut};

/// Copies `words` into shared memory; a barrier must follow. Aligned, so that an entry's address is `base | 4·index`.
pub fn share(k: &Kernel, name: &str, words: &[u32], threads: u32) -> Array<F32> {
    let len = words.len();
    let to = k.shared_aligned::<F32>(name, len, (4 * len).next_power_of_two());
    let from = k.constants(name, words);
    let tid = k.tid_x();
    let copy = || {
        let value = k.ld_const::<F32>(k.element(from, tid, 4));
        k.st_shared::<F32>(to.element(k, tid), value);
    };
    assert!(len <= threads as usize, "one entry a thread");
    if len == threads as usize {
        copy()
    } else {
        k.if_then(k.setp_lt_u32(tid, len as u32), copy)
    }
    to
}

/// The bits of f32 values.
pub fn bits<const N: usize>(values: [f32; N]) -> [u32; N] {
    values.map(f32::to_bits)
}

/// How a 4-bit data type encodes: thresholds between its values, the codes by rank, and that of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thresholds {
    midpoints: [u32; 16],
    code_of_rank: [u8; 16],
    /// The code that pads an odd end.
    pub zero_code: u8,
}

impl From<&CodebookTable> for Thresholds {
    fn from(table: &CodebookTable) -> Self {
        let CodebookTable { midpoints, code_of_rank, zero_code, .. } = *table;
        Self { midpoints: bits(midpoints), code_of_rank, zero_code }
    }
}

/// From scaled values to 4-bit codes.
pub struct Encoder {
    midpoints: [f32; 16],
    /// 16 thresholds; then, where codes do not ascend with the values, 4 times the code of each rank.
    shared: Reg<B32>,
    remap: bool,
}

impl Encoder {
    /// Brings the tables to shared memory; a barrier must follow.
    pub fn new(k: &Kernel, table: &Thresholds, threads: u32) -> Self {
        let remap = (0..16).zip(table.code_of_rank).any(|(rank, code)| rank != code);
        let mut words = table.midpoints.to_vec();
        if remap {
            words.extend(table.code_of_rank.map(|code| 4 * u32::from(code)));
        }
        let shared = share(k, "thresholds", &words, threads).ptr(k).reg();
        Self { midpoints: table.midpoints.map(f32::from_bits), shared, remap }
    }

    /// 4 times the code of `t`: its rank is the number of thresholds that it exceeds, by bisection. The first two steps
    /// have three thresholds, which are constants; the last two read theirs. A NaN exceeds nothing.
    pub fn code4(&self, k: &Kernel, t: Reg<F32>) -> Reg<B32> {
        let m = &self.midpoints;
        let above = k.setp_gt_f32(t, m[7]);
        let at = k.selp_b32(k.add_u32(self.shared, 4 * 8), self.shared, above);
        let above = k.setp_gt_f32(t, k.selp_f32(m[11], m[3], above));
        k.to(at).when(above).add_u32(at, 4 * 4);
        for step in [2, 1] {
            let threshold = k.ld_shared::<F32>(Ptr::new(at).at(4 * (step - 1)));
            let above = k.setp_gt_f32(t, threshold);
            k.to(at).when(above).add_u32(at, 4 * step);
        }
        match self.remap {
            true => k.ld_shared::<B32>(Ptr::new(at).at(4 * 16)),
            false => k.and_b32(at, 4 * 15),
        }
    }

    /// The packed codes of an even number of scaled values, at most 8: the earlier one in the high nibble.
    pub fn pack(&self, k: &Kernel, scaled: &[Reg<F32>]) -> Reg<B32> {
        let mut word: Option<Reg<B32>> = None;
        for (byte, pair) in (0..).zip(scaled.chunks_exact(2)) {
            for (t, shift) in [(pair[1], 8 * byte), (pair[0], 8 * byte + 4)] {
                let code4 = self.code4(k, t);
                word = Some(match word {
                    None => k.shr_u32(code4, 2), // the very first nibble
                    Some(word) => k.mad_lo_u32(code4, 1u32 << (shift - 2), word),
                });
            }
        }
        word.expect("there are values")
    }
}

/// From 4-bit codes to values.
pub struct Decoder {
    shared: Reg<B32>,
}

impl Decoder {
    /// Brings the 16 values to shared memory; a barrier must follow.
    pub fn new(k: &Kernel, values: [f32; 16], threads: u32) -> Self {
        Self { shared: share(k, "values", &bits(values), threads).ptr(k).reg() }
    }

    /// The values of the first `count` codes of a word: byte after byte, the high nibble first.
    pub fn unpack(&self, k: &Kernel, word: Reg<B32>, count: u32) -> Vec<Reg<F32>> {
        (0..count)
            .map(|i| {
                let nibble = 8 * (i / 2) + if i % 2 == 0 { 4 } else { 0 };
                // 4 times the code, as an offset into the table.
                let offset = match nibble {
                    0 => k.shl_b32(word, 2),
                    nibble => k.shr_u32(word, nibble - 2),
                };
                let at = k.lop3_b32(offset, 4 * 15, self.shared, lut(|a, b, c| (a & b) | c));
                k.ld_shared::<F32>(Ptr::new(at))
            })
            .collect()
    }
}
