//! A matrix in global memory, element by element: any dtype, row stride and alignment.

use super::tensor::{narrow_bf16, narrow_pair_bf16, narrow_pair_f16, widen};
use crate::view::DType;
use ptx_asm::{B16, B32, B64, F32, Global, Kernel, Pred, Ptr, Reg, U16};

/// A dense matrix.
pub struct Dense {
    /// The type of the elements.
    pub dtype: DType,
    /// The first element.
    pub base: Ptr<Global>,
    /// Elements between the starts of rows.
    pub stride: Reg<B64>,
}

impl Dense {
    /// The address of an element.
    pub fn address(&self, k: &Kernel, row: Reg<B64>, col: Reg<B64>) -> Ptr<Global> {
        let element = k.mad_lo_u64(row, self.stride, col);
        k.offset(self.base, k.shl_b64(element, self.dtype.size().trailing_zeros()))
    }

    /// An element as f32; 0 where the guard does not hold.
    pub fn load(&self, k: &Kernel, row: Reg<B64>, col: Reg<B64>, guard: Option<Reg<Pred>>) -> Reg<F32> {
        let from = self.address(k, row, col);
        let bits = k.mov::<B32>(0);
        let to = match guard {
            Some(guard) => k.to(bits).when(guard),
            None => k.to(bits),
        };
        match self.dtype {
            DType::F32 => to.ld_global::<B32>(from),
            DType::F16 | DType::Bf16 => to.ld_global::<U16>(from),
        }
        match self.dtype {
            DType::F32 => k.f32_from_bits(bits),
            DType::F16 => k.cvt_f32_f16(k.cvt_u16_u32(bits).as_f16()),
            DType::Bf16 => k.f32_from_bits(k.shl_b32(bits, 16)),
        }
    }

    /// So many elements of a row: one, or four from a multiple of their size on.
    pub fn load_run(&self, k: &Kernel, row: Reg<B64>, col: Reg<B64>, count: u32) -> Vec<Reg<F32>> {
        if count == 1 {
            return vec![self.load(k, row, col, None)];
        }
        let from = self.address(k, row, col);
        match self.dtype {
            DType::F32 => k.ld_global::<[F32; 4]>(from).to_vec(),
            DType::F16 | DType::Bf16 => widen(k, self.dtype, k.ld_global::<[B32; 2]>(from)),
        }
    }

    /// Writes elements of a row, as many as [`load_run`](Self::load_run) reads, rounded to nearest even.
    pub fn store_run(&self, k: &Kernel, row: Reg<B64>, col: Reg<B64>, values: &[Reg<F32>]) {
        let &[a, b, c, d] = values else { return self.store(k, row, col, values[0]) };
        let to = self.address(k, row, col);
        match self.dtype {
            DType::F32 => k.st_global::<[F32; 4]>(to, [a, b, c, d]),
            DType::F16 => k.st_global::<[B32; 2]>(to, [narrow_pair_f16(k, a, b), narrow_pair_f16(k, c, d)]),
            DType::Bf16 => {
                k.st_global::<[B32; 2]>(to, [narrow_pair_bf16(k, a, b), narrow_pair_bf16(k, c, d)])
            }
        }
    }

    /// Writes an element, rounded to nearest even.
    pub fn store(&self, k: &Kernel, row: Reg<B64>, col: Reg<B64>, value: Reg<F32>) {
        let to = self.address(k, row, col);
        match self.dtype {
            DType::F32 => k.st_global::<F32>(to, value),
            DType::F16 => k.st_global::<B16>(to, k.cvt_rn_f16_f32(value).as_b16()),
            DType::Bf16 => k.st_global::<B16>(to, narrow_bf16(k, value)),
        }
    }
}
