//! Tensor maps and the tiles that tensor copies address through them (PTX ISA §5.5).

use crate::address::{Addr, Generic, Ptr};
use crate::class::B32;
use crate::kernel::Kernel;
use crate::operand::{Inputs, Operands, Print};
use crate::register::Reg;

/// A tensor map (`CUtensorMap`) that a kernel was given: see [`Kernel::param_tensor_map`].
#[derive(Clone, Copy, Debug)]
pub struct TensorMap(Ptr<Generic>);

impl TensorMap {
    /// A tensor map anywhere in memory, 64-byte aligned.
    pub fn new(map: Ptr<Generic>) -> Self {
        Self(map)
    }

    /// The box of an `N`-dimensional tensor that begins at these coordinates, the innermost first.
    pub fn tile<const N: usize>(self, coordinates: [Reg<B32>; N]) -> Tile<N> {
        Tile { map: self, coordinates }
    }
}

impl From<TensorMap> for Addr<Generic> {
    fn from(map: TensorMap) -> Self {
        map.0.into()
    }
}

/// `[map, {x, y, …}]`: a box of a tensor.
#[derive(Clone, Copy)]
pub struct Tile<const N: usize> {
    map: TensorMap,
    coordinates: [Reg<B32>; N],
}

impl<const N: usize> Print for Tile<N> {
    fn print(&self, out: &mut String) {
        out.push('[');
        self.map.0.reg().print(out);
        out.push_str(", ");
        self.coordinates.print(out);
        out.push(']');
    }
}

impl<const N: usize> Inputs for Tile<N> {
    type Operand = Self;

    fn sample(k: &Kernel, _: Operands) -> Self {
        TensorMap(Ptr::new(k.reg())).tile(k.regs())
    }
}
