//! A parameter as an optimizer sees it.

use super::{BufferMut, Tensor, TensorMut};
use crate::format::optimizer::blocks::Blocks;

/// A parameter with its gradient and its optimizer states.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// f32, f16 or bf16; updated in place.
    pub param: TensorMut<'a>,
    /// Of the same shape; f32, f16 or bf16.
    pub grad: Tensor<'a>,
    /// As many as the rule has, in its order, all of one kind; zeros before the first step.
    pub states: Vec<State<'a>>,
}

/// A state of a parameter, of its elements in row-major order.
#[derive(Debug)]
pub enum State<'a> {
    /// A number an element.
    F32(BufferMut<'a, f32>),
    /// A code an element and a scale for each 256 of them: [`crate::format::optimizer::blocks`].
    Blocks {
        /// Codes of a dynamic map.
        codes: BufferMut<'a, u8>,
        /// Scales.
        absmax: BufferMut<'a, f32>,
    },
}

impl<'a> From<&'a mut Vec<f32>> for State<'a> {
    fn from(values: &'a mut Vec<f32>) -> Self {
        Self::F32(values.into())
    }
}

impl<'a> From<&'a mut Blocks> for State<'a> {
    fn from(Blocks { codes, absmax }: &'a mut Blocks) -> Self {
        Self::Blocks { codes: codes.into(), absmax: absmax.into() }
    }
}
