//! What products of 16-bit activations and a quantized weight on tensor cores have in common: spec and parameters.

use super::constants::{ConstantsParam, ConstantsSpec};
use super::decode::Half;
use super::dense::Dense;
use crate::view::DType;
use ptx_asm::{B32, B64, Global, Kernel, Pred, Ptr, Reg};

/// Ranks that a low-rank term may have: multiples of this.
pub const RANK: u32 = 16;

/// What a product is of. All of it makes a difference to the kernel's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProductSpec {
    /// The type of the activations, of the decoded W and of both sides of the low-rank term.
    pub half: Half,
    /// The bits of each code's value.
    pub values: [u32; 16],
    /// A power of two from 64 to 4096.
    pub block_size: u32,
    /// How W's constants are stored.
    pub constants: ConstantsSpec,
    /// The type of the output.
    pub out: DType,
    /// The type of the bias, a row as long as the output's, if there is one.
    pub bias: Option<DType>,
    /// Whether there is a low-rank term.
    pub low_rank: bool,
    /// Whether to add to what is there.
    pub accumulate: bool,
}

/// The parameters, in the order of [`ProductParams::new`].
pub struct ProductParams {
    /// X or dY.
    pub left: Ptr<Global>,
    /// Elements between the starts of its rows.
    pub left_stride: Reg<B64>,
    /// W's codes.
    pub codes: Ptr<Global>,
    /// W's constants.
    pub constants: ConstantsParam,
    /// M, N, K.
    pub shape: [Reg<B64>; 3],
    /// `T·Bᵀ` or `U·A`.
    pub low_rank: Option<LowRank>,
    /// A row.
    pub bias: Option<Dense>,
    /// Y or dX.
    pub out: Dense,
}

/// The sides of the low-rank term.
pub struct LowRank {
    /// `T[M, rank]` or `U[M, rank]`, rows without gaps.
    pub left: Ptr<Global>,
    /// `B[N, rank]` or `A[rank, K]`.
    pub right: Ptr<Global>,
    /// Elements between the starts of its rows.
    pub right_stride: Reg<B64>,
    /// A multiple of [`RANK`].
    pub rank: Reg<B32>,
}

/// A lane's part of a row of T, U or B, straight from global memory: it is little and read once a tile. Of 16 ranks, lane t of four
/// takes the neighbours `4t … 4t + 3`, which is an order of the terms, the same on both sides.
#[derive(Clone, Copy)]
pub struct RankRow {
    from: Ptr<Global>,
    exists: Reg<Pred>,
}

impl LowRank {
    /// Of a row of T or U, which has `rows`.
    pub fn left_row(&self, k: &Kernel, t: Reg<B32>, row: Reg<B64>, rows: Reg<B64>) -> RankRow {
        RankRow::new(k, t, self.left, k.cvt_u64_u32(self.rank), row, rows)
    }

    /// Of a row of B, which has `rows`.
    pub fn right_row(&self, k: &Kernel, t: Reg<B32>, row: Reg<B64>, rows: Reg<B64>) -> RankRow {
        RankRow::new(k, t, self.right, self.right_stride, row, rows)
    }
}

impl RankRow {
    fn new(
        k: &Kernel,
        t: Reg<B32>,
        base: Ptr<Global>,
        stride: Reg<B64>,
        row: Reg<B64>,
        rows: Reg<B64>,
    ) -> Self {
        let element = k.mad_lo_u64(row, stride, k.mul_wide_u32(t, 4));
        Self { from: k.offset(base, k.shl_b64(element, 1)), exists: k.setp_lt_u64(row, rows) }
    }

    /// Its four of the 16 ranks from `rank` on; zeros where there is no row.
    pub fn load(&self, k: &Kernel, rank: Reg<B32>) -> [Reg<B32>; 2] {
        let words = k.splat::<B32, 2>(0);
        let from = k.offset(self.from, k.mul_wide_u32(rank, 2));
        k.to(words).when(self.exists).ld_global::<[B32; 2]>(from);
        words
    }
}

impl ProductParams {
    /// Declares them: activations, their row stride (u64); codes and constants; M, N, K (u64); with a low-rank term its left
    /// side, its right side, that one's row stride (u64), rank (u32); the bias if there is one; the output and its row
    /// stride (u64). Brings tables of the constants to shared memory; a barrier must follow.
    pub fn new(k: &Kernel, spec: &ProductSpec) -> Self {
        let (left, left_stride) = (k.param_ptr("left"), k.param_u64("left_stride"));
        let codes = k.param_ptr("codes");
        let constants = ConstantsParam::new(k, &spec.constants);
        let shape = ["m", "n", "k"].map(|name| k.param_u64(name));
        let low_rank = spec.low_rank.then(|| LowRank {
            left: k.param_ptr("low_rank_left"),
            right: k.param_ptr("low_rank_right"),
            right_stride: k.param_u64("low_rank_right_stride"),
            rank: k.param_u32("rank"),
        });
        let bias = spec.bias.map(|dtype| Dense { dtype, base: k.param_ptr("bias"), stride: k.mov(0) });
        let out = Dense { dtype: spec.out, base: k.param_ptr("out"), stride: k.param_u64("out_stride") };
        Self { left, left_stride, codes, constants, shape, low_rank, bias, out }
    }
}
