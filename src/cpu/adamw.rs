//! The AdamW step with f32 states.

use super::Cpu;
use super::access::{Output, for_each_row_piece, read_row};
use super::threads::Shared;
use crate::format::adamw::AdamWScalars;
use crate::view::{Tensor, TensorMut};

/// Elements that a thread works on at a time: parameter and gradient in f32 stay in the first-level cache.
const CHUNK: usize = 1024;
/// Fewer elements than this are not worth waking a thread for.
const LEAST: usize = 1 << 14;

/// Updates `param`, `m` and `v` in place; `param` is rounded once to its type.
pub fn adamw_step(
    cpu: &Cpu,
    scalars: &AdamWScalars,
    param: TensorMut<'_>,
    grad: &Tensor<'_>,
    m: &mut [f32],
    v: &mut [f32],
) {
    let (simd, len, cols) = (cpu.simd(), param.rows() * param.cols(), param.cols());
    let (param, m, v) = (Output::new(param), Shared::new(m), Shared::new(v));
    cpu.threads().for_each_part(len, CHUNK, LEAST, |start, end| {
        let (mut p, mut g) = ([0f32; CHUNK], [0f32; CHUNK]);
        for start in (start..end).step_by(CHUNK) {
            let end = end.min(start + CHUNK);
            let (p, g) = (&mut p[..end - start], &mut g[..end - start]);
            // SAFETY: parts are disjoint.
            unsafe {
                for_each_row_piece(cols, start, end, |row, col, at, len| {
                    param.read_row(simd, row, col, &mut p[at..at + len]);
                    read_row(simd, grad, row, col, &mut g[at..at + len]);
                });
                simd.adamw(scalars, p, g, m.slice(start, end), v.slice(start, end));
                for_each_row_piece(cols, start, end, |row, col, at, len| {
                    param.write_row(simd, row, col, &p[at..at + len]);
                });
            }
        }
    });
}
