//! Views of memory that the caller owns: what goes into an operation and what comes out of it.
//!
//! A view is a pointer with a shape. The safe constructors take Rust slices; the `unsafe` ones take pointers, which
//! for a device's context may be device pointers. An operation reads and writes nothing outside its views.

mod buffer;
mod lora;
mod parameter;
mod quantized;
mod tensor;
pub(crate) mod window;

pub use buffer::{Buffer, BufferMut};
pub use lora::Lora;
pub use parameter::{Parameter, State};
pub(crate) use quantized::sizes;
pub use quantized::{ConstantsMut, ConstantsView, Quantized, QuantizedMut};
pub(crate) use tensor::Extent;
pub use tensor::{DType, Element, Tensor, TensorMut};
