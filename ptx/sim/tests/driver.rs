//! The stand-in driver behind cudarc's own code.

mod common;

use std::ffi::c_void;

use common::kernel;
use cudarc::driver::CudaContext;

const AXPY: &str = "
    ld.param.u64 %rd0, [p0];
    ld.param.u64 %rd1, [p1];
    ld.param.u32 %r0, [p2];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
    mad.lo.s32 %r1, %r1, %r2, %r3;
    setp.ge.u32 %p0, %r1, %r0;
    @%p0 bra DONE;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd0, %rd0, %rd2;
    add.s64 %rd1, %rd1, %rd2;
    ld.global.f32 %f0, [%rd0];
    ld.global.f32 %f1, [%rd1];
    fma.rn.f32 %f0, %f0, 0f40000000, %f1;
    st.global.f32 [%rd1], %f0;
DONE:";

#[test]
fn an_ordinary_cudarc_program() {
    ptx_sim::install();
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let n = 1000usize;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let x = stream.clone_htod(&x).unwrap();
    let mut y = stream.clone_htod(&vec![1f32; n]).unwrap();
    let ptx = kernel("sm_80", "7.0", 3, AXPY);
    common::assemble(&ptx);
    let function = unsafe {
        let text = std::ffi::CString::new(ptx).unwrap();
        let module = cudarc::driver::result::module::load_data(text.as_ptr().cast::<c_void>()).unwrap();
        cudarc::driver::result::module::get_function(module, c"k".to_owned()).unwrap()
    };
    ptx_sim::reset_counters();
    let mut params: [*mut c_void; 3] = [std::ptr::null_mut(); 3];
    let (xs, ys, n32) = {
        use cudarc::driver::{DevicePtr, DevicePtrMut};
        (x.device_ptr(&stream).0, y.device_ptr_mut(&stream).0, n as u64)
    };
    params[0] = std::ptr::from_ref(&xs).cast_mut().cast();
    params[1] = std::ptr::from_ref(&ys).cast_mut().cast();
    params[2] = std::ptr::from_ref(&n32).cast_mut().cast();
    unsafe {
        cudarc::driver::result::launch_kernel(
            function,
            (4, 1, 1),
            (256, 1, 1),
            0,
            stream.cu_stream(),
            &mut params,
        )
        .unwrap();
    }
    let result = stream.clone_dtoh(&y).unwrap();
    assert!(result.iter().enumerate().all(|(i, &y)| y == 2.0 * i as f32 + 1.0));
    let counters = ptx_sim::counters();
    let launch = &counters.launches[0];
    assert_eq!((launch.kernel.as_str(), launch.grid, launch.block), ("k", [4, 1, 1], [256, 1, 1]));
    assert_eq!(launch.stats.global_loads.bytes, 8 * n as u64);
    assert_eq!(launch.stats.global_loads.of_width(4), 2 * n as u64);
    assert_eq!(launch.stats.count("fma"), 32); // 1000 threads are 32 warps
}
