//! Bringing a block of an operand to words in scratch memory, row-major: f32, or pairs of bf16 along the inner dimension. An odd
//! end's pair has a zero.

use super::super::dequantize::Reader;
use super::super::simd::decode_columns::{self, ROWS};
use super::super::simd::{PieceOfRow, Simd, Words};
use super::engine::Operand;
use half::bf16;

/// Stored rows that are read before they are transposed together.
pub const STRIP: usize = 16;

/// How many rows of a weight are asked for ahead, where only some of their columns are read: nobody else foresees where they lie.
const AHEAD: usize = 16;
const _: () = assert!(AHEAD >= STRIP && AHEAD >= ROWS);

/// `out[r, k]` = element `(row0 + r, k0 + k)` of the left operand, for a `[rows, inner]` block. `strip` holds [`STRIP`] rows as
/// long as the block's longer side, in words.
pub fn left(
    simd: &Simd,
    words: Words,
    operand: &Operand<'_>,
    [row0, k0]: [usize; 2],
    [rows, inner]: [usize; 2],
    (out, stride): (&mut [f32], usize),
    strip: &mut [f32],
) {
    if operand.is_transposed() {
        return transposed(simd, words, operand, [k0, row0], [inner, rows], (out, stride), strip);
    }
    for (r, out) in out.chunks_mut(stride).take(rows).enumerate() {
        read_row(simd, words, operand, row0 + r, k0, inner, out);
    }
}

/// `out[k, c]` = element `(k0 + k, col0 + c)` of the right operand, for an `[inner, cols]` block.
pub fn right(
    simd: &Simd,
    words: Words,
    operand: &Operand<'_>,
    [k0, col0]: [usize; 2],
    [inner, cols]: [usize; 2],
    (out, stride): (&mut [f32], usize),
    strip: &mut [f32],
) {
    if operand.is_transposed() {
        return transposed(simd, words, operand, [col0, k0], [cols, inner], (out, stride), strip);
    }
    let (per_word, weight) = (words.elements(), operand.weight());
    for (k, out) in out.chunks_mut(stride).take(inner.div_ceil(per_word)).enumerate() {
        let (row, out) = (k0 + per_word * k, &mut out[..cols]);
        (row..row + per_word).for_each(|row| prefetch(operand, row, col0, cols));
        match (words, weight) {
            (Words::Numbers, _) => operand.read_row(simd, row, col0, out),
            (Words::Pairs, Some(weight)) if weight.has_whole_rows() && is_of(16, col0, cols) => {
                interleave4(simd, weight, row, col0, row + 1 < k0 + inner, out, strip);
            }
            (Words::Pairs, _) => {
                let both: &mut [bf16] = &mut bytemuck::cast_slice_mut(strip)[..2 * cols];
                let (first, second) = both.split_at_mut(cols);
                operand.read_row_bf16(simd, row, col0, first);
                if row + 1 < k0 + inner {
                    operand.read_row_bf16(simd, row + 1, col0, second);
                } else {
                    second.fill(bf16::ZERO);
                }
                simd.interleave(first, second, out);
            }
        }
    }
}

/// Asks for what will be read after this piece of a row of a weight.
fn prefetch(operand: &Operand<'_>, row: usize, col: usize, len: usize) {
    if let Some(weight) = operand.weight() {
        weight.prefetch(row + AHEAD, col, len);
    }
}

/// Pairs of the elements of rows `row` and `row + 1` of a weight, or of zeros where that is none, whose blocks begin with rows.
fn interleave4(
    simd: &Simd,
    weight: &Reader<'_>,
    row: usize,
    col: usize,
    both: bool,
    out: &mut [f32],
    strip: &mut [f32],
) {
    let (first, start) = (row * weight.cols() + col, col % weight.block_size());
    let blocks = (start + out.len()).div_ceil(weight.block_size());
    let (absmax, strip) = strip.split_at_mut(blocks);
    let second_absmax = &mut strip[..blocks];
    weight.read_absmax(first, absmax);
    let codes = weight.codes_from(first);
    let mut second_codes = codes;
    if both {
        weight.read_absmax(first + weight.cols(), second_absmax);
        second_codes = weight.codes_from(first + weight.cols());
    } else {
        second_absmax.fill(0.0);
    }
    let rows = [PieceOfRow { codes, absmax }, PieceOfRow { codes: second_codes, absmax: second_absmax }];
    simd.interleave4(weight.values(), rows, weight.block_size(), start, out);
}

/// `out[l, c]` = element `(row0 + c, col0 + l)` of the stored matrix, for `count` of its rows, of which words are taken from `len`
/// elements.
fn transposed(
    simd: &Simd,
    words: Words,
    operand: &Operand<'_>,
    [row0, col0]: [usize; 2],
    [count, len]: [usize; 2],
    (out, stride): (&mut [f32], usize),
    strip: &mut [f32],
) {
    let whole = match operand.weight() {
        Some(weight) if simd.has_decode_columns(words) && weight.has_whole_rows() && is_of(8, col0, len) => {
            let whole = count / ROWS * ROWS;
            for c in (0..whole).step_by(ROWS) {
                decode_columns(simd, words, weight, [row0 + c, col0], len, (&mut out[c..], stride), strip);
            }
            whole
        }
        _ => 0,
    };
    let strip_stride = strip.len() / STRIP;
    for c in (whole..count).step_by(STRIP) {
        let rows = STRIP.min(count - c);
        for (i, stored) in strip.chunks_mut(strip_stride).take(rows).enumerate() {
            prefetch(operand, row0 + c + i, col0, len);
            read_row(simd, words, operand, row0 + c + i, col0, len, stored);
        }
        simd.transpose([rows, len.div_ceil(words.elements())], strip, strip_stride, &mut out[c..], stride);
    }
}

/// Whether a piece of a row begins and ends at multiples of `unit`.
fn is_of(unit: usize, start: usize, len: usize) -> bool {
    start.is_multiple_of(unit) && len.is_multiple_of(unit)
}

/// [`transposed`] of [`ROWS`] rows of a weight, whose blocks begin with rows.
fn decode_columns(
    simd: &Simd,
    words: Words,
    weight: &Reader<'_>,
    [row0, col0]: [usize; 2],
    len: usize,
    (out, stride): (&mut [f32], usize),
    strip: &mut [f32],
) {
    let (first, start) = (row0 * weight.cols() + col0, col0 % weight.block_size());
    let blocks = (start + len).div_ceil(weight.block_size());
    let (absmax, strip) = strip.split_at_mut(blocks * ROWS);
    let absmax: &mut [[f32; ROWS]] = bytemuck::cast_slice_mut(absmax);
    for row in 0..ROWS {
        weight.prefetch(row0 + row + AHEAD, col0, len);
        let of_row = &mut strip[..blocks];
        weight.read_absmax(first + row * weight.cols(), of_row);
        absmax.iter_mut().zip(&*of_row).for_each(|(absmax, &of_row)| absmax[row] = of_row);
    }
    let rows = decode_columns::Rows {
        values: weight.values(),
        codes: weight.codes_from(first),
        row_bytes: weight.cols() / 2,
        absmax,
        block_size: weight.block_size(),
        start,
        len,
    };
    simd.decode_columns(words, &rows, out, stride);
}

/// `out` = words of `len` elements of the stored matrix's row `row` from column `col` on.
pub fn read_row(
    simd: &Simd,
    words: Words,
    operand: &Operand<'_>,
    row: usize,
    col: usize,
    len: usize,
    out: &mut [f32],
) {
    match words {
        Words::Numbers => operand.read_row(simd, row, col, &mut out[..len]),
        Words::Pairs => {
            let out: &mut [bf16] = &mut bytemuck::cast_slice_mut(out)[..len.next_multiple_of(2)];
            operand.read_row_bf16(simd, row, col, &mut out[..len]);
            out[len..].fill(bf16::ZERO);
        }
    }
}
