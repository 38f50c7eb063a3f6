//! The inner loops, once per instruction set, chosen at run time.
//!
//! [`Simd`] is a table of functions. A table of an instruction set that the machine lacks cannot be had, so calling
//! through one is sound: the constructors are private and [`Simd::available`] asks the processor first. Every
//! function but the matrix tiles and the products of few rows gives the same bits in every table; those differ in lanes and in
//! whether they fuse multiply and add, which the bound of `gemm` allows, and those of pairs round a weight to bf16.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
pub mod codes;
mod decode4;
pub mod decode_columns;
pub mod few_rows;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod octaves;
mod portable;
mod quantize4;
#[cfg(target_arch = "x86_64")]
mod vbmi;

use crate::format::CodebookTable;
use crate::format::blockwise4::NAN_ABSMAX;
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::stochastic::Key;
use crate::format::optimizer::{MAX_STATES, Rule, Scalars};
use codes::{Blocks, Coder};
use decode_columns::DecodeColumns;
pub use decode4::Decoded;
use decode4::Decoders;
use few_rows::FewRows;
use half::{bf16, f16};
use quantize4::Quantize;

/// `C[rows, tile_cols] (+)= A[rows, k] · B[k, tile_cols]`, all row-major f32 with strides in elements.
type Tile = unsafe fn(
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
);

/// What the words of 32 bits are that tiles multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// f32.
    Numbers,
    /// Two bf16, neighbours along the inner dimension, the first in the low half.
    Pairs,
}

impl Words {
    /// Elements a word.
    pub fn elements(self) -> usize {
        match self {
            Self::Numbers => 1,
            Self::Pairs => 2,
        }
    }
}

/// Where processors multiply pairs of bf16.
pub struct Pairs {
    tiles: &'static [Tile],
    few_rows: FewRows,
    decode_columns: DecodeColumns,
    interleave: unsafe fn(&[bf16], &[bf16], &mut [f32]),
    interleave4: unsafe fn(&[f32; 16], [PieceOfRow<'_>; 2], usize, usize, &mut [f32]),
}

/// A piece of a row of a weight: its codes, and the absmax of each block that it reaches into.
#[derive(Clone, Copy)]
pub struct PieceOfRow<'a> {
    pub codes: &'a [u8],
    pub absmax: &'a [f32],
}

/// One optimizer's arithmetic on f32 values: the rule, the scalars of the step, and the trust ratio.
#[derive(Clone, Copy)]
pub struct Step {
    pub rule: Rule,
    pub scalars: Scalars<f32>,
    pub trust: f32,
}

/// The states of some elements, as many slices as the rule has states; others are empty.
pub type States<'a> = [&'a mut [f32]; MAX_STATES];

/// Step, parameters, gradients, states; both terms of each element.
type NormTerms = unsafe fn(&Step, &[f32], &[f32], States<'_>, [&mut [f32]; 2]);

/// The inner loops of one instruction set.
pub struct Simd {
    /// Its name: `portable`, `avx2`, `avx512`, `avx512_bf16`.
    pub name: &'static str,
    /// Columns of a matrix tile; [`Self::tiles`] has one function per number of rows, from 1 on.
    pub tile_cols: usize,
    tiles: &'static [Tile],
    few_rows: FewRows,
    decode_columns: Option<DecodeColumns>,
    pairs: Option<Pairs>,
    widen_f16: unsafe fn(&[f16], &mut [f32]),
    widen_bf16: unsafe fn(&[bf16], &mut [f32]),
    narrow_f16: unsafe fn(&[f32], &mut [f16]),
    narrow_bf16: unsafe fn(&[f32], &mut [bf16]),
    max_abs_bits: unsafe fn(&[f32]) -> u32,
    quantize4: Quantize,
    decode4: Decoders,
    transpose: unsafe fn(usize, usize, *const f32, usize, *mut f32, usize),
    decode8: unsafe fn(&Coder, &[u8], f32, &mut [f32]),
    encode8: unsafe fn(&Coder, &[f32], f32, &mut [u8]),
    optimizer: unsafe fn(&Step, &mut [f32], &[f32], States<'_>) -> usize,
    optimizer8: unsafe fn(&Step, &mut [f32], &[f32], &mut [Blocks<'_>]) -> usize,
    norm_terms: NormTerms,
    round_at_random: unsafe fn(&Key, usize, &mut [f32]),
}

impl Simd {
    /// Every table that this machine can run, the widest first.
    pub fn available() -> Vec<&'static Simd> {
        let tables = [
            #[cfg(target_arch = "x86_64")]
            (has_avx512() && is_x86_feature_detected!("avx512bf16")).then_some(&avx512_bf16::SIMD),
            #[cfg(target_arch = "x86_64")]
            has_avx512().then_some(&avx512::SIMD),
            #[cfg(target_arch = "x86_64")]
            has_avx2().then_some(&avx2::SIMD),
            Some(&portable::SIMD),
        ];
        tables.into_iter().flatten().collect()
    }

    /// The widest table.
    pub fn best() -> &'static Simd {
        Self::available()[0]
    }

    /// The largest number of rows of a matrix tile.
    pub fn tile_rows(&self) -> usize {
        self.tiles.len()
    }

    /// f16 to f32, exact. The slices have one length, here and below.
    pub fn widen_f16(&self, from: &[f16], to: &mut [f32]) {
        assert_eq!(from.len(), to.len());
        unsafe { (self.widen_f16)(from, to) }
    }

    /// bf16 to f32, exact.
    pub fn widen_bf16(&self, from: &[bf16], to: &mut [f32]) {
        assert_eq!(from.len(), to.len());
        unsafe { (self.widen_bf16)(from, to) }
    }

    /// f32 to f16, to nearest even.
    pub fn narrow_f16(&self, from: &[f32], to: &mut [f16]) {
        assert_eq!(from.len(), to.len());
        unsafe { (self.narrow_f16)(from, to) }
    }

    /// f32 to bf16, to nearest even.
    pub fn narrow_bf16(&self, from: &[f32], to: &mut [bf16]) {
        assert_eq!(from.len(), to.len());
        unsafe { (self.narrow_bf16)(from, to) }
    }

    /// The scale of a block and its reciprocal: [`crate::format::blockwise4::block_scale`].
    pub fn block_scale(&self, block: &[f32]) -> (f32, f32) {
        scale_of(unsafe { (self.max_abs_bits)(block) })
    }

    /// Scales of blocks, whose size is even, and packed codes; an odd end pads with the code of zero. The last block may be a piece
    /// of any length.
    pub fn quantize4(
        &self,
        table: &CodebookTable,
        x: &[f32],
        block_size: usize,
        absmax: &mut [f32],
        codes: &mut [u8],
    ) {
        assert!(codes.len() == x.len().div_ceil(2) && absmax.len() == x.len().div_ceil(block_size));
        assert!(block_size.is_multiple_of(2));
        unsafe { (self.quantize4)(table, x, block_size, absmax, codes) }
    }

    /// `out[i] = values[code i] · absmax[i / block_size]`, rounded once, the first code in the high nibble of the first byte.
    /// The block size is even; the last block may be a piece of any length.
    pub fn decode4<T: Decoded>(
        &self,
        values: &[f32; 16],
        codes: &[u8],
        absmax: &[f32],
        block_size: usize,
        out: &mut [T],
    ) {
        assert!(codes.len() >= out.len().div_ceil(2) && absmax.len() >= out.len().div_ceil(block_size));
        assert!(block_size.is_multiple_of(2));
        unsafe { T::of(&self.decode4)(values, codes, absmax, block_size, out) }
    }

    /// `to[c, r] = from[r, c]` for a `[rows, cols]` matrix `from`; strides in elements.
    pub fn transpose(
        &self,
        [rows, cols]: [usize; 2],
        from: &[f32],
        from_stride: usize,
        to: &mut [f32],
        to_stride: usize,
    ) {
        if rows == 0 || cols == 0 {
            return;
        }
        assert!(from.len() >= (rows - 1) * from_stride + cols && to.len() >= (cols - 1) * to_stride + rows);
        unsafe { (self.transpose)(rows, cols, from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride) }
    }

    /// Whether there are tiles of pairs.
    pub fn has_pairs(&self) -> bool {
        self.pairs.is_some()
    }

    /// `out[i]` = the pair of `first[i]` and `second[i]`.
    pub fn interleave(&self, first: &[bf16], second: &[bf16], out: &mut [f32]) {
        assert!(first.len() == out.len() && second.len() == out.len());
        unsafe { (self.pairs().interleave)(first, second, out) }
    }

    /// The same of two rows of a weight, decoded and rounded. The first element is `start` into its block, a multiple of 16 like the
    /// length and the block's size.
    pub fn interleave4(
        &self,
        values: &[f32; 16],
        rows: [PieceOfRow<'_>; 2],
        block_size: usize,
        start: usize,
        out: &mut [f32],
    ) {
        assert!([start, block_size, out.len()].iter().all(|n| n.is_multiple_of(16)));
        assert!(rows.iter().all(|row| row.codes.len() >= out.len() / 2));
        assert!(rows.iter().all(|row| row.absmax.len() >= (start + out.len()).div_ceil(block_size)));
        unsafe { (self.pairs().interleave4)(values, rows, block_size, start, out) }
    }

    fn pairs(&self) -> &Pairs {
        self.pairs.as_ref().expect("asked by has_pairs")
    }

    /// For products with few rows.
    pub fn few_rows(&self, words: Words) -> &FewRows {
        match words {
            Words::Numbers => &self.few_rows,
            Words::Pairs => &self.pairs().few_rows,
        }
    }

    /// Whether rows of a weight can be decoded to columns of these words.
    pub fn has_decode_columns(&self, words: Words) -> bool {
        words == Words::Pairs || self.decode_columns.is_some()
    }

    /// `out[k, row]`, in rows `stride` apart, = words of the rows' elements.
    pub fn decode_columns(
        &self,
        words: Words,
        rows: &decode_columns::Rows<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        let (len, count) = (rows.len, decode_columns::ROWS);
        assert!([rows.start, len, rows.block_size].iter().all(|n| n.is_multiple_of(8)) && len > 0);
        assert!(rows.codes.len() >= (count - 1) * rows.row_bytes + len / 2);
        assert!(rows.absmax.len() >= (rows.start + len).div_ceil(rows.block_size));
        assert!(out.len() >= (len / words.elements() - 1) * stride + count);
        let decode = match words {
            Words::Numbers => self.decode_columns.expect("asked by has_decode_columns"),
            Words::Pairs => self.pairs().decode_columns,
        };
        unsafe { decode(rows, out.as_mut_ptr(), stride) }
    }

    /// A matrix tile: `C[rows, tile_cols] = A[rows, k] · B[k, tile_cols]` of words, added to C if `add`.
    pub fn tile(
        &self,
        words: Words,
        [rows, k]: [usize; 2],
        a: (&[f32], usize),
        b: (&[f32], usize),
        c: (&mut [f32], usize),
        add: bool,
    ) {
        let ((a, lda), (b, ldb), (c, ldc)) = (a, b, c);
        assert!(a.len() >= (rows - 1) * lda + k);
        assert!(k == 0 || b.len() >= (k - 1) * ldb + self.tile_cols);
        assert!(c.len() >= (rows - 1) * ldc + self.tile_cols);
        let tiles = match words {
            Words::Numbers => self.tiles,
            Words::Pairs => self.pairs().tiles,
        };
        unsafe { (tiles[rows - 1])(k, a.as_ptr(), lda, b.as_ptr(), ldb, c.as_mut_ptr(), ldc, add) }
    }

    /// `out[i] = value[codes[i]] · scale`.
    pub fn decode8(&self, coder: &Coder, codes: &[u8], scale: f32, out: &mut [f32]) {
        assert_eq!(codes.len(), out.len());
        unsafe { (self.decode8)(coder, codes, scale, out) }
    }

    /// Codes of `x[i] · inverse`, the inverse being [`Self::block_scale`]'s for a block that has these.
    pub fn encode8(&self, coder: &Coder, x: &[f32], inverse: f32, codes: &mut [u8]) {
        assert_eq!(codes.len(), x.len());
        unsafe { (self.encode8)(coder, x, inverse, codes) }
    }

    /// An optimizer's step on f32 values, in place; how many elements were kept.
    pub fn optimizer(&self, step: &Step, param: &mut [f32], grad: &[f32], states: States<'_>) -> usize {
        assert!(param.len() == grad.len());
        assert!(states.iter().take(step.rule.states().len()).all(|state| state.len() == param.len()));
        unsafe { (self.optimizer)(step, param, grad, states) }
    }

    /// The same with states in 8 bits, whose codes and scales are written anew.
    pub fn optimizer8(
        &self,
        step: &Step,
        param: &mut [f32],
        grad: &[f32],
        states: &mut [Blocks<'_>],
    ) -> usize {
        let len = param.len();
        assert!(len == grad.len() && states.len() == step.rule.states().len());
        assert!(states.iter().all(|s| s.codes.len() == len && s.absmax.len() == len.div_ceil(BLOCK)));
        unsafe { (self.optimizer8)(step, param, grad, states) }
    }

    /// [`Rule::norm_terms`] of each element. The states are only read.
    pub fn norm_terms(
        &self,
        step: &Step,
        param: &[f32],
        grad: &[f32],
        states: States<'_>,
        terms: [&mut [f32]; 2],
    ) {
        assert!(param.len() == grad.len() && terms.iter().all(|terms| terms.len() == param.len()));
        assert!(states.iter().take(step.rule.states().len()).all(|state| state.len() == param.len()));
        unsafe { (self.norm_terms)(step, param, grad, states, terms) }
    }

    /// [`crate::format::optimizer::stochastic::round_all`].
    pub fn round_at_random(&self, key: &Key, first: usize, values: &mut [f32]) {
        unsafe { (self.round_at_random)(key, first, values) }
    }
}

/// Asks for a line of memory that will be read soon; no matter where it is.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it is a hint, which touches nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The scale of a block and its reciprocal from the bits of the largest magnitude. Magnitudes order like their bits, infinity
/// above every number and NaN above infinity: one integer maximum decides everything.
fn scale_of(absmax: u32) -> (f32, f32) {
    let absmax = f32::from_bits(absmax);
    if absmax.is_nan() {
        return (NAN_ABSMAX, f32::NAN);
    }
    let inverse = 1.0 / absmax;
    if inverse.is_infinite() { (0.0, 0.0) } else { (absmax, inverse) }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && has_avx2()
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt")
}
