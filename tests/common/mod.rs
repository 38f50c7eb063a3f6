//! What several tests share: number strategies and matrices of each element type.
#![allow(dead_code)] // each test file uses its part

pub mod exact;
pub mod optimizer_model;
pub mod optimizers;
pub mod paged;
pub mod products;

// On a device, the simulator's above all.
#[cfg(target_os = "linux")]
pub mod device;
#[cfg(target_os = "linux")]
pub mod device_optimizers;
#[cfg(target_os = "linux")]
pub mod device_paged;
#[cfg(target_os = "linux")]
pub mod device_products;
#[cfg(target_os = "linux")]
pub mod special_values;

use half::{bf16, f16};
use proptest::prelude::*;
use qlora_kernels::format::double_quant::{self, Encoding};
use qlora_kernels::format::{Map256, blockwise4};
use qlora_kernels::{Codebook, Constants, DType, QuantSpec, Tensor, TensorMut};

/// So many cases of a property; more, in proportion, where `PROPTEST_CASES` asks for more than its default of 256.
pub fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: (cases * config.cases).div_ceil(256), ..config }
}

/// Every codebook, with a user table among them.
pub fn codebooks() -> Vec<Codebook> {
    let user = std::array::from_fn(|i| (i as f32 - 6.5).powi(3) / 300.0);
    vec![
        Codebook::Nf4,
        Codebook::Fp4E2m1,
        Codebook::Fp4E3m0,
        Codebook::Fp4Bnb,
        Codebook::Int4,
        Codebook::User(user),
    ]
}

/// Every kind of constants.
pub fn constants() -> Vec<Constants> {
    let map = std::array::from_fn(|i| ((i as f32 - 120.0) / 130.0).powi(3));
    vec![Constants::F32, Constants::Fp8, Constants::Dynamic, Constants::Map(Box::new(map))]
}

pub fn any_codebook() -> impl Strategy<Value = Codebook> {
    prop::sample::select(codebooks())
}

pub fn any_constants() -> impl Strategy<Value = Constants> {
    prop::sample::select(constants())
}

pub fn any_block_size() -> impl Strategy<Value = u32> {
    (5u32..=12).prop_map(|log| 1 << log)
}

pub fn any_dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![DType::F32, DType::F16, DType::Bf16])
}

/// Mostly weights as they are, with every kind of f32 among them.
pub fn any_number() -> impl Strategy<Value = f32> {
    prop_oneof![
        60 => -1f32..1.0,
        10 => (-40i32..40).prop_flat_map(|e| (-1f32..1.0).prop_map(move |x| x * (e as f32).exp2())),
        4 => Just(0.0f32),
        1 => any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x807f_ffff)), // subnormal
        1 => any::<u32>().prop_map(f32::from_bits),                            // NaNs and infinities too
    ]
}

/// Finite numbers, none so large that a product of matrices overflows.
pub fn tame_number() -> impl Strategy<Value = f32> {
    prop_oneof![8 => -1f32..1.0, 1 => Just(0.0f32), 1 => -1e-3f32..1e-3]
}

/// A vector of numbers, cheaper than one strategy an element: a few drawn numbers, mixed by a generator.
pub fn numbers(len: usize, seed: u64, special: &[f32]) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        // xorshift64*, Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled".
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    };
    let mut values: Vec<f32> = (0..len).map(|_| next() as f32 / (1u64 << 31) as f32 - 1.0).collect();
    if len > 0 {
        for &value in special {
            values[next() as usize % len] = value;
        }
    }
    values
}

/// What the library must give for `x`: codes, constants, dequantized values in f32.
pub struct Expected {
    pub codes: Vec<u8>,
    pub absmax: Vec<f32>,
    pub nested: (Vec<u8>, Vec<f32>, Vec<f32>),
    pub values: Vec<f32>,
}

/// The 8-bit type of double quantization.
pub fn encoding(constants: &Constants) -> Option<Encoding> {
    match constants {
        Constants::F32 => None,
        Constants::Fp8 => Some(Encoding::Fp8),
        Constants::Dynamic => Some(Encoding::Map(Box::new(Map256::dynamic_signed()))),
        Constants::Map(values) => Some(Encoding::Map(Box::new(Map256::new(values).unwrap()))),
    }
}

/// The format's result.
pub fn reference(x: &[f32], spec: &QuantSpec) -> Expected {
    let table = spec.codebook.table().unwrap();
    let block_size = spec.block_size as usize;
    let (codes, absmax) = blockwise4::quantize(x, &table, block_size);
    match encoding(&spec.constants) {
        None => {
            let values = blockwise4::dequantize(&codes, &absmax, x.len(), &table, block_size);
            Expected { codes, absmax, nested: Default::default(), values }
        }
        Some(encoding) => {
            let nested = double_quant::quantize(&absmax, &encoding);
            let back = double_quant::dequantize(&nested, &encoding);
            let values = blockwise4::dequantize(&codes, &back, x.len(), &table, block_size);
            let nested = (nested.codes, nested.scales, vec![nested.offset]);
            Expected { codes, absmax: Vec::new(), nested, values }
        }
    }
}

/// A matrix of one of the element types, rows `stride` apart, with guard values between and behind the rows.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    stride: usize,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

const GUARD: f32 = 12345.0;

impl Matrix {
    /// `values` rounded to `dtype`.
    pub fn new(dtype: DType, values: &[f32], rows: usize, cols: usize, gap: usize) -> Self {
        assert_eq!(values.len(), rows * cols);
        let stride = cols + gap;
        let mut spread = vec![GUARD; rows * stride];
        for r in 0..rows {
            spread[r * stride..][..cols].copy_from_slice(&values[r * cols..][..cols]);
        }
        let data = match dtype {
            DType::F32 => Data::F32(spread),
            DType::F16 => Data::F16(spread.into_iter().map(f16::from_f32).collect()),
            DType::Bf16 => Data::Bf16(spread.into_iter().map(bf16::from_f32).collect()),
        };
        Self { rows, cols, stride, data }
    }

    pub fn zeros(dtype: DType, rows: usize, cols: usize, gap: usize) -> Self {
        Self::new(dtype, &vec![0.0; rows * cols], rows, cols, gap)
    }

    pub fn view(&self) -> Tensor<'_> {
        let (rows, cols, stride) = (self.rows, self.cols, self.stride);
        match &self.data {
            Data::F32(v) => Tensor::with_row_stride(v, rows, cols, stride),
            Data::F16(v) => Tensor::with_row_stride(v, rows, cols, stride),
            Data::Bf16(v) => Tensor::with_row_stride(v, rows, cols, stride),
        }
        .unwrap()
    }

    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let (rows, cols, stride) = (self.rows, self.cols, self.stride);
        match &mut self.data {
            Data::F32(v) => TensorMut::with_row_stride(v, rows, cols, stride),
            Data::F16(v) => TensorMut::with_row_stride(v, rows, cols, stride),
            Data::Bf16(v) => TensorMut::with_row_stride(v, rows, cols, stride),
        }
        .unwrap()
    }

    pub fn dtype(&self) -> DType {
        self.view().dtype()
    }

    /// Other values, rounded to the type.
    pub fn set(&mut self, values: &[f32]) {
        *self = Self::new(self.dtype(), values, self.rows, self.cols, self.stride - self.cols);
    }

    /// The memory, guards included.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::F32(v) => bytemuck::cast_slice(v),
            Data::F16(v) => bytemuck::cast_slice(v),
            Data::Bf16(v) => bytemuck::cast_slice(v),
        }
    }

    /// The memory, to be overwritten.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.data {
            Data::F32(v) => bytemuck::cast_slice_mut(v),
            Data::F16(v) => bytemuck::cast_slice_mut(v),
            Data::Bf16(v) => bytemuck::cast_slice_mut(v),
        }
    }

    /// The same with another value in one place.
    pub fn with(&self, [row, col]: [usize; 2], value: f32) -> Self {
        let mut values = self.values();
        values[row * self.cols + col] = value;
        Self::new(self.view().dtype(), &values, self.rows, self.cols, self.stride - self.cols)
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    fn all(&self) -> Vec<f32> {
        match &self.data {
            Data::F32(v) => v.clone(),
            Data::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// The values, row after row; checks that the guards still stand.
    pub fn values(&self) -> Vec<f32> {
        let guard = match self.data {
            Data::F32(_) => GUARD,
            Data::F16(_) => f16::from_f32(GUARD).to_f32(),
            Data::Bf16(_) => bf16::from_f32(GUARD).to_f32(),
        };
        let all = self.all();
        let mut values = Vec::with_capacity(self.rows * self.cols);
        for row in all.chunks(self.stride.max(1)).take(self.rows) {
            values.extend_from_slice(&row[..self.cols]);
            assert!(row[self.cols..].iter().all(|&g| g == guard), "a gap between rows was written to");
        }
        values
    }
}

/// `x` rounded to `dtype` and back.
pub fn round_to(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::F32 => x,
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// Half an ulp relative to the value, for rounding to `dtype`; and half the smallest subnormal.
pub fn unit_roundoff(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F32 => (2f64.powi(-24), 2f64.powi(-150)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        DType::Bf16 => (2f64.powi(-8), 2f64.powi(-134)),
    }
}

/// Equal bits; NaNs count as equal, whatever their payload.
pub fn same_bits(a: &[f32], b: &[f32]) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("{} values against {}", a.len(), b.len()));
    }
    match a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan())) {
        None => Ok(()),
        Some(i) => Err(format!(
            "at {i}: {:e} ({:08x}) against {:e} ({:08x})",
            a[i],
            a[i].to_bits(),
            b[i],
            b[i].to_bits()
        )),
    }
}
