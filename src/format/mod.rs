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

/// 2 to a power that a normal f32 has. `exp2` need not be exact, and systems differ.
pub(crate) const fn power_of_two(exponent: i32) -> f32 {
    debug_assert!(-126 <= exponent && exponent <= 127);
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// 10 to a power of no more than 22 either way, rounded once. `powi` differs between systems.
fn power_of_ten(exponent: i32) -> f64 {
    let power = (0..exponent.unsigned_abs()).fold(1.0, |power, _| 10.0 * power); // exact: 5^22 < 2^53
    if exponent < 0 { 1.0 / power } else { power }
}

/// `points` evenly spaced values as `torch.linspace` has them in f32: counted from the start in the lower half, from
/// the end in the upper half, each one fused multiply-add. Published tables were made from such values. `mul_add` is not fused on
/// every system (MinGW); in f64 product and sum are exact, of numbers of similar magnitude and a few thousand points, and rounded once.
fn linspace(start: f32, end: f32, points: usize) -> Vec<f32> {
    let step = (end - start) / (points - 1) as f32;
    let fused = |step: f32, i: usize, from: f32| (f64::from(step) * i as f64 + f64::from(from)) as f32;
    let from_start = |i: usize| fused(step, i, start);
    let from_end = |i: usize| fused(-step, points - 1 - i, end);
    (0..points).map(|i| if i < points / 2 { from_start(i) } else { from_end(i) }).collect()
}
