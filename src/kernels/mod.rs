//! Rust functions that write PTX: one file per kernel family, each a function of a small `…Spec`.
//!
//! | file | what |
//! |---|---|
//! | [`quantize`] | 4-bit blocks: codes and absmax of a matrix |
//! | [`dequantize`] | 4-bit blocks back, with plain or double-quantized constants |
//! | [`double_quantize`] | the constants' mean, their second quantization, and back |
//! | [`blockwise8`] | 8-bit blocks, there and back |
//! | [`gemm`] | products of dense and quantized matrices, any shape |
//! | [`gemm_mma`] | `X·Wᵀ` on tensor cores |
//! | [`gemm_mma_backward`] | `dY·W` on tensor cores |
//! | [`gemm_skinny`] | `X·Wᵀ` for few rows of X |
//! | [`gemm_skinny_backward`] | `dY·W` for few rows of dY |
//! | [`split_sum`] | the sum of a product's parts |
//! | [`gemm_low_rank`] | the adapter's own products on tensor cores |
//! | [`gemm_wgmma`] | `X·Wᵀ` by the warpgroups of Hopper |
//! | [`gemm_wgmma_backward`] | `dY·W` by the warpgroups of Hopper |
//! | [`cast`] | a matrix in 16 bits, padded |
//! | [`optimizer`] | optimizer steps |
//! | [`tile`] | how the streaming kernels cut their work |
//! | [`tensor`] | 16 bytes of a matrix of any dtype, strided or not, in registers |
//! | [`product`] | spec and parameters of products on tensor cores |
//! | [`mma_tile`] | their tiles |
//! | [`pieces`] | how products with few rows cut W |
//! | [`skinny_block`] | the blocks of these products, and the activations |
//! | [`raw_constants`] | constants on their way through a ring |
//! | [`ring`] | chunks in shared memory, brought ahead of their use |
//! | [`staged`] | dense 16-bit matrices in a ring |
//! | [`wgmma_block`] | the blocks of products by `wgmma` |
//! | [`wgmma_pipeline`] | their roles, stages, tiles and sums |
//! | [`wgmma_store`] | how their sums become the output |
//! | [`decode`] | 4-bit codes to pairs of 16-bit values in registers |
//! | [`dense`] | a matrix element by element |
//! | [`scale`] | the absmax of a block across lanes and warps |
//! | [`constants`] | reading the constants of a quantized matrix |
//! | [`catalogue`] | one of each, for `ptx/generated` and for ptxas |
//! | [`table`] | look-up tables in shared memory: thresholds and values |
//!
//! What a kernel must compute is written in [`crate::format`]: the same bits. All sizes are 64-bit.

pub mod blockwise8;
pub mod cast;
pub mod catalogue;
pub mod constants;
pub mod decode;
pub mod dense;
pub mod dequantize;
pub mod double_quantize;
pub mod gemm;
pub mod gemm_low_rank;
pub mod gemm_mma;
pub mod gemm_mma_backward;
pub mod gemm_skinny;
pub mod gemm_skinny_backward;
pub mod gemm_wgmma;
pub mod gemm_wgmma_backward;
pub mod mma_tile;
pub mod optimizer;
pub mod pieces;
pub mod product;
pub mod quantize;
pub mod raw_constants;
pub mod ring;
pub mod scale;
pub mod skinny_block;
pub mod split_sum;
pub mod staged;
pub mod table;
pub mod tensor;
pub mod tile;
pub mod wgmma_block;
pub mod wgmma_pipeline;
pub mod wgmma_store;

use ptx_asm::{Error, Module, Target};

/// A kernel's text, its name, and the threads of its blocks.
pub struct Written {
    /// PTX.
    pub ptx: String,
    /// The entry's name.
    pub name: &'static str,
    /// Threads a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory a block.
    pub shared: u32,
}

/// Everything that a kernel depends on.
pub trait Spec {
    /// Writes the kernel for a target.
    fn write(&self, target: Target) -> Result<Written, Error>;

    /// What to write it for, where `device` is what most kernels are written for: see [`target_of`].
    fn target(&self, device: Target) -> Target {
        device
    }
}

/// What kernels are written for: the newest target of theirs that a device of this compute capability (major · 10 + minor)
/// runs. Kernels with instructions of one architecture only are written for that instead.
pub fn target_of(capability: u32) -> Target {
    if capability >= Target::Sm80.sm() { Target::Sm80 } else { Target::Sm75 }
}

/// Any of the kernels: the key under which compiled ones are kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KernelSpec {
    /// [`quantize`].
    Quantize(quantize::QuantizeSpec),
    /// [`dequantize`].
    Dequantize(dequantize::DequantizeSpec),
    /// [`double_quantize`]: a level of the mean.
    Sum(double_quantize::SumSpec),
    /// [`double_quantize`].
    DoubleQuantize(double_quantize::DoubleQuantizeSpec),
    /// [`double_quantize`], back.
    DoubleDequantize(double_quantize::DoubleDequantizeSpec),
    /// [`blockwise8`].
    Quantize8(blockwise8::Quantize8Spec),
    /// [`blockwise8`], back.
    Dequantize8(blockwise8::Dequantize8Spec),
    /// [`gemm`].
    Gemm(gemm::GemmSpec),
    /// [`gemm_mma`].
    GemmMma(gemm_mma::GemmMmaSpec),
    /// [`gemm_mma_backward`].
    GemmMmaBackward(gemm_mma_backward::GemmMmaBackwardSpec),
    /// [`gemm_skinny`].
    GemmSkinny(gemm_skinny::GemmSkinnySpec),
    /// [`gemm_skinny_backward`].
    GemmSkinnyBackward(gemm_skinny_backward::GemmSkinnyBackwardSpec),
    /// [`split_sum`].
    SplitSum(split_sum::SplitSumSpec),
    /// [`gemm_low_rank`].
    GemmLowRank(gemm_low_rank::GemmLowRankSpec),
    /// [`gemm_wgmma`].
    GemmWgmma(gemm_wgmma::GemmWgmmaSpec),
    /// [`gemm_wgmma_backward`].
    GemmWgmmaBackward(gemm_wgmma_backward::GemmWgmmaBackwardSpec),
    /// [`cast`].
    Cast(cast::CastSpec),
    /// [`optimizer`]: its table of parameters.
    OptimizerTable(optimizer::table::TableSpec),
    /// [`optimizer`]: sums of squares.
    OptimizerSquares(optimizer::norms::SquaresSpec),
    /// [`optimizer`]: norms, and what depends on them.
    OptimizerNorms(optimizer::norms::ReduceSpec),
    /// [`optimizer`]: the step.
    OptimizerStep(optimizer::StepSpec),
}

macro_rules! any_kernel {
    ($($variant:ident $spec:path;)*) => {
        $(impl From<$spec> for KernelSpec {
            fn from(spec: $spec) -> Self {
                Self::$variant(spec)
            }
        })*

        impl Spec for KernelSpec {
            fn write(&self, target: Target) -> Result<Written, Error> {
                match self {
                    $(Self::$variant(spec) => spec.write(target),)*
                }
            }

            fn target(&self, device: Target) -> Target {
                match self {
                    $(Self::$variant(spec) => spec.target(device),)*
                }
            }
        }
    };
}

any_kernel! {
    Quantize quantize::QuantizeSpec;
    Dequantize dequantize::DequantizeSpec;
    Sum double_quantize::SumSpec;
    DoubleQuantize double_quantize::DoubleQuantizeSpec;
    DoubleDequantize double_quantize::DoubleDequantizeSpec;
    Quantize8 blockwise8::Quantize8Spec;
    Dequantize8 blockwise8::Dequantize8Spec;
    Gemm gemm::GemmSpec;
    GemmMma gemm_mma::GemmMmaSpec;
    GemmMmaBackward gemm_mma_backward::GemmMmaBackwardSpec;
    GemmSkinny gemm_skinny::GemmSkinnySpec;
    GemmSkinnyBackward gemm_skinny_backward::GemmSkinnyBackwardSpec;
    SplitSum split_sum::SplitSumSpec;
    GemmLowRank gemm_low_rank::GemmLowRankSpec;
    GemmWgmma gemm_wgmma::GemmWgmmaSpec;
    GemmWgmmaBackward gemm_wgmma_backward::GemmWgmmaBackwardSpec;
    Cast cast::CastSpec;
    OptimizerTable optimizer::table::TableSpec;
    OptimizerSquares optimizer::norms::SquaresSpec;
    OptimizerNorms optimizer::norms::ReduceSpec;
    OptimizerStep optimizer::StepSpec;
}

/// A module with one kernel of `threads` threads a block, whose shared memory is static.
fn module(
    target: Target,
    name: &'static str,
    threads: u32,
    body: impl FnOnce(&ptx_asm::Kernel),
) -> Result<Written, Error> {
    dynamic_module(target, name, threads, |k| {
        body(k);
        0
    })
}

/// The same for a kernel with dynamic shared memory; `body` returns how many bytes.
fn dynamic_module(
    target: Target,
    name: &'static str,
    threads: u32,
    body: impl FnOnce(&ptx_asm::Kernel) -> usize,
) -> Result<Written, Error> {
    let mut module = Module::new(target);
    let shared = module.kernel(name, |k| {
        k.reqntid([threads, 1, 1]);
        body(k)
    });
    Ok(Written { ptx: module.to_ptx()?, name, threads, shared: shared as u32 })
}
