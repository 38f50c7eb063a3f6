//! 8-bit blockwise quantization: `format::blockwise8` by blocks.

use super::Cpu;
use super::access::{self, Output, for_each_row_piece};
use super::simd::codes::Coder;
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
    let (simd, len, coder) = (cpu.simd(), x.rows() * x.cols(), Coder::of(map));
    let (codes, absmax) = (Shared::new(codes), Shared::new(absmax));
    cpu.threads().for_each_part(len, block_size, LEAST, |start, end| {
        let mut buffer = [0f32; 4096];
        for start in (start..end).step_by(block_size) {
            let end = end.min(start + block_size);
            let block = access::read(simd, x, start, end, &mut buffer);
            // SAFETY: blocks are disjoint.
            let (codes, absmax) = unsafe {
                (codes.slice(start, end), absmax.slice(start / block_size, start / block_size + 1))
            };
            let (scale, inverse) = simd.block_scale(block);
            absmax[0] = scale;
            // A block that vanishes is multiplied by 0: the code of zero.
            match coder {
                Some(coder) => simd.encode8(coder, block, inverse, codes),
                None => codes.iter_mut().zip(block).for_each(|(code, x)| *code = map.encode(x * inverse)),
            }
        }
    });
}

/// Dequantizes to `out`.
pub fn dequantize(
    cpu: &Cpu,
    codes: &[u8],
    absmax: &[f32],
    map: &Map256,
    block_size: usize,
    out: TensorMut<'_>,
) {
    let (simd, len, cols, coder) = (cpu.simd(), out.rows() * out.cols(), out.cols(), Coder::of(map));
    let out = Output::new(out);
    cpu.threads().for_each_part(len, block_size, LEAST, |start, end| {
        let mut buffer = [0f32; 4096];
        for start in (start..end).step_by(block_size) {
            let end = end.min(start + block_size);
            let (codes, scale) = (&codes[start..end], absmax[start / block_size]);
            // SAFETY: blocks are disjoint.
            let in_place = unsafe { out.slice::<f32>(start, end) };
            let widened = in_place.is_none();
            let values = in_place.unwrap_or(&mut buffer[..end - start]);
            match coder {
                Some(coder) => simd.decode8(coder, codes, scale, values),
                None => values.iter_mut().zip(codes).for_each(|(value, &code)| {
                    *value = map.values[usize::from(code)] * scale;
                }),
            }
            if widened {
                for_each_row_piece(cols, start, end, |row, col, at, len| {
                    // SAFETY: blocks are disjoint.
                    unsafe { out.write_row(simd, row, col, &buffer[at..at + len]) };
                });
            }
        }
    });
}
