//! Device memory, and a product as a call of the library.
//!
//! What is timed finds the weight in memory, as a step through a model does: there are as many copies of it as pass the
//! second-level cache. The activations are where the operation before left them: there is one copy.

use super::super::Result;
use super::super::call::{Placed, buffer, constants_view};
use super::super::cublas::Cublas;
use super::super::data::Bytes;
use super::super::device::{Gpu, Memory};
use super::super::timing;
use super::dense::Dense;
use super::exact::{Exact, Sample, hold, number};
use super::operands::Operands;
use super::{Figures, Kind, Product, SCALE};
use qlora_kernels::view::BufferMut;
use qlora_kernels::{Lora, QuantSpec, Quantized, Tensor, TensorMut, ops};

/// The memory of a product, or of all with its weight and not more rows of X.
pub struct Bench<'a> {
    pub gpu: &'a Gpu,
    pub operands: Operands,
    /// Codes and constants.
    weights: Vec<Vec<Memory>>,
    /// X, dY, A, B.
    pub matrices: Vec<Memory>,
    pub outputs: Vec<Memory>,
    workspace: Memory,
    dense: Option<Dense<'a>>,
}

impl<'a> Bench<'a> {
    pub fn new(
        gpu: &'a Gpu,
        product: &Product,
        operands: Operands,
        cublas: Option<&'a Cublas>,
    ) -> Result<Self> {
        let upload = |parts: &[Bytes]| -> Result<Vec<Memory>> {
            parts.iter().map(|bytes| gpu.upload(bytes)).collect()
        };
        let weight = &operands.weight.inputs;
        let bytes = weight.iter().map(|part| part.len()).sum();
        let weights = (0..timing::sets(gpu, bytes)).map(|_| upload(weight)).collect::<Result<_>>()?;
        let matrices = upload(&operands.matrices)?;
        // Room for the results of every kind.
        let kinds = [Kind::Forward, Kind::Backward, Kind::Gradients];
        let results = kinds.map(|kind| Product { kind, ..product.clone() }.outputs());
        let size = |output: usize| {
            let sizes = results.iter().filter_map(|outputs| outputs.get(output));
            sizes.map(|[rows, cols]| rows * cols * product.dtype.size()).max().unwrap_or(0)
        };
        let outputs = [0, 1].map(|output| gpu.allocate(size(output)));
        let workspace = gpu.allocate(workspace_size(gpu, product)?)?;
        let outputs = outputs.into_iter().collect::<Result<_>>()?;
        let mut bench = Self { gpu, operands, weights, matrices, outputs, workspace, dense: None };
        bench.dense = cublas.map(|cublas| Dense::new(cublas, &bench, product)).transpose()?;
        Ok(bench)
    }

    /// Makes room for what another product needs besides: fewer rows may go another way.
    pub fn reserve(&mut self, product: &Product) -> Result<()> {
        let size = workspace_size(self.gpu, product)?;
        if size > self.workspace.len {
            self.workspace = self.gpu.allocate(size)?;
        }
        Ok(())
    }

    /// Runs a product once and holds the results to f64; the elements compared.
    pub fn check(&self, product: &Product) -> Result<usize> {
        self.compare(product, &Exact::new(product, &self.operands).all_samples())
    }

    /// The same with what is to be found in each result.
    pub fn compare(&self, product: &Product, expected: &[Vec<Sample>]) -> Result<usize> {
        self.erase()?;
        self.enqueue(product, 0)?;
        for (output, samples) in expected.iter().enumerate() {
            let found = self.read(product, output, samples)?;
            for (Sample { row, col, sum }, found) in samples.iter().zip(found) {
                hold(product, found, *sum)
                    .map_err(|e| format!("output {output}, row {row}, column {col}: {e}"))?;
            }
        }
        Ok(expected.iter().map(Vec::len).sum())
    }

    /// Checks a product and times it, by cuBLAS too.
    pub fn check_and_time(&self, product: &Product, repetitions: usize) -> Result<Figures> {
        let expected = Exact::new(product, &self.operands).all_samples();
        self.compare(product, &expected)?;
        let sets = self.weights.len();
        let times = timing::repeat(self.gpu, sets, repetitions, |set| self.enqueue(product, set))?;
        let cublas = self.dense.as_ref().map(|dense| {
            dense.check(self, product, &expected)?;
            dense.time(self, product, repetitions)
        });
        let Product { kind, m, n, k, rank, .. } = *product;
        Ok(Figures {
            name: product.to_string(),
            kind,
            m,
            n,
            k,
            rank,
            operations: product.operations(),
            bytes: product.traffic(),
            times,
            cublas: cublas.transpose()?,
            goal: product.goal(),
            predicted: product.predicted(),
        })
    }

    /// Fills the results with the guard pattern.
    pub fn erase(&self) -> Result<()> {
        self.outputs.iter().try_for_each(|memory| self.gpu.erase(memory))
    }

    /// The samples, row after row, as a product has left them. Fails if what lies behind a result has been written to.
    pub fn read(&self, product: &Product, output: usize, samples: &[Sample]) -> Result<Vec<f32>> {
        let (memory, [rows, cols]) = (&self.outputs[output], product.outputs()[output]);
        let row_bytes = cols * product.dtype.size();
        self.gpu.check_untouched(memory, rows * row_bytes)?;
        let mut values = Vec::with_capacity(samples.len());
        for samples in samples.chunk_by(|a, b| a.row == b.row) {
            let row = self.gpu.read(memory, samples[0].row * row_bytes, row_bytes)?;
            values.extend(samples.iter().map(|sample| number(product.dtype, &row, sample.col)));
        }
        Ok(values)
    }

    /// The addresses of a copy of the weight.
    pub fn quantized<'w>(
        &'w self,
        product: &Product,
        spec: &'w QuantSpec,
        set: usize,
    ) -> Result<Quantized<'w>> {
        let parts = product.weight(product.dtype).inputs(product.weight_shape());
        let pointers: Vec<*mut u8> =
            self.weights[set].iter().map(|memory| memory.address(self.gpu)).collect();
        let weight: Vec<Placed> = parts.iter().zip(&pointers).collect();
        // SAFETY: the memory is of these sizes and lives as long as the bench.
        unsafe {
            let (codes, constants) = (buffer(weight[0]), constants_view(&spec.constants, &weight[1..]));
            Ok(Quantized::new(spec, product.n, product.k, codes, constants)?)
        }
    }

    /// Puts a product with a copy of the weight into the stream.
    fn enqueue(&self, product: &Product, set: usize) -> Result<()> {
        let (gpu, dtype, spec) = (self.gpu, product.dtype, product.spec());
        let w = self.quantized(product, &spec, set)?;
        let workspace = self.workspace.address(gpu);
        // SAFETY: the memory is at least of these sizes, and the device's only stream orders its uses.
        unsafe {
            let input = |i: usize| {
                let [rows, cols] = product.inputs()[i];
                Tensor::from_raw(self.matrices[i].address(gpu), dtype, rows, cols, cols)
            };
            let output = |i: usize| {
                let [rows, cols] = product.outputs()[i];
                TensorMut::from_raw(self.outputs[i].address(gpu), dtype, rows, cols, cols)
            };
            let lora = match product.rank {
                0 => None,
                _ => Some(Lora { a: input(2)?, b: input(3)?, scale: SCALE }),
            };
            let workspace = BufferMut::<u8>::from_raw(workspace, self.workspace.len);
            match product.kind {
                Kind::Forward => {
                    ops::gemm_forward(&gpu.context, input(0)?, w, None, lora, output(0)?, workspace)?
                }
                Kind::Backward => {
                    ops::gemm_backward(&gpu.context, input(1)?, w, lora, output(0)?, false, workspace)?
                }
                Kind::Gradients => {
                    let (lora, outputs) =
                        (lora.expect("gradients are of an adapter"), [output(0)?, output(1)?]);
                    let [da, db] = outputs;
                    ops::lora_gradients(&gpu.context, input(0)?, input(1)?, lora, da, db, false, workspace)?
                }
            }
        }
        Ok(())
    }
}

fn workspace_size(gpu: &Gpu, product: &Product) -> Result<usize> {
    let Product { m, n, k, rank, .. } = *product;
    Ok(ops::gemm_workspace_size(&gpu.context, m, n, k, rank)?)
}
