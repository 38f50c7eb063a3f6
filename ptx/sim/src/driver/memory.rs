//! Memory: allocation, copies, memsets.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use super::execute::{Copy, Operation, Set};
use super::state::current_stack;
use super::stream::LEGACY;
use super::{Driver, Handle, Outcome, Status, api, put};
use crate::memory::{Allocation, Kind, memory};

/// Which way a copy goes; for the counters, and for what pageable memory means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToDevice,
    ToHost,
    OnDevice,
}

impl Driver {
    pub fn allocate(&mut self, size: usize, kind: Kind) -> Outcome<u64> {
        let device = self.current_device()?;
        if size == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let on_device = matches!(kind, Kind::Device | Kind::Module);
        if on_device && self.allocated + size as u64 > self.config.memory {
            return Err(Status::OUT_OF_MEMORY);
        }
        let address = memory().allocate(size, kind, device).map_err(|_| Status::OUT_OF_MEMORY)?;
        if on_device {
            self.allocated += size as u64;
        }
        if kind != Kind::Module {
            self.counters().allocations += 1;
        }
        Ok(address)
    }

    /// Ends an allocation that is known to be there.
    pub fn release(&mut self, address: u64) {
        if let Some(allocation) = memory().find(address)
            && memory().free(address)
        {
            if matches!(allocation.kind, Kind::Device | Kind::Module) {
                self.allocated -= allocation.size as u64;
            }
            if allocation.kind != Kind::Module {
                self.counters().frees += 1;
            }
        }
    }

    /// The allocation that starts at an address, of one of these kinds.
    fn owned(&self, address: u64, kinds: &[Kind]) -> Outcome<Allocation> {
        memory()
            .find(address)
            .filter(|a| a.base == address && kinds.contains(&a.kind))
            .ok_or(Status::INVALID_VALUE)
    }

    /// Frees after all work of the context, as the driver does.
    fn free_now(&mut self, address: u64, kinds: &[Kind]) -> Outcome {
        let context = self.current()?;
        if address == 0 {
            return Ok(());
        }
        self.forbid_unsafe_in_capture()?;
        self.owned(address, kinds)?;
        self.finish_context(context)?;
        self.release(address);
        Ok(())
    }

    fn check_device_range(&self, address: u64, len: usize) -> Outcome {
        if len == 0 || memory().find_range(address, len).is_some() {
            Ok(())
        } else {
            Err(Status::INVALID_VALUE)
        }
    }

    /// Whether an asynchronous copy may touch the host memory later: it is page-locked.
    fn is_pinned(address: u64, len: usize) -> bool {
        memory().find_range(address, len).is_some()
    }

    fn count_bytes(&mut self, way: Way, bytes: usize) {
        let counters = self.counters();
        let count = match way {
            Way::ToDevice => &mut counters.bytes_to_device,
            Way::ToHost => &mut counters.bytes_to_host,
            Way::OnDevice => &mut counters.bytes_on_device,
        };
        *count += bytes as u64;
    }

    /// Submits a copy. Pageable sources are read at once; pageable destinations are written before this returns.
    fn copy_async(&mut self, mut copy: Copy, way: Way, stream: Handle) -> Outcome {
        let stream = self.stream(stream)?;
        for row in 0..copy.rows {
            if way != Way::ToHost {
                self.check_device_range(copy.dst + (row * copy.dst_pitch) as u64, copy.width)?;
            }
            if way != Way::ToDevice {
                self.check_device_range(copy.src + (row * copy.src_pitch) as u64, copy.width)?;
            }
        }
        self.count_bytes(way, copy.width * copy.rows);
        if copy.width == 0 || copy.rows == 0 {
            return Ok(());
        }
        let src_extent = copy.src_pitch * (copy.rows - 1) + copy.width;
        let dst_extent = copy.dst_pitch * (copy.rows - 1) + copy.width;
        if way == Way::ToDevice && !Self::is_pinned(copy.src, src_extent) {
            let mut staged = Vec::with_capacity(copy.width * copy.rows);
            for row in 0..copy.rows {
                let from = (copy.src + (row * copy.src_pitch) as u64) as *const u8;
                // SAFETY: the program's promise about its host memory.
                staged.extend_from_slice(unsafe { std::slice::from_raw_parts(from, copy.width) });
            }
            copy.staged = Some(staged);
        }
        let waits = way == Way::ToHost && !Self::is_pinned(copy.dst, dst_extent);
        let captured = self.streams[&stream].capture.is_some();
        let sequence = self.submit(stream, Operation::Copy(Arc::new(copy)))?;
        if waits && !captured { self.finish_work(stream, sequence) } else { Ok(()) }
    }

    /// A copy that is done when this returns: in the legacy stream, then waited for.
    fn copy_now(&mut self, copy: Copy, way: Way) -> Outcome {
        let context = self.current()?;
        self.counters().synchronizations += 1;
        let stream = self.implicit_stream(context, LEGACY);
        self.copy_async(copy, way, stream as Handle)?;
        self.finish_stream(stream)
    }

    fn set(&mut self, set: Set, stream: Option<Handle>) -> Outcome {
        let context = self.current()?;
        if !set.dst.is_multiple_of(set.element as u64) {
            return Err(Status::INVALID_VALUE);
        }
        for row in 0..set.rows {
            self.check_device_range(set.dst + (row * set.pitch) as u64, set.count * set.element)?;
        }
        self.counters().bytes_set += (set.count * set.element * set.rows) as u64;
        let stream = match stream {
            Some(stream) => self.stream(stream)?,
            None => self.implicit_stream(context, LEGACY),
        };
        // The plain forms are asynchronous to the host too.
        self.submit(stream, Operation::Set(set)).map(drop)
    }

    /// Which way a copy between two unified addresses goes.
    fn way(dst: u64, src: u64) -> Way {
        let on_device =
            |address| memory().find(address).is_some_and(|a| matches!(a.kind, Kind::Device | Kind::Module));
        match (on_device(dst), on_device(src)) {
            (true, false) => Way::ToDevice,
            (false, true) => Way::ToHost,
            _ => Way::OnDevice,
        }
    }
}

fn line(dst: u64, src: u64, len: usize) -> Copy {
    Copy { dst, src, width: len, rows: 1, dst_pitch: 0, src_pitch: 0, staged: None }
}

fn set(dst: u64, value: u32, element: usize, count: usize) -> Set {
    Set { dst, pattern: value.to_le_bytes(), element, count, rows: 1, pitch: 0 }
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
struct Copy2D {
    src_x: usize,
    src_y: usize,
    src_type: c_uint,
    src_host: u64,
    src_device: u64,
    src_array: u64,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: c_uint,
    dst_host: u64,
    dst_device: u64,
    dst_array: u64,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

impl Copy2D {
    fn resolve(&self) -> Outcome<(Copy, Way)> {
        const HOST: c_uint = 1;
        const DEVICE: c_uint = 2;
        const UNIFIED: c_uint = 4;
        let base = |ty, host, device| match ty {
            HOST => Ok(host),
            DEVICE | UNIFIED => Ok(device),
            _ => Err(Status::NOT_SUPPORTED),
        };
        let src_pitch = if self.src_pitch == 0 { self.width + self.src_x } else { self.src_pitch };
        let dst_pitch = if self.dst_pitch == 0 { self.width + self.dst_x } else { self.dst_pitch };
        let src = base(self.src_type, self.src_host, self.src_device)?
            + (self.src_y * src_pitch + self.src_x) as u64;
        let dst = base(self.dst_type, self.dst_host, self.dst_device)?
            + (self.dst_y * dst_pitch + self.dst_x) as u64;
        let way = match (self.dst_type, self.src_type) {
            (HOST, HOST) => return Err(Status::NOT_SUPPORTED),
            (HOST, _) => Way::ToHost,
            (_, HOST) => Way::ToDevice,
            _ => Driver::way(dst, src),
        };
        let copy =
            Copy { dst, src, width: self.width, rows: self.height, dst_pitch, src_pitch, staged: None };
        Ok((copy, way))
    }
}

const OWNED_BY_DEVICE: [Kind; 2] = [Kind::Device, Kind::Managed];

api! {
    fn cuMemAlloc_v2(d, into: *mut u64, size: usize) {
        d.current()?;
        d.forbid_unsafe_in_capture()?;
        let address = d.allocate(size, Kind::Device)?;
        put(into, address)
    }

    fn cuMemAllocManaged(d, into: *mut u64, size: usize, _flags: c_uint) {
        d.current()?;
        d.forbid_unsafe_in_capture()?;
        let address = d.allocate(size, Kind::Managed)?;
        put(into, address)
    }

    fn cuMemAllocPitch_v2(d, into: *mut u64, pitch: *mut usize, width: usize, height: usize, _element: c_uint) {
        d.current()?;
        d.forbid_unsafe_in_capture()?;
        let row = width.next_multiple_of(512);
        let address = d.allocate(row * height, Kind::Device)?;
        put(pitch, row)?;
        put(into, address)
    }

    fn cuMemAllocAsync(d, into: *mut u64, size: usize, stream: Handle) {
        d.stream(stream)?;
        let address = d.allocate(size, Kind::Device)?;
        put(into, address)
    }

    fn cuMemAllocFromPoolAsync(d, into: *mut u64, size: usize, _pool: Handle, stream: Handle) {
        d.stream(stream)?;
        let address = d.allocate(size, Kind::Device)?;
        put(into, address)
    }

    fn cuMemFree_v2(d, address: u64) {
        d.free_now(address, &OWNED_BY_DEVICE)
    }

    fn cuMemFreeAsync(d, address: u64, stream: Handle) {
        let stream = d.stream(stream)?;
        d.owned(address, &OWNED_BY_DEVICE)?;
        d.submit(stream, Operation::Free(address)).map(drop)
    }

    fn cuMemHostAlloc(d, into: *mut *mut c_void, size: usize, _flags: c_uint) {
        d.current()?;
        d.forbid_unsafe_in_capture()?;
        let address = d.allocate(size, Kind::Host)?;
        put(into, address as *mut c_void)
    }

    fn cuMemAllocHost_v2(d, into: *mut *mut c_void, size: usize) {
        d.current()?;
        d.forbid_unsafe_in_capture()?;
        let address = d.allocate(size, Kind::Host)?;
        put(into, address as *mut c_void)
    }

    fn cuMemFreeHost(d, address: *mut c_void) {
        d.free_now(address as u64, &[Kind::Host])
    }

    fn cuMemHostRegister_v2(d, address: *mut c_void, size: usize, _flags: c_uint) {
        d.current()?;
        if memory().find_range(address as u64, size).is_some() {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        memory().register(address as u64, size);
        Ok(())
    }

    fn cuMemHostUnregister(d, address: *mut c_void) {
        let context = d.current()?;
        d.owned(address as u64, &[Kind::Registered]).map_err(|_| Status::HOST_MEMORY_NOT_REGISTERED)?;
        d.finish_context(context)?;
        memory().free(address as u64);
        Ok(())
    }

    fn cuMemHostGetDevicePointer_v2(d, into: *mut u64, address: *mut c_void, _flags: c_uint) {
        d.current()?;
        memory().find(address as u64).ok_or(Status::INVALID_VALUE)?;
        put(into, address as u64)
    }

    fn cuMemHostGetFlags(d, flags: *mut c_uint, _address: *mut c_void) {
        d.current()?;
        put(flags, 3) // portable, mapped
    }

    fn cuMemGetInfo_v2(d, free: *mut usize, total: *mut usize) {
        d.current()?;
        put(free, (d.config.memory - d.allocated) as usize)?;
        put(total, d.config.memory as usize)
    }

    fn cuMemGetAddressRange_v2(d, base: *mut u64, size: *mut usize, address: u64) {
        d.current()?;
        let allocation = memory().find(address).ok_or(Status::NOT_FOUND)?;
        if !base.is_null() {
            put(base, allocation.base)?;
        }
        if size.is_null() { Ok(()) } else { put(size, allocation.size) }
    }

    fn cuMemcpyHtoD_v2(d, dst: u64, src: *const c_void, len: usize) {
        d.copy_now(line(dst, src as u64, len), Way::ToDevice)
    }

    fn cuMemcpyDtoH_v2(d, dst: *mut c_void, src: u64, len: usize) {
        d.copy_now(line(dst as u64, src, len), Way::ToHost)
    }

    fn cuMemcpyDtoD_v2(d, dst: u64, src: u64, len: usize) {
        d.copy_async(line(dst, src, len), Way::OnDevice, std::ptr::null_mut())
    }

    fn cuMemcpy(d, dst: u64, src: u64, len: usize) {
        d.copy_now(line(dst, src, len), Driver::way(dst, src))
    }

    fn cuMemcpyHtoDAsync_v2(d, dst: u64, src: *const c_void, len: usize, stream: Handle) {
        d.copy_async(line(dst, src as u64, len), Way::ToDevice, stream)
    }

    fn cuMemcpyDtoHAsync_v2(d, dst: *mut c_void, src: u64, len: usize, stream: Handle) {
        d.copy_async(line(dst as u64, src, len), Way::ToHost, stream)
    }

    fn cuMemcpyDtoDAsync_v2(d, dst: u64, src: u64, len: usize, stream: Handle) {
        d.copy_async(line(dst, src, len), Way::OnDevice, stream)
    }

    fn cuMemcpyAsync(d, dst: u64, src: u64, len: usize, stream: Handle) {
        d.copy_async(line(dst, src, len), Driver::way(dst, src), stream)
    }

    fn cuMemcpyPeer(d, dst: u64, _to: Handle, src: u64, _from: Handle, len: usize) {
        d.copy_now(line(dst, src, len), Way::OnDevice)
    }

    fn cuMemcpyPeerAsync(d, dst: u64, _to: Handle, src: u64, _from: Handle, len: usize, stream: Handle) {
        d.copy_async(line(dst, src, len), Way::OnDevice, stream)
    }

    fn cuMemcpy2D_v2(d, copy: *const Copy2D) {
        let (copy, way) = copy.as_ref().ok_or(Status::INVALID_VALUE)?.resolve()?;
        d.copy_now(copy, way)
    }

    fn cuMemcpy2DUnaligned_v2(d, copy: *const Copy2D) {
        let (copy, way) = copy.as_ref().ok_or(Status::INVALID_VALUE)?.resolve()?;
        d.copy_now(copy, way)
    }

    fn cuMemcpy2DAsync_v2(d, copy: *const Copy2D, stream: Handle) {
        let (copy, way) = copy.as_ref().ok_or(Status::INVALID_VALUE)?.resolve()?;
        d.copy_async(copy, way, stream)
    }

    fn cuMemsetD8_v2(d, dst: u64, value: u8, count: usize) {
        d.set(set(dst, value.into(), 1, count), None)
    }

    fn cuMemsetD16_v2(d, dst: u64, value: u16, count: usize) {
        d.set(set(dst, value.into(), 2, count), None)
    }

    fn cuMemsetD32_v2(d, dst: u64, value: u32, count: usize) {
        d.set(set(dst, value, 4, count), None)
    }

    fn cuMemsetD8Async(d, dst: u64, value: u8, count: usize, stream: Handle) {
        d.set(set(dst, value.into(), 1, count), Some(stream))
    }

    fn cuMemsetD16Async(d, dst: u64, value: u16, count: usize, stream: Handle) {
        d.set(set(dst, value.into(), 2, count), Some(stream))
    }

    fn cuMemsetD32Async(d, dst: u64, value: u32, count: usize, stream: Handle) {
        d.set(set(dst, value, 4, count), Some(stream))
    }

    fn cuMemsetD2D8_v2(d, dst: u64, pitch: usize, value: u8, width: usize, rows: usize) {
        d.set(Set { rows, pitch, ..set(dst, value.into(), 1, width) }, None)
    }

    fn cuMemsetD2D32_v2(d, dst: u64, pitch: usize, value: u32, width: usize, rows: usize) {
        d.set(Set { rows, pitch, ..set(dst, value, 4, width) }, None)
    }

    fn cuMemsetD2D8Async(d, dst: u64, pitch: usize, value: u8, width: usize, rows: usize, stream: Handle) {
        d.set(Set { rows, pitch, ..set(dst, value.into(), 1, width) }, Some(stream))
    }

    fn cuMemsetD2D32Async(d, dst: u64, pitch: usize, value: u32, width: usize, rows: usize, stream: Handle) {
        d.set(Set { rows, pitch, ..set(dst, value, 4, width) }, Some(stream))
    }

    fn cuPointerGetAttribute(d, data: *mut c_void, attribute: c_uint, address: u64) {
        d.require_init()?;
        let a = memory().find(address).ok_or(Status::INVALID_VALUE)?;
        let device_memory = matches!(a.kind, Kind::Device | Kind::Managed | Kind::Module);
        match attribute {
            1 => put(data.cast(), current_stack(|stack| stack.last().copied().unwrap_or(0))),
            2 => put(data.cast(), if device_memory { 2u32 } else { 1 }),
            // The address as kernels of the current context see it.
            3 => {
                let context = d.current()?;
                let own = d.contexts[&context].device as u32 == a.device as u32;
                if own || a.kind != Kind::Device { put(data.cast(), address) } else { Err(Status::INVALID_VALUE) }
            }
            4 if a.kind == Kind::Device => Err(Status::INVALID_VALUE),
            4 => put(data.cast(), address),
            8 => put(data.cast(), c_uint::from(a.kind == Kind::Managed)),
            9 => put(data.cast(), a.device as c_int),
            11 => put(data.cast(), a.base),
            12 => put(data.cast(), a.size),
            13 => put(data.cast(), 1u8),
            _ => Err(Status::NOT_SUPPORTED),
        }
    }
}
