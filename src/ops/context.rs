//! A device and what belongs to it.

use crate::cpu::Cpu;
use crate::cpu::simd::Simd;
use crate::error::{Result, ensure};

/// The most threads that a context can be given.
const MAX_THREADS: usize = 4096;

/// The kinds of device; the numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// The processor: threads and SIMD.
    Cpu = 0,
}

/// A device to run operations on. It may be shared between threads.
pub struct Context {
    pub(crate) device: Device,
}

pub(crate) enum Device {
    Cpu(Cpu),
}

impl Context {
    /// The processor, with its widest instruction set and one thread a core.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu(Cpu::new()) }
    }

    /// The processor, once for each instruction set that this library has code for and the machine has, the widest
    /// first. All give the same codes, constants and values; this is for tests and comparisons.
    pub fn cpu_variants() -> Vec<Self> {
        Simd::available().into_iter().map(|simd| Self { device: Device::Cpu(Cpu::with_simd(simd)) }).collect()
    }

    /// What the device is.
    pub fn device_kind(&self) -> DeviceKind {
        match self.device {
            Device::Cpu(_) => DeviceKind::Cpu,
        }
    }

    /// The code path in use: `portable`, `avx2` or `avx512`.
    pub fn instruction_set(&self) -> &'static str {
        match &self.device {
            Device::Cpu(cpu) => cpu.simd().name,
        }
    }

    /// Threads that an operation may use.
    pub fn threads(&self) -> usize {
        match &self.device {
            Device::Cpu(cpu) => cpu.threads().count(),
        }
    }

    /// Uses `count` threads from the next operation on. Workspace sizes depend on it: ask for them again.
    pub fn set_threads(&self, count: usize) -> Result<()> {
        ensure!((1..=MAX_THREADS).contains(&count), "threads is {count}; it must be from 1 to {MAX_THREADS}");
        match &self.device {
            Device::Cpu(cpu) => cpu.set_threads(count),
        }
        Ok(())
    }
}
