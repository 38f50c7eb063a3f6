//! What products of 16-bit activations and a quantized weight on tensor cores have in common: spec and parameters.

use super::constants::{ConstantsParam, ConstantsSpec};
use super::decode::Half;
use super::dense::Dense;
use crate::view::DType;
use ptx_asm::{B32, B64, Global, Kernel, Ptr, Reg};

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
