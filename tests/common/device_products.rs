//! The products and adapter gradients on a CUDA device: how they are run, and what they may be off.

use super::device::{DeviceQuantized, Gpu, Memory};
use super::products::{Adapter, Allowance, Case, Products};
use super::*;
use ptx_sim::{Installed, counters, reset_counters};
use qlora_kernels::{Lora, QuantizedMatrix, ops};

/// On device memory: operands go up, results come back.
impl Products for Gpu {
    /// Tensor cores multiply 16-bit operands: W's values are rounded to X's type, and T, and B if it is of another type.
    /// What they add they may truncate (PTX ISA §9.7.14.5 leaves it open): up to two of f32's unit roundoffs an addition.
    /// `wgmma` takes values times constants: in f16, those below 2⁻¹⁴ are rounded as subnormals are.
    fn forward_allowance(&self, case: &Case) -> Allowance {
        let [x, _, _, a, b] = case.dtypes;
        let base_floor = if x == DType::F16 && wgmma(self, case) { 2f64.powi(-14) } else { 0.0 };
        let allowance = after(if case.is_long(0) { parts(x, a) } else { 0.0 }, rounded_to(x, b));
        let allowance = Allowance { base_floor, ..allowance };
        if case.tensor_cores() { allowance } else { Allowance::NONE }
    }

    /// W's values and U are rounded to dY's type, likewise, and A if it is of another type. In f16, but for `wgmma`, W is
    /// divided by a power of two no larger than the largest constant, and rounded: below 2⁻¹⁴ as subnormals are. Constants
    /// are W's magnitude at most, or 17/16 of it when they are rounded to FP8 themselves.
    fn backward_allowance(&self, case: &Case, magnitude: f32) -> Allowance {
        let [_, dy, _, a, b] = case.dtypes;
        let largest = if wgmma(self, case) { 1.0 } else { 17.0 / 16.0 * f64::from(magnitude) };
        let base_floor = if dy == DType::F16 { largest * 2f64.powi(-14) } else { 0.0 };
        let allowance = after(if case.is_long(1) { parts(dy, b) } else { 0.0 }, rounded_to(dy, a));
        let mut allowance = Allowance { base_floor, ..allowance };
        if dy == DType::Bf16 && case.m <= 64 {
            // The kernel for few rows rounds dY times constant, too: (1 + u)² - 1.
            allowance.base *= 2.0 + allowance.base;
        }
        if case.tensor_cores_backward(wgmma(self, case)) { allowance } else { Allowance::NONE }
    }

    /// U is multiplied by X, T by dY, and both are f32.
    fn gradient_allowance(&self, case: &Case) -> [Allowance; 2] {
        let [x, dy, _, a, b] = case.dtypes;
        let gradient = |long: usize, low: usize, narrow| {
            let dtypes = [x, dy];
            let before = if case.is_long(low) { parts(dtypes[low], narrow) } else { 0.0 };
            let rounded =
                Allowance { adapter: parts(dtypes[long], DType::F32), additions: 2, ..Allowance::NONE };
            if case.is_long(long) { after(before, rounded) } else { Allowance::NONE }
        };
        [gradient(0, 1, b), gradient(1, 0, a)]
    }

    fn forward(
        &self,
        x: &Matrix,
        w: &QuantizedMatrix,
        bias: &Matrix,
        adapter: Option<Adapter<'_>>,
        y: &mut Matrix,
    ) {
        let call = Call::new(self, [x.rows, w.rows(), w.cols()], adapter);
        let (weight, [x_up, bias_up, y_up]) =
            (DeviceQuantized::of(self, w), [x, bias, y].map(|m| self.matrix(m, 0)));
        let (x, bias) = (x_up.tensor(self, x), bias_up.tensor(self, bias));
        let (out, workspace) = (y_up.tensor_mut(self, y), call.workspace.buffer_mut::<u8>(self));
        let lora = call.lora(self);
        ops::gemm_forward(&self.context, x, weight.view(self), Some(bias), lora, out, workspace).unwrap();
        y.bytes_mut().copy_from_slice(&self.download::<u8>(&y_up));
    }

    fn backward(
        &self,
        dy: &Matrix,
        w: &QuantizedMatrix,
        adapter: Option<Adapter<'_>>,
        dx: &mut Matrix,
        accumulate: bool,
    ) {
        let call = Call::new(self, [dy.rows, w.rows(), w.cols()], adapter);
        let (weight, [dy_up, dx_up]) = (DeviceQuantized::of(self, w), [dy, dx].map(|m| self.matrix(m, 0)));
        let (out, workspace) = (dx_up.tensor_mut(self, dx), call.workspace.buffer_mut::<u8>(self));
        let (dy, lora) = (dy_up.tensor(self, dy), call.lora(self));
        let weight = weight.view(self);
        ops::gemm_backward(&self.context, dy, weight, lora, out, accumulate, workspace).unwrap();
        dx.bytes_mut().copy_from_slice(&self.download::<u8>(&dx_up));
    }

    fn gradients(
        &self,
        x: &Matrix,
        dy: &Matrix,
        adapter: Adapter<'_>,
        [da, db]: [&mut Matrix; 2],
        accumulate: bool,
    ) {
        let call = Call::new(self, [x.rows, dy.cols, x.cols], Some(adapter));
        let [x_up, dy_up, da_up, db_up] = [x, dy, da, db].map(|m| self.matrix(m, 0));
        let (x, dy) = (x_up.tensor(self, x), dy_up.tensor(self, dy));
        let (a, b) = (da_up.tensor_mut(self, da), db_up.tensor_mut(self, db));
        let (lora, workspace) = (call.lora(self).unwrap(), call.workspace.buffer_mut::<u8>(self));
        ops::lora_gradients(&self.context, x, dy, lora, a, b, accumulate, workspace).unwrap();
        da.bytes_mut().copy_from_slice(&self.download::<u8>(&da_up));
        db.bytes_mut().copy_from_slice(&self.download::<u8>(&db_up));
    }
}

/// Whether 16-bit activations of so many rows are for the warpgroups of Hopper, which multiply W dequantized to their type.
pub fn wgmma(gpu: &Gpu, case: &Case) -> bool {
    case.m > 64 && gpu.stream.context().compute_capability().unwrap() == (9, 0)
}

/// W and T are rounded to the type `to`, and the adapter's matrix if it is not of it.
fn rounded_to(to: DType, matrix: DType) -> Allowance {
    let u = unit_roundoff(to).0;
    let adapter_floor = if to == DType::F16 { 2f64.powi(-14) } else { 2f64.powi(-126) };
    let adapter = if matrix == to { u } else { 2.0 * u + u * u };
    Allowance { base: u, base_floor: 0.0, adapter, adapter_floor, additions: 2 }
}

/// What the products of a long matrix and a narrow one leave out, relative to their magnitude.
fn parts(long: DType, narrow: DType) -> f64 {
    let u = unit_roundoff(DType::Bf16).0;
    match (narrow, long) {
        (DType::F32, DType::F16) => u * u + u * u * (1.0 + u),
        (DType::F32, _) => u * u,
        _ => 0.0,
    }
}

/// An allowance for what is computed from a T or U that was off before.
fn after(before: f64, allowance: Allowance) -> Allowance {
    Allowance { adapter: (1.0 + before) * (1.0 + allowance.adapter) - 1.0, ..allowance }
}

/// An adapter in device memory, and a workspace.
struct Call<'a> {
    adapter: Option<(Adapter<'a>, [Memory; 2])>,
    workspace: Memory,
}

impl<'a> Call<'a> {
    fn new(gpu: &Gpu, [m, n, k]: [usize; 3], adapter: Option<Adapter<'a>>) -> Self {
        let rank = adapter.map_or(0, |(a, ..)| a.rows);
        let size = ops::gemm_workspace_size(&gpu.context, m, n, k, rank).unwrap();
        let adapter = adapter.map(|adapter| (adapter, [adapter.0, adapter.1].map(|m| gpu.matrix(m, 0))));
        Self { adapter, workspace: gpu.workspace(size) }
    }

    fn lora(&self, gpu: &Gpu) -> Option<Lora<'_>> {
        let ((a, b, scale), [a_up, b_up]) = self.adapter.as_ref()?;
        Some(Lora { a: a_up.tensor(gpu, a), b: b_up.tensor(gpu, b), scale: *scale })
    }
}

/// Checks a case and, on the simulator, how often a kernel was launched for it.
pub fn check_kernel(gpu: &Gpu, case: &Case, kernel: &str, times: usize) -> Result<(), TestCaseError> {
    check_kernels(gpu, case, &[(kernel, times)])
}

/// The same for several.
pub fn check_kernels(gpu: &Gpu, case: &Case, kernels: &[(&str, usize)]) -> Result<(), TestCaseError> {
    reset_counters();
    case.check(gpu)?;
    gpu.stream.synchronize().unwrap();
    if let Installed::Simulator = ptx_sim::install() {
        let launches = counters().launches;
        for &(kernel, times) in kernels {
            let used = launches.iter().filter(|launch| launch.kernel == kernel).count();
            prop_assert_eq!(used, times, "launches of {}", kernel);
        }
    }
    Ok(())
}
