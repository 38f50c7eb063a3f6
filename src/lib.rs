//! Kernels for 4-bit finetuning: what QLoRA (Dettmers et al., arXiv 2305.14314) does, as one library.
//!
//! | module | what lives there |
//! |---|---|
//! | [`mod@format`] | what the bytes mean: codebooks, blocks, double quantization; plain and exact, the oracle of all tests |
//! | [`view`] | views of the caller's memory: tensors and quantized matrices |
//! | [`ops`] | the operations, one file each: argument checks, choice of the backend |
//! | `cpu` | the operations for CPUs: portable, AVX2, AVX-512, chosen at run time |
//! | `cuda` | the operations for NVIDIA GPUs: the driver, found at run time; launches |
//! | `kernels` | Rust functions that write the GPU kernels as PTX |
//! | `interop` | other crates' device memory and streams as views and contexts: features `cudarc` and `cust` |
//! | [`capi`] | the C ABI of `include/qlora_kernels.h`: converts, calls `ops`, returns a status |
//!
//! Imports run one way: `{capi, interop} → ops → {cpu, cuda} → kernels → ptx-asm`; all may use `format`, `view`, `error` and `float_environment`.
//!
//! ```
//! use qlora_kernels::{Context, QuantSpec, QuantizedMatrix, Tensor, TensorMut, ops};
//!
//! let (m, n, k) = (4, 32, 64);
//! let context = Context::cpu();
//! let weight: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.7).sin()).collect();
//! // NF4 in blocks of 64 with FP8 double quantization: 4.127 bits a parameter for large matrices.
//! let w = QuantizedMatrix::quantize(&context, Tensor::new(&weight, n, k)?, &QuantSpec::default())?;
//!
//! let x = vec![half::bf16::ONE; m * k];
//! let mut y = vec![0f32; m * n];
//! let mut workspace = vec![0; ops::gemm_workspace_size(&context, m, n, k, 0)?];
//! ops::gemm_forward(&context, Tensor::new(&x, m, k)?, w.view(), None, None, TensorMut::new(&mut y, m, n)?, &mut workspace)?;
//! # assert!(y.iter().any(|&y| y != 0.0));
//! # Ok::<(), qlora_kernels::Error>(())
//! ```

#![warn(missing_docs)]

pub mod capi;
mod cpu;
mod cuda;
mod error;
mod float_environment;
pub mod format;
#[cfg(any(feature = "cudarc", feature = "cust"))]
pub mod interop;
#[doc(hidden)] // specs are checked by `ops`; public for the tests and the generated files
pub mod kernels;
pub mod ops;
pub mod view;

#[doc(hidden)] // for the tests and the predictions of the GPU program
pub use cuda::gemm::wgmma_plan;
pub use error::{Error, Result, Status};
pub use format::{Codebook, Constants, QuantSpec};
pub use ops::{
    Context, DeviceKind, Hyper, Lora, Optimizer, Pager, PagerKind, PagerOptions, Parameter, QuantizedMatrix,
    Rule, State,
};
pub use view::{DType, Element, Quantized, QuantizedMut, Tensor, TensorMut};
