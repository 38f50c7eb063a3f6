//! Reading a quantized matrix: whole, and row by row for the matrix products.

use super::Cpu;
use super::access::{Output, for_each_row_piece};
use super::double_quantize::NestedReader;
use super::simd::Simd;
use crate::format::{CodebookTable, spec::BLOCK_SIZES};
use crate::view::{ConstantsView, DType, Quantized, TensorMut};

/// Fewer elements than this are not worth waking a thread for.
const LEAST: usize = 1 << 15;

/// A quantized matrix, ready to be read.
pub struct Reader<'a> {
    values: [f32; 16],
    codes: &'a [u8],
    absmax: Absmax<'a>,
    cols: usize,
    block_size: usize,
}

enum Absmax<'a> {
    Plain(&'a [f32]),
    Nested(NestedReader<'a>),
}

impl<'a> Reader<'a> {
    pub fn new(matrix: &Quantized<'a>, table: &CodebookTable) -> Self {
        // SAFETY: a CPU context's memory is host memory.
        let absmax = unsafe {
            match matrix.constants {
                ConstantsView::F32(absmax) => Absmax::Plain(absmax.as_slice()),
                ConstantsView::Nested { codes, scales, offset } => Absmax::Nested(NestedReader::new(
                    &matrix.spec.constants,
                    codes.as_slice(),
                    scales.as_slice(),
                    offset.as_slice()[0],
                )),
            }
        };
        let codes = unsafe { matrix.codes.as_slice() };
        Self {
            values: table.values,
            codes,
            absmax,
            cols: matrix.cols,
            block_size: matrix.spec.block_size as usize,
        }
    }

    /// `out` = the elements of row `row` from column `col` on.
    pub fn read_row(&self, simd: &Simd, row: usize, col: usize, out: &mut [f32]) {
        self.read(simd, row * self.cols + col, out);
    }

    /// `out` = the elements of the flattened matrix from `start` on.
    pub fn read(&self, simd: &Simd, start: usize, out: &mut [f32]) {
        let mut at = start;
        let end = start + out.len();
        let mut out = out;
        while at < end {
            let block = at / self.block_size;
            let len = ((block + 1) * self.block_size).min(end) - at;
            let (piece, rest) = out.split_at_mut(len);
            self.read_in_block(simd, at, self.absmax(block), piece);
            (at, out) = (at + len, rest);
        }
    }

    /// Blocks start on whole bytes, but a piece of one may start at a low nibble.
    fn read_in_block(&self, simd: &Simd, at: usize, scale: f32, out: &mut [f32]) {
        let codes = &self.codes[at / 2..];
        if at.is_multiple_of(2) {
            simd.decode4(&self.values, codes, scale, out);
        } else if let Some((first, rest)) = out.split_first_mut() {
            *first = self.values[usize::from(codes[0] & 15)] * scale;
            simd.decode4(&self.values, &codes[1..], scale, rest);
        }
    }

    fn absmax(&self, block: usize) -> f32 {
        match &self.absmax {
            Absmax::Plain(absmax) => absmax[block],
            Absmax::Nested(nested) => nested.get(block),
        }
    }
}

/// Dequantizes the whole matrix.
pub fn dequantize(cpu: &Cpu, matrix: &Quantized<'_>, table: &CodebookTable, out: TensorMut<'_>) {
    let simd = cpu.simd();
    let reader = Reader::new(matrix, table);
    let (len, cols) = (matrix.rows * matrix.cols, matrix.cols);
    let block_size = reader.block_size;
    let contiguous = out.dtype() == DType::F32 && (out.row_stride() == cols || out.rows() <= 1);
    let data = out.at(0, 0).cast::<f32>();
    let data = super::threads::Shared::from_ptr(data);
    let out = Output::new(out);
    cpu.threads().for_each_part(len, block_size, LEAST, |start, end| {
        if contiguous {
            // SAFETY: parts are disjoint.
            return reader.read(simd, start, unsafe { data.slice(start, end) });
        }
        let mut buffer = [0f32; *BLOCK_SIZES.end() as usize];
        for start in (start..end).step_by(block_size) {
            let end = end.min(start + block_size);
            let block = &mut buffer[..end - start];
            reader.read(simd, start, block);
            for_each_row_piece(cols, start, end, |row, col, at, len| {
                // SAFETY: blocks are disjoint.
                unsafe { out.write_row(simd, row, col, &block[at..at + len]) };
            });
        }
    });
}
