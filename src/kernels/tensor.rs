//! Vectors of 16 bytes of a matrix: loading, storing, and their f32 values.

use super::tile::{Place, VECTORS};
use crate::view::DType;
use ptx_asm::{Addr, B16, B32, B64, F32, Global, Kernel, Load, Ptr, Reg, Target, U16};

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Consecutive rows, aligned to 16 bytes: whole vectors are accessed at once.
    Vectors,
    /// Consecutive rows, any alignment: one element at a time.
    Elements,
    /// Any row stride, any alignment: one element at a time.
    Strided,
}

/// The 16 bytes of each of a thread's vectors.
pub type Words = [[Reg<B32>; 4]; VECTORS as usize];

/// A matrix parameter: its base, then for [`Layout::Strided`] its columns and its row stride.
pub struct TensorParam {
    dtype: DType,
    layout: Layout,
    base: Ptr<Global>,
    rows: Option<Rows>,
}

/// The rows of a strided matrix.
struct Rows {
    cols: Reg<B64>,
    stride: Reg<B64>,
    /// Bytes from the end of one row to the start of the next.
    gap: Reg<B64>,
}

impl TensorParam {
    /// Declares the parameters.
    pub fn new(k: &Kernel, name: &str, dtype: DType, layout: Layout) -> Self {
        let base = k.param_ptr(name);
        let rows = (layout == Layout::Strided).then(|| {
            let [cols, stride] = ["cols", "stride"].map(|field| k.param_u64(&format!("{name}_{field}")));
            let gap = k.mul_lo_u64(k.sub_u64(stride, cols), dtype.size() as u64);
            Rows { cols, stride, gap }
        });
        Self { dtype, layout, base, rows }
    }

    /// The thread's vectors; elements beyond the matrix read as zero.
    pub fn load(&self, k: &Kernel, place: &Place) -> Words {
        let words = std::array::from_fn(|_| k.regs());
        self.whole_or_single(
            k,
            place,
            |base| {
                for (u, words) in (0..).zip(words) {
                    let from = base.at((place.apart(u) * self.dtype.size() as u32) as i32);
                    k.to(words).ld_global_with::<[B32; 4]>(Load::NC, from);
                }
            },
            |u, i, from| {
                let value = k.mov::<B32>(0);
                let load = k.to(value).when(place.exists(k, u, i));
                match self.dtype {
                    DType::F32 => load.ld_global::<B32>(from),
                    _ => load.ld_global::<U16>(from),
                }
                let (word, high) = self.word_of(i);
                let word = words[u as usize][word];
                if high {
                    k.to(word).prmt_b32(word, value, 0x5410)
                } else {
                    k.to(word).mov(value)
                };
            },
        );
        words
    }

    /// Writes the thread's vectors, as far as the matrix reaches.
    pub fn store(&self, k: &Kernel, place: &Place, words: &Words) {
        self.whole_or_single(
            k,
            place,
            |base| {
                for (u, words) in (0..).zip(words) {
                    let to = base.at((place.apart(u) * self.dtype.size() as u32) as i32);
                    k.st_global::<[B32; 4]>(to, *words);
                }
            },
            |u, i, to| {
                let (word, high) = self.word_of(i);
                let word = words[u as usize][word];
                let value = if high { k.shr_u32(word, 16) } else { word };
                let exists = k.when(place.exists(k, u, i));
                match self.dtype {
                    DType::F32 => exists.st_global::<B32>(to, value),
                    _ => exists.st_global::<U16>(to, value),
                }
            },
        );
    }

    /// Emits the access to whole vectors where there can be any, and that to each of the thread's elements.
    fn whole_or_single(
        &self,
        k: &Kernel,
        place: &Place,
        whole: impl FnOnce(Ptr<Global>),
        single: impl Fn(u32, u32, Addr<Global>),
    ) {
        if let Some(rows) = &self.rows {
            return (0..VECTORS).for_each(|u| self.walk(k, place, u, rows, &single));
        }
        let base = self.at(k, place.first);
        let size = self.dtype.size() as u32;
        place.whole_or_single(
            k,
            self.layout,
            || whole(base),
            || {
                for u in 0..VECTORS {
                    for i in 0..place.tile.vector {
                        single(u, i, base.at(((place.apart(u) + i) * size) as i32));
                    }
                }
            },
        );
    }

    /// Emits the access to each element of vector `u`, from row to row: one division finds the first.
    fn walk(&self, k: &Kernel, place: &Place, u: u32, rows: &Rows, single: &impl Fn(u32, u32, Addr<Global>)) {
        let index = place.index(k, u, 0);
        let row = k.div_u64(index, rows.cols);
        let col = k.sub_u64(index, k.mul_lo_u64(row, rows.cols));
        let at = self.at(k, k.mad_lo_u64(row, rows.stride, col));
        for i in 0..place.tile.vector {
            single(u, i, at.at(0));
            k.to(col).add_u64(col, 1);
            let ends = k.setp_eq_u64(col, rows.cols);
            let step = k.add_u64(k.selp_b64(rows.gap, 0, ends), self.dtype.size() as u64);
            k.to(col).selp_b64(0, col, ends);
            k.advance(at, step);
        }
    }

    /// The word of a vector that holds element `i`, and whether in its high half.
    fn word_of(&self, i: u32) -> (usize, bool) {
        match self.dtype {
            DType::F32 => (i as usize, false),
            _ => (i as usize / 2, i % 2 == 1),
        }
    }

    fn at(&self, k: &Kernel, element: Reg<B64>) -> Ptr<Global> {
        k.offset(self.base, k.shl_b64(element, self.dtype.size().trailing_zeros()))
    }
}

/// The f32 values of a vector, exact.
pub fn widen(k: &Kernel, dtype: DType, words: impl IntoIterator<Item = Reg<B32>>) -> Vec<Reg<F32>> {
    words
        .into_iter()
        .flat_map(|word| match dtype {
            DType::F32 => vec![k.f32_from_bits(word)],
            DType::F16 => widen_pair_f16(k, word).to_vec(),
            DType::Bf16 => widen_pair_bf16(k, word).to_vec(),
        })
        .collect()
}

/// The low half's value and the high half's.
pub fn widen_pair_f16(k: &Kernel, word: Reg<B32>) -> [Reg<F32>; 2] {
    k.unpack_f16x2(word.as_f16x2()).map(|half| k.cvt_f32_f16(half))
}

/// The low half's value and the high half's: bf16 is the high half of an f32.
pub fn widen_pair_bf16(k: &Kernel, word: Reg<B32>) -> [Reg<F32>; 2] {
    [k.f32_from_bits(k.shl_b32(word, 16)), k.f32_from_bits(k.and_b32(word, 0xffff_0000u32))]
}

/// f32 values as a vector of `dtype`, rounded to nearest even.
pub fn narrow(k: &Kernel, dtype: DType, values: &[Reg<F32>]) -> [Reg<B32>; 4] {
    std::array::from_fn(|word| match dtype {
        DType::F32 => k.f32_to_bits(values[word]),
        DType::F16 => narrow_pair_f16(k, values[2 * word], values[2 * word + 1]),
        DType::Bf16 => narrow_pair_bf16(k, values[2 * word], values[2 * word + 1]),
    })
}

/// Two values, rounded to nearest even.
pub fn narrow_pair_f16(k: &Kernel, low: Reg<F32>, high: Reg<F32>) -> Reg<B32> {
    if k.target() >= Target::Sm80 {
        k.cvt_rn_f16x2_f32(high, low).as_b32()
    } else {
        k.pack_f16x2([k.cvt_rn_f16_f32(low), k.cvt_rn_f16_f32(high)]).as_b32()
    }
}

/// Two values, rounded to nearest even.
pub fn narrow_pair_bf16(k: &Kernel, low: Reg<F32>, high: Reg<F32>) -> Reg<B32> {
    if k.target() >= Target::Sm80 {
        return k.cvt_rn_bf16x2_f32(high, low).as_b32();
    }
    k.prmt_b32(round_to_bf16(k, low), round_to_bf16(k, high), 0x7632)
}

/// One value, rounded to nearest even.
pub fn narrow_bf16(k: &Kernel, value: Reg<F32>) -> Reg<B16> {
    if k.target() >= Target::Sm80 {
        return k.cvt_rn_bf16_f32(value).as_b16();
    }
    k.cvt_u16_u32(k.shr_u32(round_to_bf16(k, value), 16))
}

/// Rounds the upper half of an f32 by its lower one. Turing has no bf16: adds half of the dropped part's range, less one
/// where the kept part is even. A NaN, which this could carry into an infinity, is replaced.
fn round_to_bf16(k: &Kernel, x: Reg<F32>) -> Reg<B32> {
    let bits = k.f32_to_bits(x);
    let odd = k.bfe_u32(bits, 16, 1);
    let rounded = k.add_u32(k.add_u32(bits, 0x7fff), odd);
    k.selp_b32(0x7fff_0000u32, rounded, k.testp_notanumber_f32(x))
}
