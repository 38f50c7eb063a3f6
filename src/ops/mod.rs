//! The operations that a user calls, one file each: they check the arguments and pick the backend.
//!
//! Every function may be called from several threads at once with one [`Context`]; results do not depend on that, nor
//! on the number of threads. On an argument error nothing has been written.

mod blockwise8;
mod context;
mod dequantize;
mod double_quantize;
mod gemm;
mod lora_gradients;
mod matrix;
mod optimizer;
mod optimizer_states;
mod pager;
mod quantize;

pub use crate::format::optimizer::{Hyper, Optimizer, Rule};
pub use crate::view::{Lora, Parameter, State};
pub use blockwise8::{dequantize_8bit, quantize_8bit};
#[cfg(any(feature = "cudarc", feature = "cust"))]
pub(crate) use context::Device;
pub use context::{Context, DeviceKind};
pub use dequantize::dequantize;
pub use double_quantize::{double_dequantize, double_quantize, double_quantize_workspace_size};
pub use gemm::{gemm_backward, gemm_forward, gemm_workspace_size};
pub use lora_gradients::lora_gradients;
pub use matrix::QuantizedMatrix;
pub use optimizer::{optimizer_step, optimizer_step_paged, optimizer_workspace_size};
pub use optimizer_states::{optimizer_states_restore, optimizer_states_save, optimizer_states_size};
pub use pager::{Advice, PagedBuffer, Pager, PagerKind, PagerOptions, PagerStatistics};
pub use quantize::{quantize, quantize_workspace_size};

use crate::error::{Error, Result, Status, ensure};
use crate::view::{BufferMut, Extent, Tensor};

/// Checks a tensor's shape against what the other arguments make it.
fn check_shape(name: &str, [rows, cols]: [usize; 2], meaning: &str, expected: [usize; 2]) -> Result<()> {
    ensure!(
        [rows, cols] == expected,
        "{name} is {rows} x {cols}; it must be {meaning} = {} x {}",
        expected[0],
        expected[1]
    );
    Ok(())
}

fn shape(tensor: &Tensor<'_>) -> [usize; 2] {
    [tensor.rows(), tensor.cols()]
}

/// Checks a workspace against what its size query says.
fn check_workspace(len: usize, needed: usize) -> Result<()> {
    if len >= needed {
        return Ok(());
    }
    let message = format!("workspace_size is {len} bytes; this call needs {needed}");
    Err(Error::new(Status::WorkspaceTooSmall, message))
}

/// Checks that no output shares a byte with an input or with another output.
fn check_disjoint(outputs: &[(&str, Extent)], inputs: &[(&str, Extent)]) -> Result<()> {
    for (i, (name, output)) in outputs.iter().enumerate() {
        if let Some((other, _)) = inputs.iter().chain(&outputs[..i]).find(|(_, other)| output.overlaps(other))
        {
            return Err(Error::invalid(format!("{name} overlaps {other}; outputs need memory of their own")));
        }
    }
    Ok(())
}

/// Where a workspace lies, as an output of that name.
fn workspace_extent(workspace: &BufferMut<'_, u8>) -> (&'static str, Extent) {
    ("workspace", workspace.extent())
}
