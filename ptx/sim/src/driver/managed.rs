//! Unified memory hints and memory pools.

use std::ffi::{c_int, c_uint, c_void};

use super::execute::Operation;
use super::{Driver, Handle, Outcome, Status, api, put};
use crate::memory::{Kind, memory};

/// The device number that means the host.
const HOST: c_int = -1;

/// `CUmemLocation`.
#[repr(C)]
struct Location {
    kind: c_uint,
    id: c_int,
}

impl Location {
    fn device(&self) -> Outcome<c_int> {
        match self.kind {
            1 => Ok(self.id),
            2..=4 => Ok(HOST),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

impl Driver {
    /// What the driver checks of a hint: managed memory, and a device that can take page faults.
    fn check_hint(&self, address: u64, len: usize, device: c_int) -> Outcome {
        let allocation = memory().find_range(address, len).ok_or(Status::INVALID_VALUE)?;
        if allocation.kind != Kind::Managed || len == 0 {
            return Err(Status::INVALID_VALUE);
        }
        if device != HOST {
            self.check_device(device)?;
            if !self.config.concurrent_managed_access {
                return Err(Status::INVALID_DEVICE);
            }
        }
        Ok(())
    }

    fn prefetch(&mut self, address: u64, len: usize, device: c_int, stream: Handle) -> Outcome {
        let stream = self.stream(stream)?;
        self.check_hint(address, len, device)?;
        self.submit(stream, Operation::Hint).map(drop)
    }
}

/// The only pool there is.
const DEFAULT_POOL: usize = 0xCDA0;

api! {
    fn cuMemPrefetchAsync(d, address: u64, len: usize, device: c_int, stream: Handle) {
        d.prefetch(address, len, device, stream)
    }

    fn cuMemPrefetchAsync_v2(d, address: u64, len: usize, location: Location, _flags: c_uint, stream: Handle) {
        d.prefetch(address, len, location.device()?, stream)
    }

    fn cuMemAdvise(d, address: u64, len: usize, _advice: c_uint, device: c_int) {
        d.current()?;
        d.check_hint(address, len, device)
    }

    fn cuMemAdvise_v2(d, address: u64, len: usize, _advice: c_uint, location: Location) {
        d.current()?;
        d.check_hint(address, len, location.device()?)
    }

    fn cuDeviceGetDefaultMemPool(d, into: *mut Handle, device: c_int) {
        d.check_device(device)?;
        put(into, DEFAULT_POOL as Handle)
    }

    fn cuDeviceGetMemPool(d, into: *mut Handle, device: c_int) {
        d.check_device(device)?;
        put(into, DEFAULT_POOL as Handle)
    }

    fn cuDeviceSetMemPool(d, device: c_int, _pool: Handle) {
        d.check_device(device)
    }

    fn cuMemPoolSetAttribute(d, _pool: Handle, _attribute: c_uint, _value: *mut c_void) {
        d.require_init()
    }

    fn cuMemPoolGetAttribute(d, _pool: Handle, attribute: c_uint, value: *mut c_void) {
        d.require_init()?;
        match attribute {
            1..=3 => put(value.cast(), 1 as c_int),
            5..=8 => put(value.cast(), d.allocated),
            _ => put(value.cast(), 0u64),
        }
    }

    fn cuMemPoolTrimTo(d, _pool: Handle, _keep: usize) {
        d.require_init()
    }
}
