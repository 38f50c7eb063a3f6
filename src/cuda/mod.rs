//! NVIDIA GPUs through the driver: found at run time, kernels written and compiled on first use.
//!
//! | file | what |
//! |---|---|
//! | [`driver`] | finding the driver; its results as errors |
//! | [`device`] | a device and its primary context |
//! | [`module`] | compiled kernels, kept per device |
//! | [`launch`] | arguments, grids, launches |
//! | [`memory`] | what a pointer points to |
//! | [`quantize`], [`dequantize`], [`double_quantize`], [`blockwise8`], [`gemm`], [`lora_gradients`], [`optimizer`] | the operations |
//!
//! Contexts are the device's primary one, so that pointers and streams of the CUDA runtime, of PyTorch, cudarc and cust
//! are valid as they are. It is current during a call only: whatever was current before is current again after it. An
//! operation enqueues its kernels on the caller's stream and returns; it allocates nothing and waits for nothing, and may
//! be captured into a graph.

pub mod blockwise8;
pub mod dequantize;
pub mod device;
pub mod double_quantize;
pub mod driver;
pub mod gemm;
pub mod launch;
pub mod lora_gradients;
pub mod memory;
pub mod module;
pub mod optimizer;
pub mod paging;
pub mod quantize;

pub use device::Cuda;
