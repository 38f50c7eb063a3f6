//! Launching kernels on the caller's stream.

use super::device::Queue;
use super::driver::check;
use super::memory::Address;
use super::module::Relaxed;
use crate::error::Result;
use crate::kernels::KernelSpec;
use crate::kernels::tensor::Layout;
use crate::kernels::tile::VECTOR_BYTES;
use crate::view::{Tensor, TensorMut};
use cudarc::driver::sys::{
    self, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUstream,
    CUtensorMap,
};
use std::ffi::c_void;

/// A stream of the caller's: a `CUstream` or `cudaStream_t`; null is the legacy default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(*mut c_void);

// SAFETY: a handle of the driver, which may be used by any thread.
unsafe impl Send for Stream {}
unsafe impl Sync for Stream {}

impl Stream {
    /// The legacy default stream.
    pub const LEGACY_DEFAULT: Self = Self(std::ptr::null_mut());

    /// From a handle.
    ///
    /// # Safety
    /// The stream belongs to the primary context of the device that it is used with, and lives as long as it is used.
    pub unsafe fn from_raw(handle: *mut c_void) -> Self {
        Self(handle)
    }

    pub(super) fn handle(self) -> CUstream {
        self.0.cast()
    }
}

/// The arguments of a launch, in the order of the kernel's parameters.
#[derive(Default)]
pub struct Args(Vec<Arg>);

enum Arg {
    Number(u64),
    Block(Vec<u64>),
    TensorMap(Box<CUtensorMap>),
}

impl Arg {
    /// Where the driver finds the value, of as many bytes as the kernel's parameter has.
    fn pointer(&mut self) -> *mut c_void {
        match self {
            Self::Number(value) => (value as *mut u64).cast(),
            Self::Block(words) => words.as_mut_ptr().cast(),
            Self::TensorMap(map) => (&raw mut **map).cast(),
        }
    }
}

impl Args {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number, or an address.
    pub fn number(mut self, value: u64) -> Self {
        self.0.push(Arg::Number(value)); // a narrower parameter reads its low bytes
        self
    }

    /// A number in f32.
    pub fn float(self, value: f32) -> Self {
        self.number(value.to_bits().into())
    }

    /// A block of `len` words, the first of which are these.
    pub fn block(mut self, words: &[u64], len: usize) -> Self {
        let mut block = words.to_vec();
        block.resize(len, 0);
        self.0.push(Arg::Block(block));
        self
    }

    /// A tensor map, given by value.
    pub fn tensor_map(mut self, map: CUtensorMap) -> Self {
        self.0.push(Arg::TensorMap(Box::new(map)));
        self
    }

    /// An address.
    pub fn pointer(self, memory: impl Address) -> Self {
        self.number(memory.address())
    }

    /// A matrix that lies as `layout` says.
    pub fn tensor(self, tensor: impl Matrix, layout: Layout) -> Self {
        let args = self.number(tensor.address());
        match layout {
            Layout::Vectors | Layout::Elements => args,
            Layout::Strided => args.number(tensor.cols()).number(tensor.row_stride()),
        }
    }
}

/// The shape of a matrix view.
pub trait Matrix: Address {
    /// Columns.
    fn cols(&self) -> u64;
    /// Elements between the starts of rows.
    fn row_stride(&self) -> u64;
    /// Whether its rows follow each other without gaps.
    fn is_contiguous(&self) -> bool;
}

macro_rules! matrix {
    ($($name:ident)*) => {$(
        impl Matrix for &$name<'_> {
            fn cols(&self) -> u64 {
                $name::cols(self) as u64
            }
            fn row_stride(&self) -> u64 {
                $name::row_stride(self) as u64
            }
            fn is_contiguous(&self) -> bool {
                $name::row_stride(self) == $name::cols(self) || self.rows() <= 1
            }
        }
    )*};
}
matrix!(Tensor TensorMut);

/// Whole vectors if the matrix and the codes beside it allow it.
pub fn layout(tensor: impl Matrix, codes: u64, codes_align: u64) -> Layout {
    let aligned = tensor.address().is_multiple_of(VECTOR_BYTES.into()) && codes.is_multiple_of(codes_align);
    match (tensor.is_contiguous(), aligned) {
        (true, true) => Layout::Vectors,
        (true, false) => Layout::Elements,
        (false, _) => Layout::Strided,
    }
}

/// How often a grid fills the device, at most: enough blocks to even out those of unequal speed, few enough to share what a
/// block does once.
const WAVES: u64 = 2;

/// That a launch may overlap the kernel ahead of it.
fn overlapping() -> CUlaunchAttribute {
    let mut value = CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = 1;
    let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    CUlaunchAttribute { id, pad: [0; 4], value }
}

impl Queue<'_> {
    /// Enqueues a kernel with a block for each of `tiles`, or as many as fill the device.
    pub(super) fn launch(&self, spec: KernelSpec, tiles: u64, args: Args) -> Result<()> {
        self.enqueue(spec, tiles, args, false)
    }

    /// The same of a kernel that itself waits for the one ahead of it to end.
    pub(super) fn launch_overlapping(&self, spec: KernelSpec, tiles: u64, args: Args) -> Result<()> {
        self.enqueue(spec, tiles, args, true)
    }

    fn enqueue(&self, spec: KernelSpec, tiles: u64, args: Args, overlaps: bool) -> Result<()> {
        let function = self.function(spec)?;
        let most = u64::from(self.cuda.processors) * u64::from(function.blocks_per_processor) * WAVES;
        let blocks = tiles.clamp(1, most) as u32;
        let mut values = args.0;
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(Arg::pointer).collect();
        // The driver may put off a part of the loading until here.
        let _relaxed = function.first_launch().then(Relaxed::enter);
        let mut attribute = overlapping();
        let config = CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: function.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: function.shared,
            hStream: self.stream.handle(),
            attrs: &mut attribute,
            numAttrs: overlaps.into(),
        };
        // SAFETY: the kernel's parameters are what its spec documents and its caller has lined up; each pointer is to
        // a value that outlives the call.
        let result = unsafe {
            sys::cuLaunchKernelEx(&config, function.handle, pointers.as_mut_ptr(), std::ptr::null_mut())
        };
        check(result, "cuLaunchKernelEx")
    }

    /// Enqueues the writing of one 32-bit word.
    pub(super) fn fill_word(&self, at: u64, word: u32) -> Result<()> {
        // SAFETY: the caller's memory, as vouched for by the view it comes from.
        check(unsafe { sys::cuMemsetD32Async(at, word, 1, self.stream.handle()) }, "cuMemsetD32Async")
    }
}
