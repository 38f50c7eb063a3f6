//! The roofline of what streams: the rate of a device copy, by the driver and by the plainest kernel there is.

use super::Result;
use super::data::Noise;
use super::device::{Gpu, Memory};
use super::timing::{self, Times};
use cudarc::driver::{result, sys};
use ptx_asm::{B32, Module, Reg, Target};
use qlora_kernels::DType;
use serde::Serialize;
use std::ffi::{CString, c_void};

/// Threads a block.
const THREADS: u32 = 256;
/// 16-byte accesses in flight a thread.
const UNROLLS: [u32; 4] = [1, 2, 4, 8];
/// The buffers are whole tiles of every kernel.
pub const GRANULE: usize = (16 * THREADS * UNROLLS[3]) as usize;
const REPETITIONS: usize = 20;

/// One way of copying.
#[derive(Clone, Debug, Serialize)]
pub struct Copy {
    pub name: String,
    /// Read and written.
    pub bytes: usize,
    pub times: Times,
    pub bytes_per_second: f64,
}

/// A way of copying `len` bytes between two addresses.
type Way<'a> = Box<dyn Fn(u64, u64) -> Result<()> + 'a>;

/// Checks that each way copies `len` bytes, a multiple of [`GRANULE`].
pub fn check(gpu: &Gpu, len: usize) -> Result<()> {
    let source = Noise::Weights.matrix(DType::F32, 1, len / 4, len / 4);
    for (name, way) in ways(gpu, len)? {
        let (from, to) = (gpu.upload(&source)?, gpu.allocate(len)?);
        way(address(gpu, &from), address(gpu, &to))?;
        if gpu.download(&to)?[..] != source[..] {
            return Err(format!("{name} copies wrongly").into());
        }
    }
    Ok(())
}

/// Checks and times the copy of about `bytes` bytes in each way.
pub fn rates(gpu: &Gpu, bytes: usize) -> Result<Vec<Copy>> {
    let len = (bytes / GRANULE).max(1) * GRANULE;
    check(gpu, len)?;
    let source = Noise::Weights.matrix(DType::F32, 1, len / 4, len / 4);
    let ways = ways(gpu, len)?;
    let sets = timing::sets(gpu, 2 * len);
    let buffers: Vec<(Memory, Memory)> =
        (0..sets).map(|_| Ok((gpu.upload(&source)?, gpu.allocate(len)?))).collect::<Result<_>>()?;
    let run = |way: &Way, set: usize| way(address(gpu, &buffers[set].0), address(gpu, &buffers[set].1));
    let time = |(name, way): (String, Way)| {
        let times = timing::repeat(gpu, sets, REPETITIONS, |set| run(&way, set))?;
        let bytes = 2 * len;
        Ok(Copy { name, bytes, times, bytes_per_second: bytes as f64 / times.median })
    };
    ways.into_iter().map(time).collect()
}

fn address(gpu: &Gpu, memory: &Memory) -> u64 {
    memory.address(gpu).addr() as u64
}

fn ways(gpu: &Gpu, len: usize) -> Result<Vec<(String, Way<'_>)>> {
    let stream = gpu.stream.cu_stream();
    // SAFETY: `rates` gives addresses of memory of that length.
    let driver: Way = Box::new(move |from, to| {
        unsafe { result::memcpy_dtod_async(to, from, len, stream)? };
        Ok(())
    });
    let mut ways = vec![("cuMemcpyDtoDAsync".to_string(), driver)];
    for unroll in UNROLLS {
        let kernel = std::rc::Rc::new(Kernel::load(unroll)?);
        let tiles = (len / (16 * THREADS * unroll) as usize) as u32;
        let resident = 8 * gpu.facts.multiprocessors as u32; // 8 blocks of 256 threads are the most an SM has room for
        for (grid, blocks) in [("8 blocks an SM", resident.min(tiles)), ("a block a tile", tiles)] {
            let kernel = kernel.clone();
            let way: Way = Box::new(move |from, to| kernel.launch(gpu, from, to, tiles, blocks));
            ways.push((format!("kernel, {unroll} x 16 bytes a thread, {grid}"), way));
        }
    }
    Ok(ways)
}

/// A copy kernel.
struct Kernel {
    module: sys::CUmodule,
    function: sys::CUfunction,
}

impl Kernel {
    fn load(unroll: u32) -> Result<Self> {
        let text = CString::new(ptx(unroll)?)?;
        // SAFETY: the text ends with a zero; the context is current on the thread that opened the GPU.
        let module = unsafe { result::module::load_data(text.as_ptr().cast())? };
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module, c"copy".into())? };
        Ok(Self { module, function })
    }

    fn launch(&self, gpu: &Gpu, from: u64, to: u64, tiles: u32, blocks: u32) -> Result<()> {
        let mut values = [from, to, u64::from(tiles)];
        let mut params: Vec<*mut c_void> =
            values.iter_mut().map(|value| (value as *mut u64).cast()).collect();
        // SAFETY: the parameters are those of `ptx`.
        unsafe {
            let (grid, block) = ((blocks, 1, 1), (THREADS, 1, 1));
            result::launch_kernel(self.function, grid, block, 0, gpu.stream.cu_stream(), &mut params)?;
        }
        Ok(())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: `rates` has waited for all launches.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// A block copies tile after tile, a grid apart; in a tile, each access of a warp is 512 consecutive bytes.
fn ptx(unroll: u32) -> Result<String> {
    let mut module = Module::new(Target::Sm75);
    module.kernel("copy", |k| {
        k.reqntid([THREADS, 1, 1]);
        let (from, to, tiles) = (k.param_ptr("from"), k.param_ptr("to"), k.param_u64("tiles"));
        let (tile, stride) = (k.cvt_u64_u32(k.ctaid_x()), k.cvt_u64_u32(k.nctaid_x()));
        let within = k.mul_wide_u32(k.tid_x(), 16);
        k.while_(
            || k.setp_lt_u64(tile, tiles),
            || {
                let start = k.mad_lo_u64(tile, u64::from(16 * THREADS * unroll), within);
                let (from, to) = (k.offset(from, start), k.offset(to, start));
                let apart = |u: u32| (16 * THREADS * u) as i32;
                let words: Vec<[Reg<B32>; 4]> =
                    (0..unroll).map(|u| k.ld_global_nc::<[B32; 4]>(from.at(apart(u)))).collect();
                for (u, words) in (0..).zip(words) {
                    k.st_global::<[B32; 4]>(to.at(apart(u)), words);
                }
                k.to(tile).add_u64(tile, stride);
            },
        );
    });
    Ok(module.to_ptx()?)
}
