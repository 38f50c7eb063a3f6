//! What the bytes mean: the plain scalar form of every format, and the oracle for every fast path.
//!
//! Nothing here knows of devices, threads or SIMD, and nothing is written to be fast. A backend is right when
//! its codes, constants and values have the bits that these functions give.
//!
//! | file | what |
//! |---|---|
//! | [`codebook`] | the 16 values of a 4-bit data type, and how a number becomes a code |
//! | [`nf4`] | NormalFloat from its construction (QLoRA, section 3) |
//! | [`fp8`] | FP8 E4M3, the 8-bit type of double-quantized constants |
//! | [`dynamic`] | the dynamic 8-bit maps of bitsandbytes |
//! | [`dynamic_rank`] | their codes by arithmetic |
//! | [`spec`] | [`QuantSpec`]: which formats a matrix uses, and how many bytes that takes |
//! | [`blockwise4`] | 4-bit blocks: quantize and dequantize |
//! | [`blockwise8`] | 8-bit blocks (optimizer states, nested constants) |
//! | [`double_quant`] | double quantization of the block constants |
//! | [`sum`] | the one order in which constants are summed |
//! | [`optimizer`] | what optimizers compute: rules, norms, 8-bit states, stochastic rounding |

pub mod blockwise4;
pub mod blockwise8;
pub mod codebook;
pub mod double_quant;
pub mod dynamic;
pub mod dynamic_rank;
pub mod fp8;
pub mod nf4;
pub mod optimizer;
pub mod spec;
pub mod sum;

pub use codebook::{Codebook, CodebookTable};
pub use dynamic::Map256;
pub use spec::{Constants, QuantSpec, Sizes};

/// `points` evenly spaced values as `torch.linspace` has them in f32: counted from the start in the lower half, from
/// the end in the upper half, each one fused multiply-add. Published tables were made from such values.
fn linspace(start: f32, end: f32, points: usize) -> Vec<f32> {
    let step = (end - start) / (points - 1) as f32;
    let from_start = |i: usize| step.mul_add(i as f32, start);
    let from_end = |i: usize| (-step).mul_add((points - 1 - i) as f32, end);
    (0..points).map(|i| if i < points / 2 { from_start(i) } else { from_end(i) }).collect()
}
