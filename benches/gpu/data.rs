//! Host memory: noise, and matrices of each dtype.

use half::{bf16, f16};
use qlora_kernels::DType;
use rayon::prelude::*;
use std::ops::{Deref, DerefMut};

/// What memory holds that nobody has written: the gaps between rows, what is to be written, and what lies behind it.
pub const GUARD: u8 = 0xa5;

/// Bytes at an address that suits every type.
#[derive(Clone, Debug)]
pub struct Bytes {
    words: Vec<u64>,
    len: usize,
}

impl Bytes {
    /// Filled with the guard pattern.
    pub fn new(len: usize) -> Self {
        Self { words: vec![u64::from_ne_bytes([GUARD; 8]); len.div_ceil(8)], len }
    }

    /// Of these numbers.
    pub fn of<T: bytemuck::NoUninit>(values: &[T]) -> Self {
        let mut bytes = Self::new(size_of_val(values));
        bytes.copy_from_slice(bytemuck::cast_slice(values));
        bytes
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Which numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Noise {
    /// As weights are: about normal.
    Weights,
    /// The same with zeros, blocks of zeros, subnormals, infinities and NaNs among them.
    Wild,
}

/// Numbers that leave the others of their block as they are.
const QUIET: [f32; 4] = [0.0, -0.0, 1e-39, -3e-41];
/// Numbers that do not.
const LOUD: [f32; 4] = [1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];

impl Noise {
    /// Number `index`; any order, any thread.
    pub fn at(self, index: usize) -> f32 {
        let bits = mix(index as u64);
        if self == Noise::Wild {
            let special = bits as usize % 331;
            match (index / 64 % 7, index / 4096 % 3) {
                (3, _) => return 0.0,
                (_, 1) if special < LOUD.len() => return LOUD[special], // not in every block of 4096
                _ if special < QUIET.len() => return QUIET[special],
                _ => {}
            }
        }
        // The sum of four uniform numbers: near enough to a normal one.
        let uniform = |shift: u32| (bits >> shift & 0xffff) as f32 / 65536.0 - 0.5;
        0.03 * (uniform(0) + uniform(16) + uniform(32) + uniform(48))
    }

    /// Constants: not negative.
    pub fn constants(self, len: usize) -> Bytes {
        let mut bytes = Bytes::new(4 * len);
        let values = bytemuck::cast_slice_mut::<u8, f32>(&mut bytes);
        values.par_iter_mut().enumerate().for_each(|(i, value)| *value = self.at(i).abs());
        bytes
    }

    /// A matrix of the rows from `first` on: other numbers than those of another `first`.
    pub fn rows(self, dtype: DType, first: usize, rows: usize, cols: usize) -> Bytes {
        let all = self.matrix(dtype, first + rows, cols, cols);
        let mut bytes = Bytes::new(rows * cols * dtype.size());
        bytes.copy_from_slice(&all[first * cols * dtype.size()..]);
        bytes
    }

    /// A matrix with rows of `cols` elements, `stride` apart.
    pub fn matrix(self, dtype: DType, rows: usize, cols: usize, stride: usize) -> Bytes {
        let mut bytes = Bytes::new(rows * stride * dtype.size());
        let row_bytes = (stride * dtype.size()).max(1);
        bytes.par_chunks_mut(row_bytes).enumerate().for_each(|(row, bytes)| {
            write_row(dtype, bytes, (0..cols).map(|col| self.at(row * cols + col)));
        });
        bytes
    }
}

/// A matrix of these values, rounded.
pub fn matrix_of(dtype: DType, values: &[f32], cols: usize, stride: usize) -> Bytes {
    let mut bytes = Bytes::new(values.len() / cols.max(1) * stride * dtype.size());
    let row_bytes = (stride * dtype.size()).max(1);
    for (values, bytes) in values.chunks(cols.max(1)).zip(bytes.chunks_mut(row_bytes)) {
        write_row(dtype, bytes, values.iter().copied());
    }
    bytes
}

/// The values of a matrix, row after row.
pub fn values_of(dtype: DType, bytes: &[u8], cols: usize, stride: usize) -> Vec<f32> {
    let rows = bytes.chunks((stride * dtype.size()).max(1));
    rows.flat_map(|row| {
        let row = &row[..cols * dtype.size()];
        row.chunks(dtype.size()).map(|element| match dtype {
            DType::F32 => bytemuck::pod_read_unaligned(element),
            DType::F16 => bytemuck::pod_read_unaligned::<f16>(element).to_f32(),
            DType::Bf16 => bytemuck::pod_read_unaligned::<bf16>(element).to_f32(),
        })
    })
    .collect()
}

/// Rounds values into the start of a row.
fn write_row(dtype: DType, row: &mut [u8], values: impl Iterator<Item = f32>) {
    for (element, value) in row.chunks_mut(dtype.size()).zip(values) {
        match dtype {
            DType::F32 => element.copy_from_slice(&value.to_ne_bytes()),
            DType::F16 => element.copy_from_slice(&f16::from_f32(value).to_ne_bytes()),
            DType::Bf16 => element.copy_from_slice(&bf16::from_f32(value).to_ne_bytes()),
        }
    }
}

/// 64 well mixed bits: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(index: u64) -> u64 {
    let z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
