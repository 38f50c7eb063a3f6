//! 4-bit quantization of a matrix: `format::blockwise4` by blocks.

use super::access;
use super::threads::Shared;
use super::{Cpu, double_quantize};
use crate::format::{CodebookTable, spec::BLOCK_SIZES};
use crate::view::{ConstantsMut, QuantizedMut, Tensor};

/// Fewer elements than this are not worth waking a thread for.
const LEAST: usize = 1 << 15;
/// Elements that a thread works on at a time: whole blocks, and what is widened stays in the first-level cache.
const TILE: usize = 4096;
const _: () = assert!(TILE.is_multiple_of(*BLOCK_SIZES.end() as usize));

/// Quantizes `x`. `absmax` is scratch of one f32 a block for double quantization, else unused.
pub fn quantize(cpu: &Cpu, x: &Tensor<'_>, table: &CodebookTable, out: QuantizedMut<'_>, absmax: &mut [f32]) {
    let block_size = out.spec.block_size as usize;
    // SAFETY: a CPU context's memory is host memory.
    let codes = unsafe { out.codes.into_slice() };
    match out.constants {
        ConstantsMut::F32(constants) => {
            quantize_blocks(cpu, x, table, block_size, codes, unsafe { constants.into_slice() });
        }
        ConstantsMut::Nested { codes: absmax_codes, scales, offset } => {
            quantize_blocks(cpu, x, table, block_size, codes, absmax);
            let (codes, scales, offset) =
                unsafe { (absmax_codes.into_slice(), scales.into_slice(), offset.into_slice()) };
            offset[0] = double_quantize::quantize(cpu, absmax, &out.spec.constants, codes, scales);
        }
    }
}

fn quantize_blocks(
    cpu: &Cpu,
    x: &Tensor<'_>,
    table: &CodebookTable,
    block_size: usize,
    codes: &mut [u8],
    absmax: &mut [f32],
) {
    let (simd, len) = (cpu.simd(), x.rows() * x.cols());
    let (codes, absmax) = (Shared::new(codes), Shared::new(absmax));
    cpu.threads().for_each_part(len, block_size, LEAST, |start, end| {
        let mut buffer = [0f32; TILE];
        for start in (start..end).step_by(TILE) {
            let end = end.min(start + TILE);
            let x = access::read(simd, x, start, end, &mut buffer);
            // SAFETY: tiles are disjoint, of whole blocks, and even-sized, so their bytes are disjoint, too.
            let (codes, absmax) = unsafe {
                (
                    codes.slice(start / 2, end.div_ceil(2)),
                    absmax.slice(start / block_size, end.div_ceil(block_size)),
                )
            };
            simd.quantize4(table, x, block_size, absmax, codes);
        }
    });
}
