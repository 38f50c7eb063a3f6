//! Reading a quantized matrix: whole, and row by row for the matrix products.

use super::Cpu;
use super::access::{Output, for_each_row_piece};
use super::double_quantize::NestedReader;
use super::simd::{Decoded, Simd, prefetch};
use crate::format::CodebookTable;
use crate::view::{ConstantsView, DType, Element, Quantized, TensorMut};
use half::{bf16, f16};

/// Fewer elements than this are not worth waking a thread for.
const LEAST: usize = 1 << 15;

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Nested constants are read for so many blocks at a time.
const GROUP: usize = 64;

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

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements of a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Whether each row starts with a block.
    pub fn has_whole_rows(&self) -> bool {
        self.cols.is_multiple_of(self.block_size)
    }

    /// The codebook's.
    pub fn values(&self) -> &[f32; 16] {
        &self.values
    }

    /// The codes from element `start` of the flattened matrix on, the first of a pair.
    pub fn codes_from(&self, start: usize) -> &[u8] {
        &self.codes[start / 2..]
    }

    /// Asks for the codes of elements that will be read soon, if they are there.
    pub fn prefetch(&self, row: usize, col: usize, len: usize) {
        let start = (row * self.cols + col) / 2;
        for line in (start..start + len / 2).step_by(LINE) {
            prefetch(self.codes.as_ptr().wrapping_add(line));
        }
    }

    /// The absmax of blocks from that of element `start` on, where they lie as numbers.
    pub fn plain_absmax_from(&self, start: usize) -> Option<&[f32]> {
        match &self.absmax {
            Absmax::Plain(absmax) => Some(&absmax[start / self.block_size..]),
            Absmax::Nested(_) => None,
        }
    }

    /// The absmax of blocks from that of element `start` on.
    pub fn read_absmax(&self, start: usize, out: &mut [f32]) {
        let block = start / self.block_size;
        match &self.absmax {
            Absmax::Plain(absmax) => out.copy_from_slice(&absmax[block..block + out.len()]),
            Absmax::Nested(nested) => nested.read(block, out),
        }
    }

    /// `out` = the elements of row `row` from column `col` on.
    pub fn read_row<T: Decoded>(&self, simd: &Simd, row: usize, col: usize, out: &mut [T]) {
        self.read(simd, row * self.cols + col, out);
    }

    /// `out` = the elements of the flattened matrix from `start` on, rounded once.
    pub fn read<T: Decoded>(&self, simd: &Simd, start: usize, out: &mut [T]) {
        let (block, within) = (start / self.block_size, start % self.block_size);
        if within == 0 {
            return self.read_blocks(simd, block, out);
        }
        let (first, rest) = out.split_at_mut(out.len().min(self.block_size - within));
        self.read_in_block(simd, start, first);
        if !rest.is_empty() {
            self.read_blocks(simd, block + 1, rest);
        }
    }

    /// From the start of block `block` on.
    fn read_blocks<T: Decoded>(&self, simd: &Simd, block: usize, out: &mut [T]) {
        let (block_size, codes) = (self.block_size, &self.codes[block * self.block_size / 2..]);
        match &self.absmax {
            Absmax::Plain(absmax) => simd.decode4(&self.values, codes, &absmax[block..], block_size, out),
            Absmax::Nested(nested) => {
                let mut group = [0f32; GROUP];
                let groups = out.chunks_mut(GROUP * block_size).zip(codes.chunks(GROUP * block_size / 2));
                for (i, (out, codes)) in groups.enumerate() {
                    let group = &mut group[..out.len().div_ceil(block_size)];
                    nested.read(block + i * GROUP, group);
                    simd.decode4(&self.values, codes, group, block_size, out);
                }
            }
        }
    }

    /// A piece of one block. Blocks start on whole bytes, but the piece may start at a low nibble.
    fn read_in_block<T: Decoded>(&self, simd: &Simd, start: usize, out: &mut [T]) {
        let (block, codes) = (start / self.block_size, &self.codes[start / 2..]);
        let mut absmax = [0f32];
        match &self.absmax {
            Absmax::Plain(plain) => absmax[0] = plain[block],
            Absmax::Nested(nested) => nested.read(block, &mut absmax),
        }
        let decode = |codes, out: &mut [T]| simd.decode4(&self.values, codes, &absmax, self.block_size, out);
        if start.is_multiple_of(2) {
            decode(codes, out);
        } else if let Some((first, rest)) = out.split_first_mut() {
            let mut pair = [T::default(); 2];
            decode(codes, &mut pair);
            *first = pair[1];
            decode(&codes[1..], rest);
        }
    }
}

/// Dequantizes the whole matrix.
pub fn dequantize(cpu: &Cpu, matrix: &Quantized<'_>, table: &CodebookTable, out: TensorMut<'_>) {
    let reader = Reader::new(matrix, table);
    match out.dtype() {
        DType::F32 => read_all::<f32>(cpu, &reader, out),
        DType::F16 => read_all::<f16>(cpu, &reader, out),
        DType::Bf16 => read_all::<bf16>(cpu, &reader, out),
    }
}

fn read_all<T: Decoded + Element>(cpu: &Cpu, reader: &Reader<'_>, out: TensorMut<'_>) {
    let (simd, len, cols) = (cpu.simd(), out.rows() * out.cols(), out.cols());
    let out = Output::new(out);
    cpu.threads().for_each_part(len, reader.block_size, LEAST, |start, end| {
        // SAFETY: parts are disjoint.
        if let Some(out) = unsafe { out.slice::<T>(start, end) } {
            return reader.read(simd, start, out);
        }
        for_each_row_piece(cols, start, end, |row, col, at, len| {
            // SAFETY: parts are disjoint, and pieces of them.
            reader.read(simd, start + at, unsafe { out.row::<T>(row, col, len) });
        });
    });
}
