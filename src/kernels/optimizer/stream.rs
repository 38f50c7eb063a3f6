//! The elements of a run in memory: of a parameter, a gradient, or a state.

use super::super::dense::Dense;
use super::super::tensor::{narrow_pair_bf16, narrow_pair_f16, widen};
use super::table::{EACH, Run, VECTOR};
use crate::view::DType;
use ptx_asm::{B32, B64, F32, Global, Kernel, Ptr, Reg};

/// Numbers in memory, one for each element of a parameter.
pub struct Stream {
    /// Their type.
    pub dtype: DType,
    /// The first.
    pub base: Ptr<Global>,
    /// Columns and row stride, where there are gaps.
    pub rows: Option<[Reg<B64>; 2]>,
}

impl Stream {
    /// The lane's elements as f32; 0 beyond the end.
    pub fn load(&self, k: &Kernel, run: &Run) -> [Reg<F32>; EACH] {
        let values = k.splat::<F32, EACH>(0.0);
        let whole = || {
            for (u, values) in values.chunks(VECTOR).enumerate() {
                let from = self.vector(k, run).at(self.apart(u));
                let words = match self.dtype {
                    DType::F32 => k.ld_global::<[B32; 4]>(from).to_vec(),
                    _ => k.ld_global::<[B32; 2]>(from).to_vec(),
                };
                let loaded = widen(k, self.dtype, words);
                values.iter().zip(loaded).for_each(|(&to, value)| k.to(to).mov(value));
            }
        };
        let single = || {
            for (i, (row, col)) in self.places(k, run).into_iter().enumerate() {
                let value = self.dense(k).load(k, row, col, Some(run.has(k, i)));
                k.to(values[i]).mov(value);
            }
        };
        run.whole_or_single(k, whole, single);
        values
    }

    /// Writes the lane's elements, as far as they exist, rounded to nearest even.
    pub fn store(&self, k: &Kernel, run: &Run, values: &[Reg<F32>]) {
        let whole = || {
            for (u, values) in values.chunks(VECTOR).enumerate() {
                let to = self.vector(k, run).at(self.apart(u));
                let pair = |i: usize| match self.dtype {
                    DType::F16 => narrow_pair_f16(k, values[i], values[i + 1]),
                    _ => narrow_pair_bf16(k, values[i], values[i + 1]),
                };
                match self.dtype {
                    DType::F32 => {
                        let words: [Reg<B32>; 4] = std::array::from_fn(|i| k.f32_to_bits(values[i]));
                        k.st_global::<[B32; 4]>(to, words);
                    }
                    _ => k.st_global::<[B32; 2]>(to, [pair(0), pair(2)]),
                }
            }
        };
        let single = || {
            for (i, (row, col)) in self.places(k, run).into_iter().enumerate() {
                k.if_then(run.has(k, i), || self.dense(k).store(k, row, col, values[i]));
            }
        };
        run.whole_or_single(k, whole, single);
    }

    /// The lane's first vector.
    fn vector(&self, k: &Kernel, run: &Run) -> Ptr<Global> {
        k.offset(self.base, k.shl_b64(run.first, self.dtype.size().trailing_zeros()))
    }

    /// Bytes from the lane's first vector to its vector `u`.
    fn apart(&self, u: usize) -> i32 {
        Run::apart(u * VECTOR) as i32 * self.dtype.size() as i32
    }

    fn dense(&self, k: &Kernel) -> Dense {
        let stride = self.rows.map_or_else(|| k.mov(0), |[_, stride]| stride);
        Dense { dtype: self.dtype, base: self.base, stride }
    }

    /// Row and column of the lane's elements: a division for each vector, then from column to column.
    fn places(&self, k: &Kernel, run: &Run) -> Vec<(Reg<B64>, Reg<B64>)> {
        let index = |i: usize| k.add_u64(run.first, u64::from(Run::apart(i)));
        let Some([cols, _]) = self.rows else {
            let row = k.mov(0);
            return (0..EACH).map(|i| (row, index(i))).collect();
        };
        let mut places = Vec::new();
        for i in (0..EACH).step_by(VECTOR) {
            let index = index(i);
            let row = k.div_u64(index, cols);
            let mut place = (row, k.sub_u64(index, k.mul_lo_u64(row, cols)));
            for _ in 0..VECTOR {
                places.push(place);
                let (row, next) = (place.0, k.add_u64(place.1, 1));
                let ends = k.setp_eq_u64(next, cols);
                place = (k.selp_b64(k.add_u64(row, 1), row, ends), k.selp_b64(0, next, ends));
            }
        }
        places
    }
}
