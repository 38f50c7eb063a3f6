//! Bringing a block of an operand to f32 in scratch memory, row-major.

use super::super::simd::Simd;
use super::engine::Operand;

/// Stored rows that are read before they are transposed together.
pub const STRIP: usize = 16;

/// `out[r, c]` = element `(row0 + r, col0 + c)` of the operand, for a `[rows, cols]` block. `strip` holds [`STRIP`]
/// rows as long as the block's longer side.
pub fn block(
    simd: &Simd,
    operand: &Operand<'_>,
    [row0, col0]: [usize; 2],
    [rows, cols]: [usize; 2],
    (out, stride): (&mut [f32], usize),
    strip: &mut [f32],
) {
    if !operand.is_transposed() {
        for r in 0..rows {
            operand.read_row(simd, row0 + r, col0, &mut out[r * stride..][..cols]);
        }
        return;
    }
    // Stored rows are the block's columns.
    let strip_stride = strip.len() / STRIP;
    for c in (0..cols).step_by(STRIP) {
        let width = STRIP.min(cols - c);
        for (i, stored) in strip.chunks_mut(strip_stride).take(width).enumerate() {
            operand.read_row(simd, col0 + c + i, row0, &mut stored[..rows]);
        }
        simd.transpose([width, rows], strip, strip_stride, &mut out[c..], stride);
    }
}
