//! Shared memory, laid out by type.

use crate::address::{Addr, Ptr, Shared};
use crate::class::B32;
use crate::error::{MAX_STATIC_SHARED, Problem};
use crate::kernel::Kernel;
use crate::mem::Mem;
use crate::operand::Operand;
use crate::target::ANY;
use std::marker::PhantomData;

/// An array of `M` in shared memory.
pub struct Array<M> {
    base: Ptr<Shared>,
    offset: usize,
    len: usize,
    element: PhantomData<M>,
}

impl<M> Clone for Array<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Array<M> {}

impl<M: Mem> Array<M> {
    /// The address of the element `i`, a constant.
    ///
    /// # Panics
    /// If it lies outside.
    pub fn at(self, i: usize) -> Addr<Shared> {
        assert!(i < self.len, "element {i} of {}", self.len);
        self.base.at((self.offset + i * M::BYTES).try_into().expect("shared memory is small"))
    }

    /// A pointer to the element `i`, from a register or constant.
    pub fn element(self, k: &Kernel, i: impl Into<Operand<B32>>) -> Ptr<Shared> {
        k.element(self.ptr(k), i, M::BYTES as u32)
    }

    /// A pointer to the first element.
    pub fn ptr(self, k: &Kernel) -> Ptr<Shared> {
        match self.offset {
            0 => self.base,
            offset => k.offset(self.base, offset as u32),
        }
    }

    /// `len` elements of another kind from the same place on: for memory that is used in turns.
    ///
    /// # Panics
    /// If they are more than the array has room for.
    pub fn cast<T: Mem>(self, len: usize) -> Array<T> {
        assert!(len * T::BYTES <= self.bytes(), "{len} elements of {} bytes in {}", T::BYTES, self.bytes());
        Array { base: self.base, offset: self.offset, len, element: PhantomData }
    }

    /// Elements.
    #[allow(clippy::len_without_is_empty)] // the length is what the caller asked for
    pub fn len(self) -> usize {
        self.len
    }

    /// Bytes.
    pub fn bytes(self) -> usize {
        self.len * M::BYTES
    }
}

/// Dynamic shared memory: arrays one after the other, each aligned. Its size is the launch's to give.
pub struct DynamicShared {
    base: Ptr<Shared>,
    align: usize,
    bytes: usize,
}

impl DynamicShared {
    /// The next array, aligned to `align` bytes.
    ///
    /// # Panics
    /// If the memory as a whole is aligned to less, or `align` is no power of two.
    pub fn array_aligned<M: Mem>(&mut self, len: usize, align: usize) -> Array<M> {
        assert!(align.is_power_of_two() && align <= self.align, "alignment {align} within {}", self.align);
        let offset = self.bytes.next_multiple_of(align);
        self.bytes = offset + len * M::BYTES;
        Array { base: self.base, offset, len, element: PhantomData }
    }

    /// The next array, aligned to 16 bytes as vectors need it.
    pub fn array<M: Mem>(&mut self, len: usize) -> Array<M> {
        self.array_aligned(len, 16)
    }

    /// The bytes of all arrays so far: what the launch must give.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Kernel {
    /// A static array in shared memory, aligned to 16 bytes. Static arrays have 48 KB in all.
    pub fn shared<M: Mem>(&self, name: &str, len: usize) -> Array<M> {
        self.shared_aligned(name, len, 16)
    }

    /// A static array in shared memory, aligned to `align` bytes.
    ///
    /// # Panics
    /// If `align` is no power of two.
    pub fn shared_aligned<M: Mem>(&self, name: &str, len: usize, align: usize) -> Array<M> {
        assert!(align.is_power_of_two());
        self.declare(name);
        let bytes = {
            let state = &mut *self.state.borrow_mut();
            let size = len * M::BYTES;
            state.declarations.push(format!(".shared .align {align} .b8 {name}[{size}];"));
            let before = state.shared_bytes;
            state.shared_bytes = before.next_multiple_of(align) + size;
            (before <= MAX_STATIC_SHARED).then_some(state.shared_bytes)
        };
        if let Some(bytes) = bytes.filter(|&bytes| bytes > MAX_STATIC_SHARED) {
            self.problem(Problem::SharedTooLarge { bytes });
        }
        Array { base: self.shared_base(name), offset: 0, len, element: PhantomData }
    }

    /// The kernel's dynamic shared memory, aligned to `align` bytes (16, or up to 1024 for swizzled tensor copies).
    ///
    /// # Panics
    /// If `align` is no power of two of at least 16.
    pub fn dynamic_shared(&self, align: usize) -> DynamicShared {
        assert!(align.is_power_of_two() && align >= 16);
        let name = format!("{}_dynamic", self.name());
        self.declare(&name);
        let declaration = format!(".extern .shared .align {align} .b8 {name}[];");
        self.state.borrow_mut().variables.push((name.clone(), declaration));
        DynamicShared { base: self.shared_base(&name), align, bytes: 0 }
    }

    fn shared_base(&self, name: &str) -> Ptr<Shared> {
        let base = self.reg();
        self.emit(None, &format!("mov.b32 $, {name}"), ANY, Some(&base), &[]);
        Ptr::new(base)
    }
}
