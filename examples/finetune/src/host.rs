//! Plain slices of candle's tensors. Everything in this example is float32 in main memory.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor};

/// The values of a contiguous tensor, borrowed: it cannot be changed while they are.
pub fn values(tensor: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = range(layout)?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Values { storage, range }),
        _ => candle_core::bail!("a tensor that is not float32 in main memory"),
    }
}

struct Values<S> {
    storage: S,
    range: Range<usize>,
}

impl<S: Deref<Target = Storage>> Deref for Values<S> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked by `values`"),
        }
    }
}

/// The values of an argument of a custom operation.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    Ok(&storage.as_slice::<f32>()?[range(layout)?])
}

fn range(layout: &Layout) -> Result<Range<usize>> {
    let offsets = layout.contiguous_offsets();
    let (start, end) = offsets.ok_or_else(|| Error::Msg("a tensor that is not contiguous".to_owned()))?;
    Ok(start..end)
}
