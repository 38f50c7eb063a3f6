//! What a call must give.

use super::Result;
use super::call::Pointers;
use super::cases::{BLOCK_8BIT, Case, Operation, Shape};
use super::data::{Bytes, Noise, matrix_of, values_of};
use qlora_kernels::format::double_quant::{self, Encoding, Nested};
use qlora_kernels::format::{Map256, blockwise4, blockwise8};
use qlora_kernels::{Constants, Context, QuantSpec};

/// Inputs and the outputs that belong to them, part by part.
pub struct Problem {
    pub inputs: Vec<Bytes>,
    pub expected: Vec<Bytes>,
}

/// Computes a case's outputs from its inputs.
pub type Solver = dyn Fn(&Case, Shape, &[Bytes]) -> Result<Vec<Bytes>>;

impl Problem {
    /// Quantizations get noise; dequantizations what their inverse makes of noise.
    pub fn new(case: &Case, shape: Shape, noise: Noise, solve: &Solver) -> Result<Self> {
        let inputs = match (case.inverse(), &case.operation) {
            (Some(inverse), _) => Self::new(&inverse, shape, noise, solve)?.expected,
            (None, Operation::DoubleQuantize(_)) => vec![noise.constants(shape.constants())],
            _ => vec![noise.matrix(case.dtype, shape.rows, shape.cols, case.row_stride(shape))],
        };
        let expected = solve(case, shape, &inputs)?;
        Ok(Self { inputs, expected })
    }
}

/// By the CPU backend.
pub fn by_cpu(case: &Case, shape: Shape, inputs: &[Bytes]) -> Result<Vec<Bytes>> {
    let context = Context::cpu();
    let mut outputs: Vec<Bytes> = case.outputs(shape).iter().map(|part| Bytes::new(part.bytes)).collect();
    let mut workspace = Bytes::new(case.workspace(&context, shape)?);
    let pointers = Pointers {
        inputs: inputs.iter().map(|bytes| bytes.as_ptr().cast_mut()).collect(),
        outputs: outputs.iter_mut().map(|bytes| bytes.as_mut_ptr()).collect(),
        workspace: workspace.as_mut_ptr(),
    };
    // SAFETY: the memory lives until the end of the function, and a CPU operation is done when it returns.
    unsafe { case.enqueue(&context, shape, &pointers)? };
    Ok(outputs)
}

/// By the definition of the format.
pub fn by_format(case: &Case, shape: Shape, inputs: &[Bytes]) -> Result<Vec<Bytes>> {
    let (n, stride) = (shape.elements(), case.row_stride(shape));
    let x = || values_of(case.dtype, &inputs[0], shape.cols, stride);
    let out = |values: &[f32]| vec![matrix_of(case.dtype, values, shape.cols, stride)];
    let map = Map256::dynamic_signed();
    let block_8bit = BLOCK_8BIT as usize;
    Ok(match &case.operation {
        Operation::Quantize(spec) => {
            let table = spec.codebook.table()?;
            let (codes, absmax) = blockwise4::quantize(&x(), &table, spec.block_size as usize);
            let mut parts = vec![Bytes::of(&codes)];
            match encoding(&spec.constants) {
                None => parts.push(Bytes::of(&absmax)),
                Some(encoding) => parts.extend(nested_parts(double_quant::quantize(&absmax, &encoding))),
            }
            parts
        }
        Operation::Dequantize(spec) => {
            let (table, absmax) = (spec.codebook.table()?, absmax(spec, &inputs[1..]));
            out(&blockwise4::dequantize(&inputs[0], &absmax, n, &table, spec.block_size as usize))
        }
        Operation::DoubleQuantize(constants) => {
            let encoding = encoding(constants).expect("nested constants");
            nested_parts(double_quant::quantize(bytemuck::cast_slice(&inputs[0]), &encoding))
        }
        Operation::DoubleDequantize(constants) => {
            let encoding = encoding(constants).expect("nested constants");
            vec![Bytes::of(&double_quant::dequantize(&nested(inputs), &encoding))]
        }
        Operation::Quantize8 => {
            let (codes, absmax) = blockwise8::quantize(&x(), &map, block_8bit);
            vec![Bytes::of(&codes), Bytes::of(&absmax)]
        }
        Operation::Dequantize8 => {
            out(&blockwise8::dequantize(&inputs[0], bytemuck::cast_slice(&inputs[1]), &map, block_8bit))
        }
    })
}

fn encoding(constants: &Constants) -> Option<Encoding> {
    match constants {
        Constants::F32 => None,
        Constants::Fp8 => Some(Encoding::Fp8),
        Constants::Dynamic => Some(Encoding::Map(Box::new(Map256::dynamic_signed()))),
        Constants::Map(_) => unreachable!("no case has a map of its own"),
    }
}

fn absmax(spec: &QuantSpec, parts: &[Bytes]) -> Vec<f32> {
    match encoding(&spec.constants) {
        None => bytemuck::cast_slice(&parts[0]).to_vec(),
        Some(encoding) => double_quant::dequantize(&nested(parts), &encoding),
    }
}

fn nested(parts: &[Bytes]) -> Nested {
    let floats = |part: &Bytes| bytemuck::cast_slice::<u8, f32>(part).to_vec();
    Nested { codes: parts[0].to_vec(), scales: floats(&parts[1]), offset: floats(&parts[2])[0] }
}

fn nested_parts(nested: Nested) -> Vec<Bytes> {
    vec![Bytes::of(&nested.codes), Bytes::of(&nested.scales), Bytes::of(&[nested.offset])]
}
