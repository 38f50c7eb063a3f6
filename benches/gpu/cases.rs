//! What is checked and timed.

use qlora_kernels::format::spec::CONSTANT_BLOCK;
use qlora_kernels::{Codebook, Constants, Context, DType, QuantSpec, ops};
use std::fmt;

/// The block size of the 8-bit cases: that of 8-bit optimizers.
pub const BLOCK_8BIT: u32 = 256;
/// The 4-bit block size whose constants the double quantization cases have.
const BLOCK_4BIT: u32 = 64;
/// Elements between the rows of a strided matrix: it is a range of columns of a wider one.
const GAP: usize = 8;

/// What a case does.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Quantize(QuantSpec),
    Dequantize(QuantSpec),
    /// Of the constants of a matrix.
    DoubleQuantize(Constants),
    DoubleDequantize(Constants),
    Quantize8,
    Dequantize8,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub operation: Operation,
    /// Of the matrix that is quantized or dequantized to; constants are f32.
    pub dtype: DType,
    pub strided: bool,
}

/// A matrix's rows and columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub rows: usize,
    pub cols: usize,
}

/// Shapes for the checks by the format's definition: one element; less than a block; odd; cut tiles; whole ones before.
pub const SMALL: [Shape; 5] = [
    Shape { rows: 1, cols: 1 },
    Shape { rows: 2, cols: 31 },
    Shape { rows: 3, cols: 67 },
    Shape { rows: 5, cols: 1031 },
    Shape { rows: 3, cols: 8211 },
];

/// A run of memory of a call.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: &'static str,
    /// Of its numbers; None for codes.
    pub dtype: Option<DType>,
    /// What it takes, gaps between rows included.
    pub bytes: usize,
    /// What is read or written of it.
    pub payload: usize,
}

/// The cases, the main ones first: with `quick` only these; `only` those whose name holds it.
pub fn select(quick: bool, only: Option<&str>) -> Vec<Case> {
    let mut cases = all();
    if quick {
        cases.retain(Case::is_main);
    }
    cases.retain(|case| only.is_none_or(|pattern| case.to_string().contains(pattern)));
    cases.sort_by_key(|case| !case.is_main());
    cases
}

fn all() -> Vec<Case> {
    let dtypes = [DType::F32, DType::F16, DType::Bf16];
    let mut cases = Vec::new();
    let mut add = |operation, dtype, strided| cases.push(Case { operation, dtype, strided });
    // FP4's codes do not ascend with its values: another table than NF4's.
    for codebook in [Codebook::Nf4, Codebook::Fp4Bnb] {
        for block_size in [64, 4096] {
            for constants in [Constants::F32, Constants::Fp8, Constants::Dynamic] {
                let spec = QuantSpec::new(codebook, block_size).with_constants(constants);
                for dtype in dtypes {
                    add(Operation::Quantize(spec.clone()), dtype, false);
                    add(Operation::Dequantize(spec.clone()), dtype, false);
                }
            }
        }
    }
    let plain = QuantSpec::new(Codebook::Nf4, 64);
    for dtype in dtypes {
        add(Operation::Quantize(plain.clone()), dtype, true);
        add(Operation::Dequantize(plain.clone()), dtype, true);
    }
    for dtype in dtypes {
        add(Operation::Quantize8, dtype, false);
        add(Operation::Dequantize8, dtype, false);
    }
    for constants in [Constants::Fp8, Constants::Dynamic] {
        add(Operation::DoubleQuantize(constants.clone()), DType::F32, false);
        add(Operation::DoubleDequantize(constants), DType::F32, false);
    }
    cases
}

impl Case {
    /// The paper's configuration, and one of each other operation.
    fn is_main(&self) -> bool {
        match &self.operation {
            Operation::Quantize(spec) | Operation::Dequantize(spec) => {
                let paper = spec.codebook == Codebook::Nf4
                    && spec.block_size == 64
                    && spec.constants != Constants::Dynamic;
                paper && self.dtype != DType::F16
            }
            Operation::DoubleQuantize(constants) | Operation::DoubleDequantize(constants) => {
                *constants == Constants::Fp8
            }
            Operation::Quantize8 | Operation::Dequantize8 => self.dtype == DType::F32,
        }
    }

    /// The quantization whose output a dequantization reads.
    pub fn inverse(&self) -> Option<Case> {
        let operation = match &self.operation {
            Operation::Dequantize(spec) => Operation::Quantize(spec.clone()),
            Operation::DoubleDequantize(constants) => Operation::DoubleQuantize(constants.clone()),
            Operation::Dequantize8 => Operation::Quantize8,
            _ => return None,
        };
        Some(Case { operation, dtype: DType::F32, strided: false })
    }

    /// The share of the copy rate that is aimed at, for large aligned matrices.
    pub fn goal(&self) -> Option<f64> {
        match self.operation {
            Operation::Quantize(_) if !self.strided => Some(0.85),
            Operation::Dequantize(_) if !self.strided => Some(0.90),
            _ => None,
        }
    }

    /// Elements between the starts of rows.
    pub fn row_stride(&self, shape: Shape) -> usize {
        shape.cols + if self.strided { GAP } else { 0 }
    }

    /// What the call reads, in the order of [`Case::enqueue`](super::call).
    pub fn inputs(&self, shape: Shape) -> Vec<Part> {
        match &self.operation {
            Operation::Quantize(_) | Operation::Quantize8 => vec![self.matrix("x", shape)],
            Operation::Dequantize(spec) => four_bits(spec, shape),
            Operation::DoubleQuantize(_) => vec![numbers("absmax", shape.constants())],
            Operation::DoubleDequantize(_) => nested(shape.constants()),
            Operation::Dequantize8 => eight_bits(shape),
        }
    }

    /// What the call writes.
    pub fn outputs(&self, shape: Shape) -> Vec<Part> {
        match &self.operation {
            Operation::Quantize(spec) => four_bits(spec, shape),
            Operation::Dequantize(_) | Operation::Dequantize8 => vec![self.matrix("out", shape)],
            Operation::DoubleQuantize(_) => nested(shape.constants()),
            Operation::DoubleDequantize(_) => vec![numbers("absmax", shape.constants())],
            Operation::Quantize8 => eight_bits(shape),
        }
    }

    /// Bytes of workspace that the call needs.
    pub fn workspace(&self, context: &Context, shape: Shape) -> qlora_kernels::Result<usize> {
        match &self.operation {
            Operation::Quantize(spec) => ops::quantize_workspace_size(context, spec, shape.rows, shape.cols),
            Operation::DoubleQuantize(_) => ops::double_quantize_workspace_size(context, shape.constants()),
            _ => Ok(0),
        }
    }

    /// The least bytes that the call moves: what the format makes it read, and write.
    pub fn traffic(&self, shape: Shape) -> usize {
        self.inputs(shape).iter().chain(&self.outputs(shape)).map(|part| part.payload).sum()
    }

    fn matrix(&self, name: &'static str, shape: Shape) -> Part {
        let size = self.dtype.size();
        let bytes = shape.rows * self.row_stride(shape) * size;
        Part { name, dtype: Some(self.dtype), bytes, payload: shape.elements() * size }
    }
}

impl Shape {
    /// About this many elements.
    pub fn of(elements: usize) -> Self {
        Self { rows: elements / 4096, cols: 4096 }
    }

    pub fn elements(self) -> usize {
        self.rows * self.cols
    }

    /// The constants of such a matrix, for the double quantization cases.
    pub fn constants(self) -> usize {
        self.elements().div_ceil(BLOCK_4BIT as usize)
    }
}

fn four_bits(spec: &QuantSpec, shape: Shape) -> Vec<Part> {
    let sizes = spec.sizes(shape.rows as u64, shape.cols as u64).expect("shapes fit the address space");
    let mut parts = vec![codes("codes", sizes.code_bytes as usize)];
    match spec.constants {
        Constants::F32 => parts.push(numbers("absmax", sizes.absmax_len as usize)),
        _ => parts.extend(nested(sizes.blocks as usize)),
    }
    parts
}

fn eight_bits(shape: Shape) -> Vec<Part> {
    let n = shape.elements();
    vec![codes("codes", n), numbers("absmax", n.div_ceil(BLOCK_8BIT as usize))]
}

fn nested(constants: usize) -> Vec<Part> {
    let scales = constants.div_ceil(CONSTANT_BLOCK as usize);
    vec![codes("absmax_codes", constants), numbers("absmax_scales", scales), numbers("absmax_offset", 1)]
}

fn codes(name: &'static str, bytes: usize) -> Part {
    Part { name, dtype: None, bytes, payload: bytes }
}

fn numbers(name: &'static str, len: usize) -> Part {
    Part { name, dtype: Some(DType::F32), bytes: 4 * len, payload: 4 * len }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let dtype = format!("{:?}", self.dtype).to_lowercase();
        let format = |spec: &QuantSpec| {
            let codebook = if spec.codebook == Codebook::Nf4 { "nf4" } else { "fp4" };
            format!("{codebook} {} {}", spec.block_size, name(&spec.constants))
        };
        match &self.operation {
            Operation::Quantize(spec) => write!(f, "quantize {} from {dtype}", format(spec))?,
            Operation::Dequantize(spec) => write!(f, "dequantize {} to {dtype}", format(spec))?,
            Operation::DoubleQuantize(constants) => write!(f, "double quantize {}", name(constants))?,
            Operation::DoubleDequantize(constants) => write!(f, "double dequantize {}", name(constants))?,
            Operation::Quantize8 => write!(f, "quantize 8bit {BLOCK_8BIT} from {dtype}")?,
            Operation::Dequantize8 => write!(f, "dequantize 8bit {BLOCK_8BIT} to {dtype}")?,
        }
        if self.strided { write!(f, ", strided") } else { Ok(()) }
    }
}

fn name(constants: &Constants) -> String {
    format!("{constants:?}").to_lowercase()
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} x {}", self.rows, self.cols)
    }
}
