//! Launches: what the driver checks before a kernel runs.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use super::execute::Operation;
use super::function::Function;
use super::{Driver, Handle, Outcome, Status, api};

/// A checked launch.
pub struct KernelLaunch {
    pub function: Arc<Function>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: Vec<u8>,
    pub manner: Manner,
}

/// How a kernel is launched.
#[derive(Clone, Copy, Default)]
pub struct Manner {
    /// All blocks are resident at once.
    cooperative: bool,
    /// It may start before the kernel ahead of it in its stream has ended.
    pub overlaps: bool,
}

/// `CUlaunchConfig`.
#[repr(C)]
struct Config {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: Handle,
    attributes: *const Attribute,
    count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C)]
struct Attribute {
    id: c_uint,
    _pad: [u8; 4],
    value: [u32; 16],
}

/// Gathers the parameters into one buffer, from an array of pointers or from a packed buffer.
unsafe fn gather(function: &Function, params: *mut *mut c_void, extra: *mut *mut c_void) -> Outcome<Vec<u8>> {
    let kernel = &function.kernel;
    let mut buffer = vec![0; kernel.param_size];
    if !extra.is_null() {
        const END: usize = 0;
        const POINTER: usize = 1;
        const SIZE: usize = 2;
        let (mut from, mut size) = (std::ptr::null::<u8>(), 0);
        let mut at = extra;
        // SAFETY: the caller's promise: pairs of key and value, up to END.
        unsafe {
            loop {
                let (key, value) = (*at as usize, at.add(1));
                match key {
                    END => break,
                    POINTER => from = (*value).cast(),
                    SIZE => size = *(*value).cast::<usize>(),
                    _ => return Err(Status::INVALID_VALUE),
                }
                at = at.add(2);
            }
            if !params.is_null() || from.is_null() || size < kernel.param_size {
                return Err(Status::INVALID_VALUE);
            }
            buffer.copy_from_slice(std::slice::from_raw_parts(from, kernel.param_size));
        }
        return Ok(buffer);
    }
    if params.is_null() && !kernel.params.is_empty() {
        return Err(Status::INVALID_VALUE);
    }
    for (k, param) in kernel.params.iter().enumerate() {
        // SAFETY: the caller's promise: a pointer to each parameter.
        unsafe {
            let from = (*params.add(k)).cast::<u8>();
            if from.is_null() {
                return Err(Status::INVALID_VALUE);
            }
            let to = &mut buffer[param.offset..param.offset + param.size];
            to.copy_from_slice(std::slice::from_raw_parts(from, param.size));
        }
    }
    Ok(buffer)
}

impl Driver {
    fn check_launch(&self, f: &Function, grid: [u32; 3], block: [u32; 3], dynamic_shared: u32) -> Outcome {
        let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
        let blocks = grid.iter().map(|&n| u64::from(n)).product::<u64>();
        let limits = &f.kernel.limits;
        let fits = threads >= 1
            && threads <= u64::from(f.max_threads().min(1024))
            && block[0] <= 1024
            && block[1] <= 1024
            && block[2] <= 64
            && limits.reqntid.is_none_or(|required| required == block)
            && grid[0] <= i32::MAX as u32
            && grid[1] <= 65535
            && grid[2] <= 65535
            // Block numbers of the race checks have 29 bits, all ones excepted.
            && (1..(1 << 29) - 1).contains(&blocks)
            && dynamic_shared <= f.dynamic_shared_limit()
            && self.takes_clusters(f, grid, threads);
        if !fits {
            return Err(Status::INVALID_VALUE);
        }
        let shared = f.kernel.dynamic_shared_at + dynamic_shared;
        if shared > self.config.max_shared_optin() { Err(Status::LAUNCH_OUT_OF_RESOURCES) } else { Ok(()) }
    }

    /// Clusters along x, as many as the kernel says, of no more threads than a block may have.
    fn takes_clusters(&self, f: &Function, grid: [u32; 3], threads: u64) -> bool {
        match f.kernel.limits.reqnctapercluster {
            None | Some([1, 1, 1]) => true,
            Some([x, 1, 1]) => {
                self.config.compute_capability >= (9, 0)
                    && grid[0].is_multiple_of(x)
                    && threads * u64::from(x) <= 1024
            }
            Some(_) => false,
        }
    }

    unsafe fn launch(
        &mut self,
        function: Handle,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        stream: Handle,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
        manner: Manner,
    ) -> Outcome {
        let function = self.function(function)?;
        let stream = self.stream(stream)?;
        if self.streams[&stream].context != function.context {
            return Err(Status::INVALID_HANDLE);
        }
        self.check_launch(&function, grid, block, dynamic_shared)?;
        if manner.cooperative {
            let resident =
                self.occupancy(&function, block.iter().product(), dynamic_shared) * self.config.sm_count;
            if grid.iter().product::<u32>() > resident {
                return Err(Status::COOPERATIVE_LAUNCH_TOO_LARGE);
            }
        }
        let params = unsafe { gather(&function, params, extra)? };
        let launch = KernelLaunch { function, grid, block, dynamic_shared, params, manner };
        self.submit(stream, Operation::Kernel(Arc::new(launch))).map(drop)
    }
}

api! {
    fn cuLaunchKernel(
        d, function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared: c_uint, stream: Handle, params: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        d.launch(function, grid, block, shared, stream, params, extra, Manner::default())
    }

    fn cuLaunchCooperativeKernel(
        d, function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared: c_uint, stream: Handle, params: *mut *mut c_void,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let manner = Manner { cooperative: true, ..Manner::default() };
        d.launch(function, grid, block, shared, stream, params, std::ptr::null_mut(), manner)
    }

    fn cuLaunchKernelEx(
        d, config: *const Config, function: Handle, params: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        const COOPERATIVE: c_uint = 2;
        const CLUSTER_DIMENSION: c_uint = 4;
        const PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;
        let config = config.as_ref().ok_or(Status::INVALID_VALUE)?;
        let mut manner = Manner::default();
        for k in 0..config.count as usize {
            let attribute = &*config.attributes.add(k);
            match attribute.id {
                COOPERATIVE => manner.cooperative = attribute.value[0] != 0,
                PROGRAMMATIC_STREAM_SERIALIZATION => manner.overlaps = attribute.value[0] != 0,
                // One block a cluster is what a launch without clusters is.
                CLUSTER_DIMENSION if attribute.value[..3] != [1, 1, 1] => return Err(Status::NOT_SUPPORTED),
                _ => {} // priorities, cache carveouts: hints
            }
        }
        d.launch(function, config.grid, config.block, config.shared, config.stream, params, extra, manner)
    }
}
