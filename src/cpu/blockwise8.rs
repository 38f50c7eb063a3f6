//! 8-bit blockwise quantization: `format::blockwise8` by blocks.

use super::Cpu;
use super::access::{Output, for_each_row_piece, read_row};
use super::threads::Shared;
use crate::format::Map256;
use crate::view::{Tensor, TensorMut};

/// Fewer elements than this are not worth waking a thread for.
const LEAST: usize = 1 << 14;

/// Quantizes `x` to one byte an element and one absmax a block.
pub fn quantize(
    cpu: &Cpu,
    x: &Tensor<'_>,
    map: &Map256,
    block_size: usize,
    codes: &mut [u8],
    absmax: &mut [f32],
) {
    let (simd, len, zero) = (cpu.simd(), x.rows() * x.cols(), map.encode(0.0));
    let (codes, absmax) = (Shared::new(codes), Shared::new(absmax));
    cpu.threads().for_each_part(len, block_size, LEAST, |start, end| {
        let mut buffer = [0f32; 4096];
        for start in (start..end).step_by(block_size) {
            let end = end.min(start + block_size);
            let block = &mut buffer[..end - start];
            for_each_row_piece(x.cols(), start, end, |row, col, at, len| {
                read_row(simd, x, row, col, &mut block[at..at + len]);
            });
            // SAFETY: blocks are disjoint.
            let (codes, absmax) = unsafe {
                (codes.slice(start, end), absmax.slice(start / block_size, start / block_size + 1))
            };
            let (scale, inverse) = simd.block_scale(block);
            absmax[0] = scale;
            for (code, &value) in codes.iter_mut().zip(&*block) {
                *code = if scale == 0.0 { zero } else { map.encode(value * inverse) };
            }
        }
    });
}

/// Dequantizes to `out`.
pub fn dequantize(
    cpu: &Cpu,
    codes: &[u8],
    absmax: &[f32],
    map: &[f32; 256],
    block_size: usize,
    out: TensorMut<'_>,
) {
    let (simd, len, cols) = (cpu.simd(), out.rows() * out.cols(), out.cols());
    let out = Output::new(out);
    cpu.threads().for_each_part(len, block_size, LEAST, |start, end| {
        let mut buffer = [0f32; 4096];
        for start in (start..end).step_by(block_size) {
            let end = end.min(start + block_size);
            let (block, scale) = (&mut buffer[..end - start], absmax[start / block_size]);
            for (value, &code) in block.iter_mut().zip(&codes[start..end]) {
                *value = map[usize::from(code)] * scale;
            }
            for_each_row_piece(cols, start, end, |row, col, at, len| {
                // SAFETY: blocks are disjoint.
                unsafe { out.write_row(simd, row, col, &block[at..at + len]) };
            });
        }
    });
}
