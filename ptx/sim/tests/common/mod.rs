//! A device for tests: a context of its own on the simulator, through cudarc, so that a fault ends nobody else's.

#![allow(dead_code)]

pub mod table;
pub mod vectors;

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;

use cudarc::driver::sys;
use ptx_sim::Fault;

pub struct Gpu {
    context: sys::CUcontext,
}

/// A launch: grid, block, dynamic shared memory.
#[derive(Clone, Copy)]
pub struct Shape(pub [u32; 3], pub [u32; 3], pub u32);

/// One dimension each.
pub fn shape(grid: u32, block: u32) -> Shape {
    Shape([grid, 1, 1], [block, 1, 1], 0)
}

pub fn check(result: sys::CUresult) {
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS, "{:?}", ptx_sim::last_fault());
}

pub fn stream(flags: u32) -> sys::CUstream {
    let mut stream = MaybeUninit::uninit();
    unsafe {
        check(sys::cuStreamCreate(stream.as_mut_ptr(), flags));
        stream.assume_init()
    }
}

pub fn event() -> sys::CUevent {
    let mut event = MaybeUninit::uninit();
    unsafe {
        check(sys::cuEventCreate(event.as_mut_ptr(), 0));
        event.assume_init()
    }
}

impl Gpu {
    pub fn new() -> Self {
        ptx_sim::install_simulator();
        unsafe {
            check(sys::cuInit(0));
            let mut context = MaybeUninit::uninit();
            check(sys::cuCtxCreate_v2(context.as_mut_ptr(), 0, 0));
            Self { context: context.assume_init() }
        }
    }

    pub fn alloc(&self, bytes: usize) -> u64 {
        let mut address = 0;
        unsafe { check(sys::cuMemAlloc_v2(&mut address, bytes)) };
        address
    }

    pub fn set_zero(&self, address: u64, bytes: usize) {
        unsafe { check(sys::cuMemsetD8_v2(address, 0, bytes)) };
    }

    pub fn upload<T: Copy>(&self, data: &[T]) -> u64 {
        let address = self.alloc(size_of_val(data));
        unsafe { check(sys::cuMemcpyHtoD_v2(address, data.as_ptr().cast(), size_of_val(data))) };
        address
    }

    pub fn download<T: Copy + Default>(&self, address: u64, len: usize) -> Vec<T> {
        let mut data = vec![T::default(); len];
        unsafe { check(sys::cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), address, len * size_of::<T>())) };
        data
    }

    pub fn function(&self, ptx: &str, name: &str) -> sys::CUfunction {
        assemble(ptx);
        let text = CString::new(ptx).unwrap();
        let name = CString::new(name).unwrap();
        let mut log = vec![0u8; 4096];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
        unsafe {
            let mut module = MaybeUninit::uninit();
            let result = sys::cuModuleLoadDataEx(
                module.as_mut_ptr(),
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            );
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
            assert_eq!(result, sys::CUresult::CUDA_SUCCESS, "{log}");
            let mut function = MaybeUninit::uninit();
            check(sys::cuModuleGetFunction(function.as_mut_ptr(), module.assume_init(), name.as_ptr()));
            function.assume_init()
        }
    }

    /// Launches and waits.
    pub fn try_launch(&self, function: sys::CUfunction, shape: Shape, params: &[u64]) -> Result<(), Fault> {
        let Shape([gx, gy, gz], [bx, by, bz], shared) = shape;
        let mut pointers: Vec<*mut c_void> =
            params.iter().map(|p| std::ptr::from_ref(p).cast_mut().cast()).collect();
        unsafe {
            if shared > 48 << 10 {
                let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                check(sys::cuFuncSetAttribute(function, attribute, shared as i32));
            }
            let null = std::ptr::null_mut();
            let params = pointers.as_mut_ptr();
            check(sys::cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, null, params, null.cast()));
            match sys::cuCtxSynchronize() {
                sys::CUresult::CUDA_SUCCESS => Ok(()),
                code => {
                    let fault = ptx_sim::last_fault().expect("a fault");
                    assert_eq!(code as u32, fault.code());
                    ptx_sim::clear_faults();
                    Err(fault)
                }
            }
        }
    }

    pub fn launch(&self, function: sys::CUfunction, shape: Shape, params: &[u64]) {
        if let Err(fault) = self.try_launch(function, shape, params) {
            panic!("{fault}");
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        unsafe { sys::cuCtxDestroy_v2(self.context) };
    }
}

/// With PTXAS_DIR set to a directory that holds `13.5/ptxas`: the text must be what the real assembler takes, too.
pub fn assemble(ptx: &str) {
    let Some(directory) = std::env::var_os("PTXAS_DIR") else { return };
    let target = ptx.split_once(".target").unwrap().1.split_whitespace().next().unwrap();
    let path = std::env::temp_dir().join(format!(
        "ptx-sim-{}-{:?}.ptx",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&path, ptx).unwrap();
    let output = std::process::Command::new(std::path::Path::new(&directory).join("13.5/ptxas"))
        .args(["-arch", target, "-o", "/dev/null"])
        .arg(&path)
        .output()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{}\n{ptx}", String::from_utf8_lossy(&output.stderr));
}

/// A module of one kernel `k` with up to `params` 64-bit parameters `p0`, `p1`, …; the body follows declarations of registers
/// `%p<8>`, `%h<16>`, `%r<64>`, `%f<32>`, `%rd<32>`, `%fd<8>`.
pub fn kernel(target: &str, version: &str, params: usize, body: &str) -> String {
    let params: Vec<String> = (0..params).map(|k| format!(".param .u64 p{k}")).collect();
    format!(
        ".version {version}\n.target {target}\n.address_size 64\n.visible .entry k({})\n{{\n\
         .reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<64>; .reg .f32 %f<32>; .reg .b64 %rd<32>; .reg .f64 %fd<8>;\n\
         {body}\nret;\n}}\n",
        params.join(", ")
    )
}
