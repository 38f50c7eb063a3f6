//! Copies and memsets.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use super::execute::{Copy, Operation, Set};
use super::stream::LEGACY;
use super::{Driver, Handle, Outcome, Status, api};
use crate::log::Way;
use crate::memory::{Kind, memory};

impl Driver {
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
    fn copy_async(&mut self, mut copy: Copy, stream: Handle) -> Outcome {
        let (way, stream) = (copy.way, self.stream(stream)?);
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
    fn copy_now(&mut self, copy: Copy) -> Outcome {
        let context = self.current()?;
        self.counters().synchronizations += 1;
        let stream = self.implicit_stream(context, LEGACY);
        self.copy_async(copy, stream as Handle)?;
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

fn line(dst: u64, src: u64, len: usize, way: Way) -> Copy {
    Copy { way, dst, src, width: len, rows: 1, dst_pitch: 0, src_pitch: 0, staged: None }
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
    fn resolve(&self) -> Outcome<Copy> {
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
        let (width, rows) = (self.width, self.height);
        Ok(Copy { way, dst, src, width, rows, dst_pitch, src_pitch, staged: None })
    }
}

api! {
    fn cuMemcpyHtoD_v2(d, dst: u64, src: *const c_void, len: usize) {
        d.copy_now(line(dst, src as u64, len, Way::ToDevice))
    }

    fn cuMemcpyDtoH_v2(d, dst: *mut c_void, src: u64, len: usize) {
        d.copy_now(line(dst as u64, src, len, Way::ToHost))
    }

    fn cuMemcpyDtoD_v2(d, dst: u64, src: u64, len: usize) {
        d.copy_async(line(dst, src, len, Way::OnDevice), std::ptr::null_mut())
    }

    fn cuMemcpy(d, dst: u64, src: u64, len: usize) {
        d.copy_now(line(dst, src, len, Driver::way(dst, src)))
    }

    fn cuMemcpyHtoDAsync_v2(d, dst: u64, src: *const c_void, len: usize, stream: Handle) {
        d.copy_async(line(dst, src as u64, len, Way::ToDevice), stream)
    }

    fn cuMemcpyDtoHAsync_v2(d, dst: *mut c_void, src: u64, len: usize, stream: Handle) {
        d.copy_async(line(dst as u64, src, len, Way::ToHost), stream)
    }

    fn cuMemcpyDtoDAsync_v2(d, dst: u64, src: u64, len: usize, stream: Handle) {
        d.copy_async(line(dst, src, len, Way::OnDevice), stream)
    }

    fn cuMemcpyAsync(d, dst: u64, src: u64, len: usize, stream: Handle) {
        d.copy_async(line(dst, src, len, Driver::way(dst, src)), stream)
    }

    fn cuMemcpyPeer(d, dst: u64, _to: Handle, src: u64, _from: Handle, len: usize) {
        d.copy_now(line(dst, src, len, Way::OnDevice))
    }

    fn cuMemcpyPeerAsync(d, dst: u64, _to: Handle, src: u64, _from: Handle, len: usize, stream: Handle) {
        d.copy_async(line(dst, src, len, Way::OnDevice), stream)
    }

    fn cuMemcpy2D_v2(d, copy: *const Copy2D) {
        let copy = copy.as_ref().ok_or(Status::INVALID_VALUE)?.resolve()?;
        d.copy_now(copy)
    }

    fn cuMemcpy2DUnaligned_v2(d, copy: *const Copy2D) {
        let copy = copy.as_ref().ok_or(Status::INVALID_VALUE)?.resolve()?;
        d.copy_now(copy)
    }

    fn cuMemcpy2DAsync_v2(d, copy: *const Copy2D, stream: Handle) {
        let copy = copy.as_ref().ok_or(Status::INVALID_VALUE)?.resolve()?;
        d.copy_async(copy, stream)
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
}
