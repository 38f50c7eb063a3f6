//! Double quantization of block constants: `format::double_quant` by blocks of 256.

use super::Cpu;
use super::threads::Shared;
use crate::format::double_quant::{self, Encoding};
use crate::format::spec::CONSTANT_BLOCK;
use crate::format::{Constants, Map256, fp8, sum};
use std::borrow::Cow;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

const BLOCK: usize = CONSTANT_BLOCK as usize;
/// Fewer constants than this are not worth waking a thread for.
const LEAST: usize = 1 << 13;

static FP8_VALUES: LazyLock<[f32; 256]> = LazyLock::new(fp8::values);
static DYNAMIC: LazyLock<Encoding> = LazyLock::new(|| Encoding::Map(Box::new(Map256::dynamic_signed())));
static DYNAMIC_VALUES: LazyLock<[f32; 256]> = LazyLock::new(|| DYNAMIC.values());

/// The encoding that a spec names. `ops` has checked that it names one and that a caller's map ascends.
fn encoding(constants: &Constants) -> Cow<'static, Encoding> {
    match constants {
        Constants::F32 => unreachable!("plain constants have no second quantization"),
        Constants::Fp8 => Cow::Owned(Encoding::Fp8),
        Constants::Dynamic => Cow::Borrowed(&*DYNAMIC),
        Constants::Map(values) => {
            Cow::Owned(Encoding::Map(Box::new(Map256::new(values).expect("checked by ops"))))
        }
    }
}

/// Quantizes the constants; returns the offset.
pub fn quantize(
    cpu: &Cpu,
    absmax: &[f32],
    constants: &Constants,
    codes: &mut [u8],
    scales: &mut [f32],
) -> f32 {
    let encoding = encoding(constants);
    let offset = offset(cpu, absmax);
    let (codes, scales) = (Shared::new(codes), Shared::new(scales));
    cpu.threads().for_each_part(absmax.len(), BLOCK, LEAST, |start, end| {
        let mut differences = [0f32; BLOCK];
        for start in (start..end).step_by(BLOCK) {
            let end = end.min(start + BLOCK);
            let differences = &mut differences[..end - start];
            for (difference, absmax) in differences.iter_mut().zip(&absmax[start..end]) {
                *difference = absmax - offset;
            }
            // SAFETY: blocks are disjoint.
            let (codes, scale) =
                unsafe { (codes.slice(start, end), scales.slice(start / BLOCK, start / BLOCK + 1)) };
            scale[0] = encoding.quantize_block(differences, codes);
        }
    });
    offset
}

/// `format::double_quant::offset` without its copies: the first level of the tree in parallel, then the rest.
fn offset(cpu: &Cpu, absmax: &[f32]) -> f32 {
    let mut sums = vec![0f32; absmax.len().div_ceil(sum::FAN_IN)];
    let count = AtomicU64::new(0);
    let shared = Shared::new(&mut sums);
    cpu.threads().for_each_part(absmax.len(), sum::FAN_IN, LEAST, |start, end| {
        // SAFETY: parts are disjoint runs of whole leaves.
        let sums = unsafe { shared.slice(start / sum::FAN_IN, end.div_ceil(sum::FAN_IN)) };
        let mut finite = [0f32; sum::FAN_IN];
        let mut counted = 0;
        for (sum, run) in sums.iter_mut().zip(absmax[start..end].chunks(sum::FAN_IN)) {
            for (finite, &a) in finite.iter_mut().zip(run) {
                *finite = if a.is_finite() { a } else { 0.0 };
                counted += u64::from(a.is_finite());
            }
            *sum = sum::run_sum(&finite[..run.len()]);
        }
        count.fetch_add(counted, Ordering::Relaxed);
    });
    double_quant::offset_from(sum::tree_sum(&sums), count.into_inner())
}

/// Double-quantized constants, ready to be read one at a time.
pub struct NestedReader<'a> {
    values: &'a [f32; 256],
    codes: &'a [u8],
    scales: &'a [f32],
    offset: f32,
}

impl<'a> NestedReader<'a> {
    pub fn new(constants: &'a Constants, codes: &'a [u8], scales: &'a [f32], offset: f32) -> Self {
        let values = match constants {
            Constants::F32 => unreachable!("plain constants have no second quantization"),
            Constants::Fp8 => &FP8_VALUES,
            Constants::Dynamic => &DYNAMIC_VALUES,
            Constants::Map(values) => &**values,
        };
        Self { values, codes, scales, offset }
    }

    /// The absmax of blocks from `first` on.
    pub fn read(&self, first: usize, absmax: &mut [f32]) {
        let mut codes = &self.codes[first..first + absmax.len()];
        let mut absmax = absmax;
        let mut at = first;
        // Runs with one scale.
        while !absmax.is_empty() {
            let run = absmax.len().min(BLOCK - at % BLOCK);
            let (run_absmax, run_codes);
            (run_absmax, absmax) = absmax.split_at_mut(run);
            (run_codes, codes) = codes.split_at(run);
            let scale = self.scales[at / BLOCK];
            for (absmax, &code) in run_absmax.iter_mut().zip(run_codes) {
                *absmax = double_quant::dequantize_one(code, scale, self.offset, self.values);
            }
            at += run;
        }
    }
}

/// Reads all constants back.
pub fn dequantize(cpu: &Cpu, reader: &NestedReader<'_>, absmax: &mut [f32]) {
    let len = absmax.len();
    let absmax = Shared::new(absmax);
    cpu.threads().for_each_part(len, BLOCK, LEAST, |start, end| {
        // SAFETY: parts are disjoint.
        reader.read(start, unsafe { absmax.slice(start, end) });
    });
}
