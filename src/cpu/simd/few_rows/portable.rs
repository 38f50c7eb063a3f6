//! Eight lanes of what the compiler makes of them; elements stay in order.

use super::Rows;

pub const LANES: usize = 8;
pub const GROUP: usize = 32;

/// Nothing is dealt.
pub fn deal(_: &mut [f32]) {}

pub fn add_up(sums: &[f32], out: &mut [f32]) {
    for (sum, out) in sums.chunks_exact(LANES).zip(out) {
        let four: [f32; 4] = std::array::from_fn(|i| sum[i] + sum[i + 4]);
        *out = (four[0] + four[2]) + (four[1] + four[3]);
    }
}

/// A row of W at a time with `M` of X.
///
/// # Safety
/// See [`super::FewRows::multiply`].
pub unsafe fn rows<const M: usize>(w: &Rows<'_>, x: *const f32, x_stride: usize, sums: *mut f32, add: bool) {
    // SAFETY: as promised by the caller.
    let sums = unsafe { std::slice::from_raw_parts_mut(sums.cast::<[[f32; LANES]; M]>(), w.count) };
    let x: [&[f32]; M] =
        std::array::from_fn(|m| unsafe { std::slice::from_raw_parts(x.add(m * x_stride), w.len) });
    let blocks = w.len / w.block_size;
    for (row, out) in sums.iter_mut().enumerate() {
        let mut sum = if add { *out } else { [[0.0; LANES]; M] };
        let codes = &w.codes[row * w.row_bytes..][..w.len / 2];
        let absmax = &w.absmax[row * w.absmax_stride..][..blocks];
        for (block, (codes, absmax)) in codes.chunks_exact(w.block_size / 2).zip(absmax).enumerate() {
            let numbers = w.values.map(|value| value * absmax);
            for (group, codes) in codes.chunks_exact(GROUP / 2).enumerate() {
                let mut elements = [0f32; GROUP];
                for (pair, code) in elements.chunks_exact_mut(2).zip(codes) {
                    (pair[0], pair[1]) = (numbers[usize::from(code >> 4)], numbers[usize::from(code & 15)]);
                }
                let at = block * w.block_size + group * GROUP;
                for (sum, x) in sum.iter_mut().zip(&x) {
                    let x = x[at..at + GROUP].chunks_exact(LANES);
                    for (elements, x) in elements.chunks_exact(LANES).zip(x) {
                        for lane in 0..LANES {
                            sum[lane] += elements[lane] * x[lane];
                        }
                    }
                }
            }
        }
        *out = sum;
    }
}
