//! Double quantization of the block constants: [`crate::format::double_quant`].
//!
//! The constants' mean comes first, by [`SumSpec`]: one warp adds one run of 256 in the order of
//! [`crate::format::sum`], a launch a level of the tree. [`DoubleQuantizeSpec`] then subtracts it and quantizes, one warp
//! a block of 256. Each lane holds the elements `lane + 32·j`: loads and stores are whole lines, and the tree's first
//! three halvings stay inside a lane.

use super::constants::{ConstantsParam, ConstantsSpec, NestedSpec};
use super::table;
use super::tile::THREADS;
use super::{Spec, Written, module};
use crate::format::blockwise4::NAN_ABSMAX;
use crate::format::double_quant::Encoding;
use crate::format::spec::CONSTANT_BLOCK;
use crate::format::{Map256, fp8, sum};
use ptx_asm::{Array, B32, B64, Error, F32, Global, Kernel, Ptr, Reg, Target, U8};

/// Elements a lane.
const EACH: usize = CONSTANT_BLOCK as usize / 32;
const _: () =
    assert!(sum::FAN_IN == CONSTANT_BLOCK as usize, "one warp does a run of the sum and a block alike");

/// One level of the sum of the finite constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SumSpec {
    /// Whether the values are the constants themselves: then those that are not finite count as 0, and finite ones are
    /// counted. Later levels add sums and counts.
    pub first: bool,
}

impl Spec for SumSpec {
    /// Parameters: values (f32), counts (u64, unused at the first level), n (u64), sums (f32), sums' counts (u64); the
    /// latter two get one entry per 256 values. Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "sum", THREADS, |k| {
            let [values, counts] = ["values", "counts"].map(|name| k.param_ptr(name));
            let n = k.param_u64("n");
            let [sums, sum_counts] = ["sums", "sum_counts"].map(|name| k.param_ptr(name));
            for_each_run(k, n, |run| {
                let mut addends = run.load(k, values, 0.0);
                let count = k.mov::<B64>(0);
                for (j, addend) in addends.iter_mut().enumerate() {
                    if self.first {
                        let finite = k.testp_finite_f32(*addend);
                        *addend = k.selp_f32(*addend, 0.0, finite);
                        let counts = k.and_pred(finite, run.exists(k, j));
                        k.to(count).when(counts).add_u64(count, 1);
                    } else {
                        k.if_then(run.exists(k, j), || {
                            let partial = k.ld_global::<B64>(run.address(k, counts, j, 8));
                            k.to(count).add_u64(count, partial);
                        });
                    }
                }
                k.section("halvings of 128, 64, 32 within the lane, of 16 … 1 across lanes");
                for half in [EACH / 2, EACH / 4, EACH / 8] {
                    (0..half).for_each(|j| addends[j] = k.add_rn_f32(addends[j], addends[j + half]));
                }
                let sum = addends[0];
                for apart in [16, 8, 4, 2, 1] {
                    k.to(sum).add_rn_f32(sum, k.shfl_down_f32(sum, apart, 31, u32::MAX));
                    let halves = k.unpack_b64(count).map(|half| k.shfl_down_b32(half, apart, 31, u32::MAX));
                    k.to(count).add_u64(count, k.pack_b64(halves));
                }
                k.if_then(k.setp_eq_u32(run.lane, 0), || {
                    k.st_global::<F32>(k.offset(sums, k.shl_b64(run.number, 2)), sum);
                    k.st_global::<B64>(k.offset(sum_counts, k.shl_b64(run.number, 3)), count);
                });
            });
        })
    }
}

/// The second quantization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DoubleQuantizeSpec {
    /// The data type.
    pub nested: NestedSpec,
}

impl Spec for DoubleQuantizeSpec {
    /// Parameters: absmax (f32), n (u64), their sum (f32) and the number of finite ones (u64) by pointers; absmax_codes,
    /// absmax_scales, absmax_offset. Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "double_quantize", THREADS, |k| {
            let absmax = k.param_ptr("absmax");
            let n = k.param_u64("n");
            let [sum, count] = ["sum", "count"].map(|name| k.param_ptr(name));
            let [codes, scales, offset_out] =
                ["absmax_codes", "absmax_scales", "absmax_offset"].map(|name| k.param_ptr(name));
            let encoder = NestedEncoder::new(k, &self.nested.encoding());
            k.bar_sync(0);

            k.section("the mean");
            let (sum, count) = (k.ld_global::<F32>(sum), k.ld_global::<B64>(count));
            let mean = k.div_rn_f32(sum, k.cvt_rn_f32_u64(count));
            let usable = k.and_pred(k.setp_ne_u64(count, 0), k.testp_finite_f32(sum));
            let offset = k.selp_f32(mean, 0.0, usable);
            let first = k.setp_eq_u32(k.or_b32(k.ctaid_x(), k.tid_x()), 0);
            k.when(first).st_global::<F32>(offset_out, offset);

            for_each_run(k, n, |run| {
                // Padding with the offset makes differences of 0, which change no maximum.
                let values = run.load(k, absmax, offset);
                let differences: Vec<_> = values.iter().map(|&a| k.sub_rn_f32(a, offset)).collect();
                let (scale, block_codes) = encoder.encode(k, &differences);
                k.section("store");
                for (j, code) in block_codes.into_iter().enumerate() {
                    k.if_then(run.exists(k, j), || k.st_global::<U8>(run.address(k, codes, j, 1), code));
                }
                k.if_then(k.setp_eq_u32(run.lane, 0), || {
                    k.st_global::<F32>(k.offset(scales, k.shl_b64(run.number, 2)), scale);
                });
            });
        })
    }
}

/// Constants back from their 8-bit form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DoubleDequantizeSpec {
    /// The data type.
    pub nested: NestedSpec,
}

impl Spec for DoubleDequantizeSpec {
    /// Parameters: absmax_codes, absmax_scales, absmax_offset, n (u64), absmax (f32). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "double_dequantize", THREADS, |k| {
            let constants = ConstantsParam::new(k, &ConstantsSpec::Nested(self.nested.clone()));
            let (n, absmax) = (k.param_u64("n"), k.param_ptr("absmax"));
            k.bar_sync(0);
            for_each_run(k, n, |run| {
                for j in 0..EACH {
                    k.if_then(run.exists(k, j), || {
                        let value = constants.load(k, run.index(k, j));
                        k.st_global::<F32>(run.address(k, absmax, j, 4), value);
                    });
                }
            });
        })
    }
}

/// A warp's run of 256 elements.
struct Run {
    number: Reg<B64>,
    lane: Reg<B32>,
    /// The lane's element 0.
    first: Reg<B64>,
    n: Reg<B64>,
}

/// Emits `body` once for each run of `n` elements that is this warp's.
fn for_each_run(k: &Kernel, n: Reg<B64>, body: impl FnOnce(&Run)) {
    let tid = k.tid_x();
    let lane = k.and_b32(tid, 31);
    let warps = THREADS / 32;
    let number = k.cvt_u64_u32(k.mad_lo_u32(k.ctaid_x(), warps, k.shr_u32(tid, 5)));
    let stride = k.mul_wide_u32(k.nctaid_x(), warps);
    let runs = k.shr_u64(k.add_u64(n, CONSTANT_BLOCK - 1), 8);
    k.while_(
        || k.setp_lt_u64(number, runs),
        || {
            k.section("a run of 256");
            let first = k.add_u64(k.shl_b64(number, 8), k.cvt_u64_u32(lane));
            body(&Run { number, lane, first, n });
            k.to(number).add_u64(number, stride);
        },
    );
}

impl Run {
    fn index(&self, k: &Kernel, j: usize) -> Reg<B64> {
        k.add_u64(self.first, 32 * j as u64)
    }

    fn exists(&self, k: &Kernel, j: usize) -> Reg<ptx_asm::Pred> {
        k.setp_lt_u64(self.index(k, j), self.n)
    }

    fn address(&self, k: &Kernel, base: Ptr<Global>, j: usize, size: u32) -> Ptr<Global> {
        k.offset(base, k.shl_b64(self.index(k, j), size.trailing_zeros()))
    }

    /// The lane's elements; `pad` beyond the end.
    fn load(&self, k: &Kernel, base: Ptr<Global>, pad: impl Into<ptx_asm::Operand<F32>>) -> [Reg<F32>; EACH] {
        let values = k.splat::<F32, EACH>(pad);
        for (j, &value) in values.iter().enumerate() {
            let exists = self.exists(k, j);
            k.to(value).when(exists).ld_global::<F32>(self.address(k, base, j, 4));
        }
        values
    }
}

/// [`Encoding::quantize_block`] by a warp.
enum NestedEncoder {
    Fp8,
    Map { thresholds: Array<F32>, zero: u8 },
}

impl NestedEncoder {
    fn new(k: &Kernel, encoding: &Encoding) -> Self {
        match encoding {
            Encoding::Fp8 => Self::Fp8,
            Encoding::Map(map) => Self::Map { thresholds: share_thresholds(k, map), zero: map.encode(0.0) },
        }
    }

    /// The block's scale, in all lanes, and the lane's codes.
    fn encode(&self, k: &Kernel, differences: &[Reg<F32>]) -> (Reg<F32>, Vec<Reg<B32>>) {
        k.section("scale and codes");
        match self {
            Self::Fp8 => {
                let magnitudes = differences
                    .iter()
                    .map(|&d| k.selp_b32(k.f32_to_bits(k.abs_f32(d)), 0, k.testp_finite_f32(d)));
                let max = across_lanes(k, magnitudes.collect());
                let scale = k.div_rn_f32(k.f32_from_bits(max), fp8::MAX);
                let vanishes = k.setp_eq_f32(scale, 0.0);
                let code = |&d: &Reg<F32>| {
                    let code = encode_fp8(k, k.div_rn_f32(d, scale));
                    let code = k.selp_b32(0, code, vanishes);
                    k.selp_b32(code, u32::from(fp8::NAN_CODE), k.testp_finite_f32(d))
                };
                (scale, differences.iter().map(code).collect())
            }
            Self::Map { thresholds, zero } => {
                let magnitudes = differences.iter().map(|&d| k.f32_to_bits(k.abs_f32(d)));
                let max = across_lanes(k, magnitudes.collect());
                let inverse = k.rcp_rn_f32(k.f32_from_bits(max));
                let vanishes = k.setp_eq_f32(inverse, f32::INFINITY);
                let code = |&d: &Reg<F32>| {
                    let code = rank256(k, *thresholds, k.mul_rn_f32(d, inverse));
                    k.selp_b32(u32::from(*zero), code, vanishes)
                };
                let codes = differences.iter().map(code).collect();
                // A map has no NaN: what is not finite must show in the scale.
                let finite = k.setp_lt_u32(max, f32::INFINITY.to_bits());
                let scale = k.selp_b32(max, NAN_ABSMAX.to_bits(), finite);
                (k.f32_from_bits(k.selp_b32(0, scale, vanishes)), codes)
            }
        }
    }
}

fn across_lanes(k: &Kernel, values: Vec<Reg<B32>>) -> Reg<B32> {
    let max = values.into_iter().reduce(|a, b| k.max_u32(a, b)).expect("a lane has elements");
    let fold = |max, apart| k.max_u32(max, k.shfl_bfly_b32(max, apart, 31, u32::MAX));
    [16, 8, 4, 2, 1].into_iter().fold(max, fold)
}

/// [`fp8::encode`] of a number that is no NaN.
fn encode_fp8(k: &Kernel, x: Reg<F32>) -> Reg<B32> {
    let magnitude = k.min_f32(k.abs_f32(x), fp8::MAX);
    let exponent = k.max_s32(k.sub_s32(k.shr_u32(k.f32_to_bits(magnitude), 23), 127), -6);
    // 2^(3 - exponent): an exact scaling, so the conversion's rounding is the only one.
    let scaling = k.f32_from_bits(k.shl_b32(k.sub_s32(3 + 127, exponent), 23));
    let steps = k.cvt_rni_s32_f32(k.mul_rn_f32(magnitude, scaling));
    // 16 steps carry into the exponent; fewer than 8 are subnormal.
    let code = k.mad_lo_s32(k.add_s32(exponent, 6), 8, steps);
    k.or_b32(code, k.and_b32(k.shr_u32(k.f32_to_bits(x), 24), 0x80))
}

/// Brings the thresholds of a map to shared memory; a barrier must follow.
pub fn share_thresholds(k: &Kernel, map: &Map256) -> Array<F32> {
    table::share(k, "thresholds", &table::bits(map.midpoints), THREADS)
}

/// How many of 256 ascending thresholds (the last is infinite) `t` exceeds, by bisection.
pub fn rank256(k: &Kernel, thresholds: Array<F32>, t: Reg<F32>) -> Reg<B32> {
    let start = thresholds.ptr(k).reg();
    let at = k.mov::<B32>(start);
    for step in [128, 64, 32, 16, 8, 4, 2, 1] {
        let threshold = k.ld_shared::<F32>(Ptr::new(at).at(4 * (step - 1)));
        let above = k.setp_gt_f32(t, threshold);
        k.to(at).when(above).add_u32(at, 4 * step);
    }
    k.shr_u32(k.sub_u32(at, start), 2)
}
